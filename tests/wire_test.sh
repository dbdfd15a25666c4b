#!/bin/sh
# ctest: timeout=120
# The wire at d 1024, k 8, int4, a microbatch of 1024 tokens: at most 4.5 bytes a token each way, headers included.
set -eu
resbm=$RB_BINARY_DIR/resbm
rm -rf work && mkdir work && cd work
seq 1 60000 | awk '{print $1 * $1 " of the " $1 " parts, as Dr. Johnson has it, are said to be " $1 % 97}' >text
"$resbm" data --out corpus text >/dev/null

cat >run.yaml <<'Y'
model:    {d: 1024, layers: 2, heads: 8, ffn: 256, vocab: 256, context: 128, segments: 2}
boundary: {kind: residual, ratio: 128, codec_fwd: int4, codec_bwd: int4}
data:     {train: "corpus/train-*.bin", tokenizer: bytes}
optim:    {warmup: 1, schedule: constant}
train:    {steps: 1, batch: 16, microbatches: 2, eval_every: 0, checkpoint_every: 0}
pipeline: {stages: 2}
Y
"$resbm" train run.yaml --quiet --out wide >log 2>&1 || { cat log; exit 1; }
for way in fwd bwd; do
    sed -n "s/.*bytes_per_token_$way\": *\([0-9.]*\).*/\1/p" wide/summary.json | awk -v way=$way '
        {print "bytes per token " way ": " $1; exit !($1 > 4 && $1 <= 4.5)}'
done
