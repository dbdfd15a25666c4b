#!/bin/sh
# ctest: timeout=400 serial
# Splitting changes nothing: any number of stages and threads, both schedules, every codec, boundary, identity and token
# path, unequal segments, shared data or ids over the wire, recomputation, Unix sockets or TCP: the losses of
# metrics.jsonl are equal as text, and every file of the snapshot has the same hash.
set -eu
resbm=$RB_BINARY_DIR/resbm
rm -rf work && mkdir work && cd work
seq 1 60000 | awk '{print $1 * $1 " of the " $1 " parts, as Dr. Johnson has it, are said to be " $1 % 97}' >text
"$resbm" data --out corpus text >/dev/null

cat >run.yaml <<'Y'
model:    {d: 128, layers: 5, heads: 4, kv_heads: 2, ffn: 192, vocab: 256, context: 32, segments: 4}
boundary: {kind: residual, ratio: 16}
data:     {train: "corpus/train-*.bin", val: "corpus/val-*.bin", tokenizer: bytes}
optim:    {warmup: 2, clip: 1.0, schedule: cosine}
train:    {steps: 4, batch: 8, microbatches: 4, eval_every: 2, eval_sequences: 8, checkpoint_every: 0}
Y

# losses DIR: the columns that must be equal, and the hashes of the snapshot's files.
result() {
    sed 's/"step_s.*"wire_bytes_fwd.*//' "$1/metrics.jsonl"
    sed -n '/"files"/,$p' "$1"/step-*/manifest.json | grep -E '"(name|bytes)"|^ *"hash"' | head -n -1
}
# run NAME OVERRIDES...
run() {
    name=$1
    shift
    rm -rf "$name"
    "$resbm" train run.yaml --quiet --out "$name" "$@" >"$name.log" 2>&1 || { cat "$name.log"; exit 1; }
    result "$name" >"$name.txt"
    [ "$(grep -c '"loss"' "$name.txt")" -ge 1 ] && [ "$(grep -c hash "$name.txt")" -ge 1 ]
}
# same WHAT DEPLOYMENT... -- MODEL...: one stage against this deployment of the same model
count=0
same() {
    deployment=
    while [ "$1" != -- ]; do deployment="$deployment $1"; shift; done
    shift
    run one pipeline.stages=1 pipeline.threads=1 "$@"
    # shellcheck disable=SC2086
    run many $deployment "$@"
    cmp -s one.txt many.txt || { echo "differs:$deployment -- $*"; diff one.txt many.txt | head -5; exit 1; }
    count=$((count + 1))
}

for stages in 2 3 4; do same pipeline.stages=$stages --; done
same pipeline.stages=1 pipeline.threads=2 --
same pipeline.stages=2 pipeline.threads=3 --
same pipeline.stages=4 pipeline.schedule=gpipe --
same pipeline.stages=3 pipeline.schedule=1f1b -- train.recompute=true
same pipeline.stages=4 pipeline.transport=tcp --
same pipeline.stages=4 data.distribute=wire -- boundary.tokens=embedding
same pipeline.stages=2 pipeline.inflight=3 -- boundary.tokens=trunk
same pipeline.stages=4 link.up=50mbit link.down=50mbit link.latency=1ms --
for codec in f32 bf16 int8 int4; do
    same pipeline.stages=4 -- boundary.codec_fwd=$codec boundary.codec_bwd=$codec
    same pipeline.stages=2 -- boundary.kind=none boundary.codec_fwd=$codec boundary.codec_bwd=$codec
done
for identity in split full none; do
    same pipeline.stages=4 -- boundary.identity=$identity boundary.identity_width=2 boundary.ratio=8
done
same pipeline.stages=4 -- boundary.kind=linear boundary.scale_fwd=token
same pipeline.stages=4 -- 'model.segments=[2,1,1,1]' optim.kind=adamw optim.clip_scope=segment
same pipeline.stages=4 -- train.microbatches=2 # fewer microbatches than stages
same pipeline.stages=4 -- model.d=256 model.ffn=320 train.steps=3 optim.warmup=1
same pipeline.stages=4 pipeline.threads=2 -- model.d=1024 model.ffn=512 model.layers=4 model.heads=8 train.steps=2 \
    train.eval_every=0 optim.warmup=1 boundary.ratio=128

# recomputation changes no bit; another count of microbatches agrees within 1e-6
run plain
run again train.recompute=true
cmp plain.txt again.txt
run halves train.microbatches=2 boundary.codec_fwd=f32 boundary.codec_bwd=f32 train.steps=1 optim.warmup=1
run quarters train.microbatches=4 boundary.codec_fwd=f32 boundary.codec_bwd=f32 train.steps=1 optim.warmup=1
for f in halves quarters; do sed -n 's/.*"loss":\([0-9.e+-]*\).*/\1/p' $f.txt | head -1; done |
    awk '{x[NR] = $1} END {d = (x[1] - x[2]) / x[1]; exit !(d * d < 1e-12)}'

# the wire at d 1024, k 8, int4, a microbatch of 1024 tokens: at most 4.5 bytes a token each way
run wide model.d=1024 model.ffn=256 model.layers=2 model.segments=2 model.heads=8 model.context=128 train.batch=16 \
    train.microbatches=2 train.steps=1 train.eval_every=0 optim.warmup=1 boundary.ratio=128 pipeline.stages=2 \
    boundary.codec_fwd=int4 boundary.codec_bwd=int4
for way in fwd bwd; do
    sed -n "s/.*bytes_per_token_$way\": *\([0-9.]*\).*/\1/p" wide/summary.json | awk -v way=$way '
        {print "bytes per token " way ": " $1; exit !($1 > 4 && $1 <= 4.5)}'
done
echo "$count deployments equal to one stage, bit for bit"
