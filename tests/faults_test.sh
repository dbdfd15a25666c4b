#!/bin/sh
# ctest: timeout=300 serial
# Resuming changes nothing; evaluation and generation come out alike on any number of stages; and every fault ends in a
# sentence, a non-zero status, no orphans, and a snapshot to go on from.
set -eu
resbm=$RB_BINARY_DIR/resbm
rm -rf work && mkdir work && cd work
seq 1 60000 | awk '{print $1 * $1 " of the " $1 " parts, as Dr. Johnson has it, are said to be " $1 % 97}' >text
"$resbm" data --out corpus text >/dev/null
cat >run.yaml <<'Y'
model:    {d: 64, layers: 4, heads: 2, ffn: 96, vocab: 256, context: 32, segments: 4}
boundary: {kind: residual, ratio: 8}
data:     {train: "corpus/train-*.bin", val: "corpus/val-*.bin", tokenizer: bytes}
optim:    {warmup: 2, schedule: constant}
train:    {steps: 20, batch: 8, microbatches: 4, eval_every: 10, eval_sequences: 8, checkpoint_every: 10}
pipeline: {stages: 4, deadline: 3s}
Y
losses() { sed 's/"step_s.*//' "$1/metrics.jsonl"; }
hashes() { sed -n '/"files"/,$p' "$1/manifest.json" | grep -E '"(name|hash)"' | head -n -1; }
# fails STATUS PART COMMAND...: it must end with this status and say PART on standard error
fails() {
    status=$1 part=$2
    shift 2
    got=0
    timeout 60 "$@" >out.log 2>err.log || got=$?
    [ "$got" = "$status" ] || { echo "status $got, not $status: $*"; cat err.log; exit 1; }
    grep -q -- "$part" err.log || { echo "\"$part\" is missing in: $(cat err.log)"; exit 1; }
}
stage_pids() { pgrep -P "$1" || true; }
# wait until the run in DIR has done STEP steps
reach() {
    for _ in $(seq 1 300); do
        [ -f "$1/metrics.jsonl" ] && [ "$(wc -l <"$1/metrics.jsonl")" -ge "$2" ] && return 0
        sleep 0.1
    done
    echo "$1 did not reach step $2"
    exit 1
}
no_orphans() {
    for pid in $1; do
        for _ in $(seq 1 50); do
            { [ -d "/proc/$pid" ] && ! grep -q 'State:.Z' "/proc/$pid/status" 2>/dev/null; } || continue 2
            sleep 0.1
        done
        echo "process $pid is still there"
        exit 1
    done
}

# --- resuming: bit for bit, also on another number of stages
"$resbm" train run.yaml --quiet --out whole >/dev/null 2>&1
"$resbm" train run.yaml --quiet --out half train.steps=10 >/dev/null 2>&1
cp -r half other
"$resbm" train run.yaml --quiet --out half --resume >/dev/null 2>&1
"$resbm" train run.yaml --quiet --out other --resume pipeline.stages=2 pipeline.schedule=gpipe >/dev/null 2>&1
for d in half other; do
    losses whole >a && losses $d >b && cmp a b
    hashes whole/step-20 >a && hashes $d/step-20 >b && cmp a b
done

# --- evaluation equals the run's own, generation is the same on every number of stages
want=$(sed -n 's/.*"val_loss":\([0-9.]*\).*/\1/p' whole/metrics.jsonl | tail -1)
for stages in 1 2 3 4; do
    "$resbm" eval whole pipeline.stages=$stages | grep -q "loss $want " || { echo "eval on $stages stages"; exit 1; }
    "$resbm" generate whole --prompt "The parts" --tokens 40 pipeline.stages=$stages >text-$stages
    cmp text-1 text-$stages
done
[ "$(wc -c <text-1)" -gt 45 ]

# --- a stage is killed in mid-step
"$resbm" train run.yaml --quiet --out killed train.steps=100000 2>err.log >/dev/null &
run=$!
reach killed 15
pids=$(stage_pids $run)
kill -9 "$(echo "$pids" | sed -n 3p)"
got=0
wait $run || got=$?
[ "$got" = 1 ]
grep -q "killed by signal 9.*step.*step-[0-9]*: go on with --resume" err.log || { cat err.log; exit 1; }
no_orphans "$pids"
"$resbm" train run.yaml --quiet --out killed --resume train.steps=20 >/dev/null 2>&1
losses whole >a && losses killed >b && cmp a b

# --- a stage stalls past the deadline: no hang, and who waited for what
"$resbm" train run.yaml --quiet --out stalled train.steps=100000 2>err.log >/dev/null &
run=$!
reach stalled 12
pids=$(stage_pids $run)
kill -STOP "$(echo "$pids" | sed -n 2p)"
got=0
wait $run || got=$?
[ "$got" = 1 ]
grep -q "waited .*for the .* of boundary [01], microbatch [0-3], step" err.log || { cat err.log; exit 1; }
no_orphans "$pids"

# --- Ctrl-C: a snapshot first, then on
"$resbm" train run.yaml --quiet --out stopped train.steps=100000 2>err.log >/dev/null &
run=$!
reach stopped 12
pids=$(stage_pids $run)
kill -INT $run
got=0
wait $run || got=$?
[ "$got" = 130 ]
grep -q "stopped on request.*--resume" err.log
no_orphans "$pids"
last=$(ls -d stopped/step-* | sed 's/.*-//' | sort -n | tail -1)
[ "$last" = "$(wc -l <stopped/metrics.jsonl)" ]

# --- the coordinator dies: no stage survives it
"$resbm" train run.yaml --quiet --out orphans train.steps=100000 2>err.log >/dev/null &
run=$!
reach orphans 3
pids=$(stage_pids $run)
kill -9 $run
wait $run || true
no_orphans "$pids"

# --- not finite: the step and the first tensor
fails 1 "step .* is not finite.*first in .*model\.\|not finite" "$resbm" train run.yaml --quiet --out nan optim.lr=100 \
    optim.adamw_lr=100 optim.clip=0

# --- a damaged snapshot is named, the one before is used
cp -r whole damaged
printf 'x' | dd of=damaged/step-20/segment-1.safetensors bs=1 seek=300 conv=notrunc 2>/dev/null
"$resbm" train run.yaml --quiet --out damaged --resume >out.log 2>err.log
grep -q "step-20.*segment-1.safetensors" err.log && grep -q "resumed after step 10" err.log
losses whole >a && losses damaged >b && cmp a b

# --- wrong input, each with its remedy
fails 1 "ratio" "$resbm" train run.yaml --out x boundary.ratio=100
fails 1 "lerning_rate\|did you mean\|nearest" "$resbm" train run.yaml --out x optim.lerning_rate=1
fails 1 "stages" "$resbm" train run.yaml --out x pipeline.stages=9
fails 1 "resbm data" "$resbm" train run.yaml --out x 'data.train=nothing-*.bin'
fails 1 "vocabulary has 60" "$resbm" train run.yaml --out x model.vocab=60
fails 1 "already holds a run" "$resbm" train run.yaml --out whole
fails 1 "no snapshot" "$resbm" train run.yaml --out empty --resume
head -c 2000 "$(ls corpus/train-*.bin | head -1)" >cut.bin
fails 1 "cut.bin.*truncated" "$resbm" train run.yaml --out x data.train=cut.bin
fails 1 "cannot make\|cannot" "$resbm" train run.yaml --out /proc/none
fails 2 "no command" "$resbm" trian

# --- a full disk: the sentence names the path, the earlier snapshot stays whole
if [ "$(id -u)" = 0 ] && mkdir -p small && mount -t tmpfs -o size=2500k tmpfs small 2>/dev/null; then
    trap 'umount small 2>/dev/null || true' EXIT
    fails 1 "No space left.*step-\|small/.*No space left" "$resbm" train run.yaml --quiet --out small/run train.keep=9 train.checkpoint_every=1
    "$resbm" eval small/run | grep -q loss
    umount small
    trap - EXIT
else
    echo "full disk: not tried (no permission to mount a small file system)"
fi
echo "faults end in sentences"
