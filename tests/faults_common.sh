#!/bin/sh
# shellcheck disable=SC2154,SC2034 # resbm is of run_common.sh, status is the callers'
# For tests of faults in whole runs: sourced, not run, after run_common.sh, make_corpus and make_config.
trap 'for p in ${pid:-} ${family:-}; do kill -CONT "$p"; kill -KILL "$p"; done 2>/dev/null' EXIT
stages=4

# 400 steps with snapshots; slow enough links that there is always a middle of a step.
long="train.steps=400 train.checkpoint_every=4 train.eval_every=0 link.latency=20ms pipeline.deadline=$((20 * patience))s
    optim.schedule=constant"

# launch DIR ...: a run of $stages stages in a session of its own, once it is past step 4. Sets pid and family (all it
# has started). Where a deadline of a second or two passed before there was any fault, because this machine stood still, it is made again
# with a longer one; slack is what its end may then take.
launch() {
    dir=$1
    shift
    slack=0
    for longer in "" pipeline.deadline=$((10 * patience))s; do
        rm -rf "$dir"
        # shellcheck disable=SC2086
        setsid "$resbm" train -q run.yaml --out "$dir" $long "$@" $longer >"$dir.log" 2>&1 &
        pid=$!
        within 30 "grep -q '\"step\":5,' '$dir/metrics.jsonl' 2>/dev/null || ! kill -0 $pid 2>/dev/null"
        if ! grep -q '"step":5,' "$dir/metrics.jsonl" 2>/dev/null && grep -q "waited [0-9.]* s for" "$dir.log"; then
            wait $pid
            slack=20
        else
            break
        fi
    done
    grep -q '"step":5,' "$dir/metrics.jsonl" 2>/dev/null || { miss "$dir did not come to step 5"; cat "$dir.log"; }
    family=$(pgrep -s $pid | grep -v "^$pid\$")
    # A fault of the network may have ended it already: then its log says so.
    [ "$(pgrep -s $pid -f '^[^ ]*resbm stage' | wc -l)" = "$stages" ] || grep -q '^resbm: ' "$dir.log" || { miss "$dir has not $stages stages"; cat "$dir.log"; }
}
stage() { pgrep -s $pid -f -- "^[^ ]*resbm stage .*--stage $1 "; }

# ends DIR SECONDS: waits for the run; sets status. Nothing of it may live on.
ends() {
    if ! within $(($2 + slack)) "! kill -0 $pid 2>/dev/null"; then
        miss "$1 hangs after $((($2 + slack) * patience)) s"
        kill -KILL $pid
    fi
    wait $pid 2>/dev/null
    status=$?
    gone "$1"
}
living() { for p in $family; do kill -0 "$p" 2>/dev/null && echo "$p"; done; }
gone() { within 20 '[ -z "$(living)" ]' || miss "$1 leaves processes: $(living)"; }
says() { grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 4 "$1"; }; }

# goes_on DIR: the newest snapshot is whole, and training goes on from it with the losses of an undisturbed run.
rm -rf straight
"$resbm" train -q run.yaml --out straight train.steps=60 train.checkpoint_every=0 train.eval_every=0 optim.schedule=constant \
    >straight.log 2>&1 || { miss straight; cat straight.log; }
goes_on() {
    at=$(sed -n '$s/.*"step":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl")
    at=$((at + 2))
    # shellcheck disable=SC2086
    "$resbm" train -q run.yaml --out "$1" $long link.latency=0ms train.steps=$at --resume >"$1.log" 2>&1 ||
        { miss "$1 does not go on"; cat "$1.log"; return; }
    [ $at -le 60 ] || return
    losses "$1" | sed 's/,"val_loss.*//; s/,"lr.*//' >a.losses
    losses straight | sed 's/,"val_loss.*//; s/,"lr.*//' | head -n $at >b.losses
    cmp -s a.losses b.losses || { miss "$1 went on with other losses"; diff a.losses b.losses | head -n 4; }
}
