#!/bin/sh
# ctest: timeout=400 serial
# Resume changes nothing, however the run ended and on whatever stages it goes on; eval and generate agree with training
# on any number of stages.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

long="train.steps=12 train.eval_every=3 train.checkpoint_every=6"
# shellcheck disable=SC2086
train straight $long || { miss "the straight run"; cat straight.log; verdict; }

# Without snapshots the same run leaves none, and there is nothing to go on from.
# shellcheck disable=SC2086
train unsaved $long train.save=false || { miss "a run without snapshots"; cat unsaved.log; }
[ "$(losses unsaved)" = "$(losses straight)" ] || miss "without snapshots the losses are others"
ls -d unsaved/step-* 2>/dev/null && miss "train.save=false left snapshots"
# shellcheck disable=SC2086
train unsaved $long --resume && miss "went on from nothing"
grep -q 'holds no snapshot' unsaved.log || { miss "resume without snapshots"; cat unsaved.log; }

# Ends at a snapshot of its own accord, then goes on: here, on fewer stages and with other threads.
resumed() { # DIR deployment ...
    dir=$1
    shift
    # shellcheck disable=SC2086
    train "$dir" $long --resume "$@" || { miss "resume of $dir with $*"; cat "$dir.log"; return; }
    same straight "$dir"
}
halfway() {
    # shellcheck disable=SC2086
    train "$1" $long train.checkpoint_every=3 || { miss "$1"; cat "$1.log"; }
    rm -rf "$1/step-12"
}
halfway plain
[ -d plain/step-9 ] || miss "no snapshot of step 9"
resumed plain
halfway moved
resumed moved pipeline.stages=2 pipeline.schedule=gpipe pipeline.threads=2
halfway alone
resumed alone pipeline.stages=1

# Auxiliary losses fade out while the run is broken off.
plain_long=$long
long="$long boundary.aux=stream train.aux_until=0.9"
# shellcheck disable=SC2086
train straight-aux $long || { miss "the straight run with auxiliary losses"; cat straight-aux.log; }
halfway aux
# shellcheck disable=SC2086
train aux $long --resume pipeline.stages=2 || { miss "resume with auxiliary losses"; cat aux.log; }
same straight-aux aux
[ "$(grep -c aux_loss straight-aux/metrics.jsonl)" = 11 ] || miss "auxiliary losses in $(grep -c aux_loss straight-aux/metrics.jsonl) steps"
long=$plain_long

# A boundary's memory (error feedback), and weights held to a subspace that no checkpoint has.
for kind in topk subspace; do
    long="$plain_long boundary.kind=$kind"
    [ $kind = topk ] && long="$long boundary.feedback=gradient"
    # shellcheck disable=SC2086
    train "straight-$kind" $long || { miss "the straight run with $kind"; cat "straight-$kind.log"; }
    halfway "$kind"
    # shellcheck disable=SC2086
    train "$kind" $long --resume pipeline.stages=2 || { miss "resume with $kind"; cat "$kind.log"; }
    same "straight-$kind" "$kind"
    "$resbm" eval "straight-$kind" pipeline.stages=3 >eval.log 2>&1 || { miss "eval of $kind"; cat eval.log; }
    said=$(sed -n 's/.*"step":12,.*"val_loss":\([0-9.e+-]*\).*/\1/p' "straight-$kind/metrics.jsonl")
    grep -q "step 12  loss $said " eval.log || miss "eval of $kind says $(cat eval.log), the run $said"
    "$resbm" generate "straight-$kind" -p 'the slow ' -n 20 -t 0 pipeline.stages=2 >said.two 2>generate.log ||
        { miss "generate with $kind"; cat generate.log; }
    "$resbm" generate "straight-$kind" -p 'the slow ' -n 20 -t 0 pipeline.stages=1 >said.one 2>&1
    cmp -s said.one said.two || miss "generate with $kind says something else on one stage"
done
long=$plain_long

# Killed in the middle, coordinator and all: what was done after the snapshot is done again, the same.
kill_it() { # deployment ...: a run into "killed" that dies with its coordinator between snapshots
    # shellcheck disable=SC2086
    killed_at 5 12 killed $long train.checkpoint_every=2 "$@"
}
for deployment in pipeline.stages=4 pipeline.stages=3; do
    kill_it
    resumed killed "$deployment"
done

# Killed under each synchronous schedule, resumed under the same and under another (tests/asynchronous_test.sh has the others).
long="$plain_long train.batch=8 train.microbatches=4"
# shellcheck disable=SC2086
train straight-even $long || { miss "the straight run of four microbatches"; cat straight-even.log; }
mv straight straight-three && mv straight-even straight
"$resbm" schedule zbv --stages 2 --microbatches 4 --list >ours
for schedule in "pipeline.stages=4 pipeline.schedule=gpipe" "pipeline.stages=4 pipeline.schedule=zb-h1" \
    "pipeline.stages=2 pipeline.schedule=interleaved-1f1b" "pipeline.stages=2 pipeline.schedule=zbv" \
    "pipeline.stages=2 pipeline.schedule=file:ours"; do
    # shellcheck disable=SC2086
    kill_it $schedule
    cp -r killed other
    # shellcheck disable=SC2086
    resumed killed $schedule
    resumed other pipeline.stages=3
    rm -rf other
done
rm -rf straight && mv straight-three straight
long=$plain_long

# Eval says what the run said; so do eval and generate on any stages.
said=$(sed -n 's/.*"step":12,.*"val_loss":\([0-9.e+-]*\).*/\1/p' straight/metrics.jsonl)
[ -n "$said" ] || miss "the last step was not evaluated"
for n in 1 2 3 4; do
    "$resbm" eval straight pipeline.stages=$n >eval.log 2>&1 || { miss "eval on $n stages"; cat eval.log; }
    grep -q "step 12  loss $said " eval.log || miss "eval on $n stages says $(cat eval.log), the run $said"
    for how in "-t 0" "-t 1 -P 0.9 -S 5"; do
        # shellcheck disable=SC2086
        "$resbm" generate straight -p 'the slow ' -n 60 $how pipeline.stages=$n >"said.$n" 2>generate.log ||
            { miss "generate on $n stages"; cat generate.log; }
        [ "$n" = 1 ] && cp said.1 "first$(echo "$how" | tr -d ' ')"
        cmp -s "said.$n" "first$(echo "$how" | tr -d ' ')" || miss "generate $how on $n stages says something else"
    done
done
[ "$(wc -c <first-t0)" -gt 40 ] || miss "generate says nothing"
"$resbm" generate straight -p 'the slow ' -n 60 -t 1 -P 0.9 -S 6 >other-seed 2>/dev/null
cmp -s other-seed first-t1-P0.9-S5 && miss "another seed says the same"
verdict
