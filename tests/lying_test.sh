#!/bin/sh
# ctest: timeout=200
# shellcheck disable=SC2086 # settings are words
# Participants that send numbers that are none, far too large or made up, or files that are not what they say (tests/liar.c): each is named,
# not the one that got them, another one takes its place, and the run has the bits of the local engine. One that sends everything twice
# changes nothing. A run whose own settings make its numbers none ends, with step and tensor, and holds that against nobody.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
. "$RB_SOURCE_DIR/tests/liar_common.sh"
[ -x "$RB_BINARY_DIR/liar" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
pids='' was='' again='' # settings of the last reference; who sends everything twice
trap 'kill -KILL $pids 2>/dev/null' EXIT

# lie WHAT "PATTERN OF WHAT THE HOST SAYS" HONEST [settings]: so many honest ones and the liar begin, one more comes when it was named.
lie() {
    what=$1 named=$2 honest=$3 begun=$(now_ms)
    shift 3
    common="train.steps=14 train.checkpoint_every=7 optim.schedule=constant optim.lr=0.001 $*"
    [ "$common" = "$was" ] || train local $common || { miss "local, for $what"; cat local.log; }
    was=$common
    rm -rf run guest* liar* host.log # what it said before is not to be waited for
    "$resbm" host run.yaml --listen 127.0.0.1:0 --out run $common >host.log 2>&1 &
    host=$!
    pids="$pids $host"
    wait_for host.log "resbm join INVITATION" 20
    RB_LIE=$what join liar liar
    liar=$!
    for n in $(seq "$honest"); do
        if [ "$again" = "guest$n" ]; then RB_LIE="again 0" join liar "guest$n"; else join resbm "guest$n"; fi
    done
    wait_for host.log "$named" 40
    join resbm guest_spare
    finish "$what: "
    echo "  $what: $(($(now_ms) - begun)) ms"
    ! grep -E "guest[0-9_spare]*\"?\)? (was )?cut off|not finite: first in" host.log || miss "$what: an honest one is blamed"
}

# Beside the others: most of its time is waiting.
diverge() {
    mkdir -p wild && cd wild || exit 1
    members=
    common="pipeline.stages=2 train.steps=6 optim.schedule=constant optim.kind=adamw optim.clip=0"
    "$resbm" host ../run.yaml --listen 127.0.0.1:0 --out run data.train='../corpus/train-*.bin' data.val='../corpus/val-*.bin' $common optim.lr=100 >host.log 2>&1 &
    host=$!
    trap 'kill -KILL $host $members 2>/dev/null' EXIT
    wait_for host.log "resbm join INVITATION" 20
    for n in 1 2; do
        mkdir -p "guest$n"
        (cd "guest$n" && exec env OMP_NUM_THREADS=1 "$resbm" join ../run/invitation --dir own --name "guest$n") >"guest$n.log" 2>&1 &
        members="$members $!"
    done
    within 120 "! kill -0 $host 2>/dev/null" || miss "diverging: the host does not end"
    wait $host && miss "diverging: the host ended well"
    grep -Eq "^resbm: [0-9]+ times in a row without a step: .*step [0-9]+ (is not finite: first in|diverges: the) [a-z].* on stage [01]" host.log || miss "diverging: step and tensor are not named"
    grep "cut off" host.log && miss "diverging: somebody is cut off"
    mv host.log wild.log
    "$resbm" host ../run.yaml --listen 127.0.0.1:0 --out run data.train='../corpus/train-*.bin' data.val='../corpus/val-*.bin' $common optim.lr=0.001 >host.log 2>&1 &
    host=$!
    within 60 "! kill -0 $host 2>/dev/null" || miss "diverging: with a smaller rate the host does not end"
    wait $host || { miss "diverging: with a smaller rate the host ended with $?"; tail -n 5 host.log; }
    for p in $members; do within 20 "! kill -0 $p 2>/dev/null" || miss "diverging: a participant does not end"; done
    [ $failures = 0 ] || { cat wild.log host.log guest?.log; exit 1; }
}
(diverge) >wild.out 2>&1 &
wild=$!
trap 'kill $wild 2>/dev/null; kill -KILL $pids 2>/dev/null' EXIT

lie "codes 0" "stage [01],.* stage [01] sent (activations|gradients) of boundary [0-9], step 0, microbatch [0-9], that are not finite" 1 pipeline.stages=2
lie "sumsq 0" "stage [01] sent a sum of squares of -1 for [a-z_.0-9]+, step 0" 1 pipeline.stages=2
again=guest1
lie "hash 0" "is cut off: stage [01].* came with the hash [0-9a-f]+, 0123456789abcdef0123456789abcdef was announced" 1 pipeline.stages=2
[ "$(grep -c "that came twice was dropped" liar.log)" -gt 20 ] || miss "no frame that came twice is dropped"
grep -m 1 "was let in" liar.log && miss "a frame of an epoch before is taken"
again=
raw="boundary.codec_fwd=bf16 boundary.codec_bwd=bf16"
lie "large 36" "sent (activations|gradients) of boundary .*, step 1[0-9], microbatch [0-9], whose norm is [0-9.e+]+, [0-9.e+]+ times what it was so far" 1 pipeline.stages=2 $raw
lie "part 0" "stage 0( replica 1)? sent gradients, step 0, that are not finite" 1 pipeline.stages=1 pipeline.replicas=2 pipeline.deal=even
lie "count 0" "sent a count of 9223372036854775807, step 0, that can be 0 to" 3 pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even
wait $wild || { miss "a run that diverges"; cat wild.out; }
verdict
