#!/bin/sh
# ctest: timeout=200
# shellcheck disable=SC2086 # settings are words
# Participants that send numbers that are none, far too large or made up (tests/liar.c): each is named, not the one that got them, another
# one takes its place, and the run has the bits of the local engine.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -x "$RB_BINARY_DIR/liar" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
pids=
trap 'kill -KILL $pids 2>/dev/null' EXIT
join() { # PROGRAM NAME
    mkdir -p "$2"
    (cd "$2" && exec env OMP_NUM_THREADS=1 "$RB_BINARY_DIR/$1" join ../run/invitation --dir own --name "$2") >>"$2.log" 2>&1 &
    pids="$pids $!"
}

# lie WHAT "PATTERN OF WHAT THE HOST SAYS" HONEST [settings]: so many honest ones and the liar begin, one more comes when it was named.
lie() {
    what=$1 named=$2 honest=$3 begun=$(now_ms)
    shift 3
    common="train.steps=14 train.checkpoint_every=7 optim.schedule=constant optim.lr=0.001 $*"
    train local $common || { miss "local, for $what"; cat local.log; }
    rm -rf run guest* liar* host.log # what it said before is not to be waited for
    "$resbm" host run.yaml --listen 127.0.0.1:0 --out run $common >host.log 2>&1 &
    host=$!
    pids="$pids $host"
    wait_for host.log "resbm join INVITATION" 20
    RB_LIE=$what join liar liar
    liar=$!
    for n in $(seq "$honest"); do join resbm "guest$n"; done
    wait_for host.log "$named" 40
    join resbm guest_spare
    within 60 "! kill -0 $host 2>/dev/null" || { miss "$what: the host does not end"; tail -n 5 host.log; }
    wait $host || { miss "$what: the host ended with $?"; tail -n 5 host.log; }
    kill -KILL $liar # one that was cut off asks in vain for long
    for p in $pids; do within 20 "! kill -0 $p 2>/dev/null" || miss "$what: a participant does not end"; done
    pids=
    same local run
    echo "  $what: $(($(now_ms) - begun)) ms"
    ! grep -E "guest[0-9_spare]*\"?\)? (was )?cut off|not finite: first in" host.log || miss "$what: an honest one is blamed"
}

lie "codes 0" "stage [01],.* stage [01] sent (activations|gradients) of boundary [0-9], step 0, microbatch [0-9], that are not finite" 1 pipeline.stages=2
raw="boundary.codec_fwd=bf16 boundary.codec_bwd=bf16"
lie "large 36" "sent (activations|gradients) of boundary .*, step 1[0-9], microbatch [0-9], whose norm is [0-9.e+]+, [0-9.e+]+ times what it was so far" 1 pipeline.stages=2 $raw
lie "part 0" "stage 0( replica 1)? sent gradients, step 0, that are not finite" 1 pipeline.stages=1 pipeline.replicas=2 pipeline.deal=even
lie "count 0" "sent a count of 9223372036854775807, step 0, that can be 0 to" 3 pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even
lie "sumsq 0" "stage [01] sent a sum of squares of -1 for [a-z_.0-9]+, step 0" 1 pipeline.stages=2
verdict
