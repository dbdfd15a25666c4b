#!/bin/sh
# ctest: timeout=120
# The bytes that a run reports are those of its frames, one by one, and few enough.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

# What crosses a boundary at d 1024, k 8, int4 and microbatches of 1024 tokens, byte for byte: a frame of 56 bytes, half
# a byte a value, and backward a scale of 2 bytes for every 64 values. More than 4.5 bytes a token is too much.
train wide model.d=1024 model.ffn=256 model.layers=2 model.segments=2 model.heads=8 model.context=128 train.batch=16 \
    train.microbatches=2 train.steps=2 train.eval_every=0 train.eval_sequences=1 optim.warmup=1 optim.kind=adamw \
    boundary.ratio=128 pipeline.stages=2 || { miss wide; cat wide.log; }
is() { awk -v a="$2" -v b="$3" 'BEGIN { exit !(a != "" && a - b < 1e-9 * b && b - a < 1e-9 * b) }' || miss "$1: $2, not $3"; }
is "bytes per token forward" "$(number wide bytes_per_token_fwd)" "$(awk 'BEGIN { printf "%.7f", (56 + 4096) / 1024 }')"
is "bytes per token backward" "$(number wide bytes_per_token_bwd)" "$(awk 'BEGIN { printf "%.7f", (56 + 4096 + 256) / 1024 }')"
for way in fwd bwd; do
    number wide bytes_per_token_$way | awk '{ exit !($1 > 4 && $1 <= 4.5) }' || miss "more than 4.5 bytes per token $way"
done
grep -q '"wire_bytes_fwd":8304,"wire_bytes_bwd":8816' wide/metrics.jsonl || miss "the bytes of a step are not those of its frames"
# Token ids, where they travel, are one byte each at this vocabulary, and the label after the last.
train ids data.distribute=wire || { miss ids; cat ids.log; }
train plain || miss plain
wire() { sed -n '$s/.*"wire_bytes_fwd":\([0-9]*\),.*/\1/p' "$1/metrics.jsonl"; }
is "bytes of token ids of a step" $(($(wire ids) - $(wire plain))) $((3 * 6 * 33))
verdict
