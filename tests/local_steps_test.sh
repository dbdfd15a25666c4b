#!/bin/sh
# ctest: timeout=240 serial
# shellcheck disable=SC2086,SC2154 # settings are words; resbm is of run_common.sh
# Local steps of replicas with an outer Nesterov update: against plain arithmetic (local_steps.py); with states of each replica and the
# outer momentum in the snapshots, so that a run resumes bit for bit; what cannot go together is refused.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
python3 "$RB_SOURCE_DIR/tests/local_steps.py" "$resbm" || miss "not what plain arithmetic gives"

local="pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even train.microbatches=4 train.batch=8 optim.local_steps=2 train.steps=8
    train.eval_every=4 train.checkpoint_every=4 train.keep=9"
train whole $local || { miss whole; cat whole.log; }
train part $local || { miss part; cat part.log; }
same whole part
[ -f whole/step-8/segment-0.replica-1.optim.safetensors ] && [ -f whole/step-8/segment-0.outer.safetensors ] ||
    { miss "no states of the second replica, or no momentum"; ls whole/step-8; }
rm -rf part/step-8
train part $local --resume || { miss "part, resumed"; cat part.log; }
same whole part
# Other ways of the same bits: threads, TCP, a schedule with halves, states on disk.
train tcp $local pipeline.transport=tcp pipeline.threads=2 pipeline.schedule=zb-h1 optim.offload=disk || { miss tcp; cat tcp.log; }
same whole tcp

# Fewer bytes between replicas: once in two steps.
train each $local optim.local_steps=none || { miss each; cat each.log; }
sync() { grep -o '"sync": [0-9]*' "$1/summary.json" | awk '{ s += $2 } END { print s }'; }
awk -v a="$(sync each)" -v b="$(sync whole)" 'BEGIN { exit !(b > 0.45 * a && b < 0.55 * a) }' ||
    miss "local steps send $(sync whole) bytes between replicas, sums at each step $(sync each)"
train eight $local pipeline.replica_codec=int8 || { miss eight; cat eight.log; }
awk -v a="$(sync whole)" -v b="$(sync eight)" 'BEGIN { exit !(b > 0 && b < 0.3 * a) }' || miss "int8 sends $(sync eight) bytes of $(sync whole)"

# Begun with two, ended with one, and with sums at each step.
for way in "pipeline.replicas=1" "optim.local_steps=none"; do
    rm -rf moved && cp -r whole moved && rm -rf moved/step-8
    train moved $local $way --resume || { miss "moved to $way"; cat moved.log; }
done
# Stopped within a round: the round ends there.
train stopped $local optim.local_steps=1000000 train.checkpoint_every=0 train.steps=1000000 train.eval_every=0 train.max_seconds=0.3
grep -q "stopped within a round of local steps" stopped.log || { miss "does not say that a round was cut short"; cat stopped.log; }
"$resbm" eval whole >eval.log 2>&1 || { miss eval; cat eval.log; }

refused() {
    what=$1
    shift
    train refused $local "$@" && miss "$what is taken"
    grep -q -- "$what" refused.log || { miss "does not say '$what'"; cat refused.log; }
}
refused "checkpoint_every = 3 is no multiple of optim.local_steps = 2" train.checkpoint_every=3
refused "eval_every = 3 is no multiple of optim.local_steps = 2" train.eval_every=3
refused "stage 0 has 1 replicas and stage 1 has 2" 'pipeline.replicas=[1,2]'
refused "updates at the end of a step" pipeline.replicas=1 pipeline.schedule=pipedream optim.clip=0
verdict
