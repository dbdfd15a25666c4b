#!/bin/sh
# The study behind docs/quality.md: one specification of `resbm compare` after the other, and their tables.
#   scripts/study.sh [NAME ...]        examples/study/NAME.yaml; without a name all that need no GPU
# BUILD: the build folder. STUDY_DIR (study): shards, runs and tables go there. STUDY_BUDGET (none): time for each
# specification, e.g. 2h; the same command goes on where it stopped. STUDY_SEEDS: seeds in the place of the
# specifications' own, e.g. 3. STUDY_JOBS (processors): runs beside each other.
set -eu
cd "$(dirname "$0")/.."
resbm=$PWD/${BUILD:-build}/resbm
dir=${STUDY_DIR:-study}
specs=$PWD/examples/study
[ -x "$resbm" ] || { echo "study: $resbm is missing; run make first" >&2; exit 1; }
there=$(cd "$specs" && for f in *.yaml; do printf '%s ' "${f%.yaml}"; done)
# Those that name a GPU only when they are asked for.
[ $# -gt 0 ] || for name in $there; do
    if grep -q 'device: cuda' "$specs/$name.yaml"; then echo "study: $name wants a GPU: STUDY=$name"; else set -- "$@" "$name"; fi
done
for name in "$@"; do
    [ -r "$specs/$name.yaml" ] || { echo "study: no $specs/$name.yaml; there are: $there" >&2; exit 2; }
done

mkdir -p "$dir"
cd "$dir"
# The specifications name the shards that examples/demo.yaml does.
if [ ! -s demo/corpus/val-000.bin ]; then
    text=/usr/share/dictd/gcide.dict.dz
    [ -r "$text" ] || { echo "study: $text is missing; install dict-gcide" >&2; exit 1; }
    "$resbm" data --out demo/corpus --tokenizer bytes "$text"
fi

# A SentencePiece vocabulary of 1024 pieces from 8 MB of the training text (its shard's tokens are bytes, 16 bits each), and
# shards in it.
pieces() {
    [ -s data-spm1024/bpe.model ] && [ -s data-spm1024/val-000.bin ] && return
    command -v spm_train >/dev/null || { echo "study: spm_train is missing; install sentencepiece" >&2; exit 1; }
    mkdir -p data-spm1024
    tail -c +1025 demo/corpus/train-000.bin | tr -d '\000' | head -c 8000000 >data-spm1024/text
    spm_train --input=data-spm1024/text --model_prefix=data-spm1024/bpe --vocab_size=1024 --model_type=bpe --byte_fallback=true \
        --character_coverage=0.9995 --num_threads=1 --minloglevel=1
    rm data-spm1024/text
    "$resbm" data --out data-spm1024 --tokenizer data-spm1024/bpe.model /usr/share/dictd/gcide.dict.dz
}

# Of each whole run: the largest norm of the gradient behind its first tenth; how often there, in a single step, the training loss is more
# than 15% above the median of the twenty steps before, and the norm three times theirs; means of the norm per segment over the second half.
norms() {
    printf '%-40s %9s %6s %6s   %s\n' "run of $1" "largest" "losses" "norms" "norm per segment, first to last"
    find "$1/runs" -name metrics.jsonl | sort | while read -r file; do
        run=${file#"$1"/runs/}
        all=$(sed -n 's/^  steps: *//p' "${file%metrics.jsonl}run.yaml")
        grep -q "\"step\":$all," "$file" || continue # cut short
        sed -n 's/.*"loss":\([0-9.e+-]*\),.*"grad_norm":\([0-9.e+-]*\),"grad_norm_segments":\[\([^]]*\)\].*/\1 \2 \3/p' "$file" |
            awk -v run="${run%/metrics.jsonl}" '
                function median_before(x, i,    v, n, j, k, t) {
                    for (j = i - 20; j < i; j++) { t = x[j]; for (k = n++; k > 0 && v[k - 1] > t; k--) v[k] = v[k - 1]; v[k] = t }
                    return (v[9] + v[10]) / 2
                }
                { loss[NR] = $1; all[NR] = $2; parts[NR] = $3 }
                END {
                    for (i = int(NR / 10) + 1; i <= NR; i++) {
                        if (all[i] > most) most = all[i]
                        if (i <= 20) continue
                        losses += loss[i] > 1.15 * median_before(loss, i)
                        norms += all[i] > 3 * median_before(all, i)
                    }
                    for (i = int(NR / 2) + 1; i <= NR; i++) {
                        n = split(parts[i], v, ",")
                        for (s = 1; s <= n; s++) sum[s] += v[s]
                    }
                    printf "%-40s %9.3g %6d %6d  ", run, most, losses, norms
                    for (s = 1; s <= n; s++) printf " %7.3f", sum[s] / (NR - int(NR / 2))
                    printf "\n"
                }'
    done
}

later=0
for name in "$@"; do
    printf '\n== %s\n' "$name"
    status=0
    ! grep -q data-spm1024 "$specs/$name.yaml" || pieces
    "$resbm" compare "$specs/$name.yaml" --out "$name" ${STUDY_BUDGET:+--budget "$STUDY_BUDGET"} \
        ${STUDY_SEEDS:+--seeds "$STUDY_SEEDS"} ${STUDY_JOBS:+--jobs "$STUDY_JOBS"} || status=$?
    case $status in
    0) ;;
    3) later=3 ;; # the budget is spent: the others may still have theirs
    *) exit $status ;;
    esac
    norms "$name" >"$name/norms.txt"
    echo "$dir/$name/norms.txt: norms of gradients"
done
exit $later
