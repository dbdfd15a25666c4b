#!/bin/sh
# ctest: timeout=180
# A model whose training state is twice a memory limit trains with offload, and does not without. The limit is half of what
# weights, gradients and AdamW's states take: as RLIMIT_DATA of a stage, and where this machine lets us make one, as the memory
# limit of a control group, which counts the cached pages of files too and kills who goes beyond.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
command -v prlimit >/dev/null || { echo "no prlimit (util-linux) to limit memory with"; exit 77; }
if sanitized; then echo "skipped: sanitizers need memory of their own" && exit 77; fi
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

# Prints the folder of a new control group with that limit, of either version; fails where none can be made.
new_group() {
    for root in /sys/fs/cgroup/memory /sys/fs/cgroup; do
        group=$root/resbm-test-$$
        mkdir "$group" 2>/dev/null || continue
        for file in memory.limit_in_bytes memory.max; do
            [ -f "$group/$file" ] && echo "$limit" 2>/dev/null >"$group/$file" || continue
            # Swap would be a way round; where it cannot be forbidden there must be none.
            echo 0 2>/dev/null >"$group/memory.swap.max" || echo "$limit" 2>/dev/null >"$group/memory.memsw.limit_in_bytes" ||
                [ "$(wc -l </proc/swaps)" = 1 ] || continue
            echo "$group"
            return 0
        done
        rmdir "$group"
    done
    return 1
}
if group=$(new_group); then
    # A stage enters the group and then becomes what it is.
    # shellcheck disable=SC2016 # the inner shell expands it
    printf '#!/bin/sh\necho $$ >"%s/cgroup.procs" && exec "$@"\n' "$group" >enter && chmod +x enter
    train grouped pipeline.launcher="$PWD/enter" optim.offload=disk optim.offload_parts=states+gradients ||
        { miss "with offload, in a control group of $limit bytes"; cat grouped.log; }
    same free grouped
    if train killed pipeline.launcher="$PWD/enter"; then miss "without offload, in a control group of $limit bytes"; fi
    tries=0
    until rmdir "$group" 2>/dev/null || [ $tries = 300 ]; do tries=$((tries + 1)); sleep 0.1; done
    [ $tries -lt 300 ] || miss "$group could not be removed: something still runs in it"
else
    echo "no control group with a memory limit can be made here: tried with RLIMIT_DATA alone"
fi
verdict
