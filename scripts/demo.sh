#!/bin/sh
# The demonstration behind `make demo [TEXT=file]`: one model, four stages, slow links, the same wall time three times:
# with whole activations (bf16) over the links; through residual boundaries that send a 128th of the bytes; and what one of
# the four machines could train by itself, without any link.
#   scripts/demo.sh [TEXTFILE ...]
# BUILD: the build folder. DEMO_DIR (demo): where shards, runs and report go. DEMO_SECONDS (55): wall time of each run.
# DEMO_SET: further section.key=value overrides for all runs.
set -eu
cd "$(dirname "$0")/.."
resbm=${BUILD:-build}/resbm
dir=${DEMO_DIR:-demo}
seconds=${DEMO_SECONDS:-55}
run=examples/demo.yaml
[ -x "$resbm" ] || { echo "demo: $resbm is missing; run make first" >&2; exit 1; }

# Figures of a command's lines stay aligned with the table at the end.
say() { printf '\n== %s\n' "$*"; }

# value KEY: a number of a model in the run's file, written {..., KEY: N, ...}
value() {
    v=$(sed -n "s/^[a-z].*[{ ]$1: *\([0-9]*\)[,}].*/\1/p" "$run" | head -n 1)
    [ -n "$v" ] || { echo "demo: $run has no number $1" >&2; exit 1; }
    echo "$v"
}

if [ $# -eq 0 ]; then
    set -- /usr/share/dictd/gcide.dict.dz
    [ -r "$1" ] || { echo "demo: $1 is missing; install dict-gcide or name a text file: make demo TEXT=file" >&2; exit 1; }
fi
say "text to token shards: $*"
mkdir -p "$dir"
rm -rf "$dir/corpus" "$dir/uncompressed" "$dir/residual-128x" "$dir/alone" "$dir/alone-others"
"$resbm" data --out "$dir/corpus" --tokenizer bytes "$@"

# How slow must a link be on this machine to be to it what 80 Mbit/s is to a GPU? Kept equal is
#     c = (bytes per token / rate) / (FLOPs per token / FLOP/s),
# the time a token's activation takes on the wire over the time a stage computes on it.
# There: four blocks of Llama 3 8B (d 4096, feed-forward 14336, 8 of 32 heads for keys and values), bf16, a 24 GB
# RTX 4090 at 40% of its 165.2 TFLOP/s (dense bf16, f32 sums). Here: this model's blocks of one stage, 40% of the
# matrix-product speed measured now, shared by the stages. FLOPs: 6 per weight, forward and backward.
say "the links"
peak=$(for _ in 1 2 3; do "$resbm" bench flops; done | sort -g | tail -n 1) # the best: others may use this machine
stages=$(value stages) d=$(value d) ffn=$(value ffn) layers=$(value layers)
rate=$(awk -v peak="$peak" -v stages="$stages" -v d="$d" -v ffn="$ffn" -v layers="$layers" -v least=450000 '
    function weights(d, kv, ffn) { return 2 * d * d + 2 * d * kv + 3 * d * ffn }
    BEGIN {
        there_flops = 6 * 4 * weights(4096, 1024, 14336); there_speed = 0.4 * 165.2e12
        c = (2 * 4096 / 10e6) / (there_flops / there_speed)
        here_flops = 6 * layers / stages * weights(d, d, ffn); here_speed = 0.4 * peak / stages
        rate = 8 * 2 * d / (c * here_flops / here_speed)
        printf "there: %.2f GFLOP per token and stage at %.1f TFLOP/s, 8192 bytes over 80 Mbit/s: c = %.1f\n", \
            there_flops / 1e9, there_speed / 1e12, c >"/dev/stderr"
        printf "here:  %.2f MFLOP per token and stage at %.1f GFLOP/s (40%% of %.0f, over %d stages), %d bytes: " \
            "c = %.1f at %.2f Mbit/s\n", here_flops / 1e6, here_speed / 1e9, peak / 1e9, stages, 2 * d, c, rate / 1e6 \
            >"/dev/stderr"
        if (rate < least) {
            printf "a slow or busy machine: the links keep %.2f Mbit/s, so that a step fits into the demo (c = %.1f)\n", \
                least / 1e6, c * rate / least >"/dev/stderr"
            rate = least
        }
        printf "%d\n", rate
    }')
echo "every stage gets an uplink and a downlink of that rate, 10 ms away from the next"
batch=$(value batch)
if [ "$rate" -lt 900000 ]; then # c is a matter of tokens; how many of them a step takes is free
    batch=$((batch / 2))
    echo "uncompressed steps are long over such links: $batch sequences a step instead of $((2 * batch))"
fi

# train NAME OVERRIDES...
train() {
    name=$1
    shift
    # shellcheck disable=SC2086
    "$resbm" train "$run" --quiet --out "$dir/$name" "data.train=$dir/corpus/train-*.bin" \
        "data.val=$dir/corpus/val-*.bin" "link.up=${rate}bit" "link.down=${rate}bit" "train.batch=$batch" \
        "train.microbatches=$batch" "train.eval_sequences=$((2 * batch))" "$@" ${DEMO_SET:-}
}
say "uncompressed: bf16 activations and gradients, $seconds s"
train uncompressed "train.max_seconds=$seconds" boundary.kind=none boundary.tokens=none boundary.aux=none \
    boundary.codec_fwd=bf16 boundary.codec_bwd=bf16

# A run ends with a whole step, and steps are long here: the other runs get the time that the first one took.
seconds=$(sed -n 's/^ *"time_s": \([0-9.]*\).*/\1/p' "$dir/uncompressed/summary.json")
say "residual boundaries: 4 bits of each of $((d / $(value ratio))) latents where bf16 has $((16 * d)) bits (128x), token ids beside, $(printf %.0f "$seconds") s"
train residual-128x "train.max_seconds=$seconds"

# What the last stage holds, its trunk's blocks included, is what one machine has room and time for. Its speed is a stage's:
# as many copies as there are stages share this machine, each with a seed of its own; the first one is shown.
alone=$((layers / stages + $(value trunk_blocks)))
threads=$(($(nproc) / stages))
[ "$threads" -gt 0 ] || threads=1
alone() {
    train "$1" "train.max_seconds=$seconds" "model.layers=$alone" model.segments=1 boundary.kind=none boundary.tokens=none \
        boundary.aux=none boundary.codec_fwd=bf16 boundary.codec_bwd=bf16 pipeline.stages=1 "pipeline.threads=$threads" \
        "train.seed=$2"
}
say "alone: one machine without links, $alone blocks, $(printf %.0f "$seconds") s ($stages at once, each on its share of this machine)"
mkdir -p "$dir/alone-others"
others=
trap '[ -z "$others" ] || kill $others 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM
copy=1
while [ "$copy" -lt "$stages" ]; do
    alone "alone-others/seed-$((copy + 1))" "$((copy + 1))" >"$dir/alone-others/seed-$((copy + 1)).log" 2>&1 &
    others="$others $!"
    copy=$((copy + 1))
done
alone alone 1
for pid in $others; do
    wait "$pid" || { echo "demo: one of the copies failed; see $dir/alone-others/*.log" >&2; exit 1; }
done
others=

say "the same wall time"
"$resbm" report "$dir/uncompressed" "$dir/residual-128x" "$dir/alone" --out "$dir/report.html"
echo
echo "curves, links and pipeline: $dir/report.html"
