#!/bin/sh
# ctest: timeout=180
# A model whose training state is twice a memory limit trains with offload, and does not without: RLIMIT_DATA of a stage is
# half of what weights, gradients and AdamW's states take.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
command -v prlimit >/dev/null || { echo "no prlimit (util-linux) to limit memory with"; exit 77; }
make_corpus
cat >run.yaml <<'YAML'
model:    {d: 512, layers: 10, heads: 8, ffn: 1408, vocab: 256, context: 32, segments: 5}
boundary: {kind: residual, ratio: 16}
data:     {train: "corpus/train-*.bin", tokenizer: bytes}
optim:    {kind: adamw, lr: 0.001, warmup: 0}
train:    {steps: 2, batch: 2, microbatches: 2, eval_every: 0, checkpoint_every: 0, recompute: true}
pipeline: {stages: 1, threads: 1}
YAML
train free || { miss free; cat free.log; }
state=$(sed -n 's/.*"weights": \([0-9]*\), "gradients": \([0-9]*\), "states": \([0-9]*\),.*/\1 \2 \3/p' free/summary.json |
    awk '{ print $1 + $2 + $3 }')
limit=$((state / 2))
echo "training state $state bytes, limit $limit"
[ "$limit" -gt 100000000 ] || miss "the state is only $state bytes: threads and code would count"
# shellcheck disable=SC2016 # {stage} is resbm's own
launcher="prlimit --data=$limit --"
train with pipeline.launcher="$launcher" optim.offload=disk optim.offload_parts=states+gradients ||
    { miss "with offload, under the limit"; cat with.log; }
same free with
if train without pipeline.launcher="$launcher"; then miss "without offload, under the limit"; fi
grep -Eq 'no memory' without.log || { miss "nothing says that memory was short"; tail -n 3 without.log; }
verdict
