#!/bin/sh
# shellcheck disable=SC2154,SC2034 # resbm is of run_common.sh; pids, host and liar are the test's
# For tests of hosted runs in which a participant lies (tests/liar.c): sourced, not run, after run_common.sh. $pids: all that run, $host and
# $liar among them.
join() { # PROGRAM NAME
    mkdir -p "$2"
    (cd "$2" && exec env OMP_NUM_THREADS=1 "$RB_BINARY_DIR/$1" join ../run/invitation --dir own --name "$2") >>"$2.log" 2>&1 &
    pids="$pids $!"
}

# finish [PREFIX]: host and participants end well by themselves, but for the liar; the run has the bits of the local engine.
finish() {
    within 60 "! kill -0 $host 2>/dev/null" || { miss "${1:-}the host does not end"; tail -n 5 host.log; }
    wait "$host" || { miss "${1:-}the host ended with $?"; tail -n 5 host.log; }
    kill -KILL "$liar" 2>/dev/null # one that was cut off asks in vain for long
    for p in $pids; do within 20 "! kill -0 $p 2>/dev/null" || miss "${1:-}a participant does not end"; done
    pids=
    same local run
}
