#!/bin/sh
# ctest: timeout=240 serial
# The whole path of `make demo`, shortened: shards from real text, rate of the links, the three runs, table, report.
set -eu
resbm=$RB_BINARY_DIR/resbm
[ -x "$resbm" ] || { echo "$resbm was not built"; exit 1; }
here=$PWD
rm -rf demo
fail() { echo "$1"; cat "$here/log"; exit 1; }
text=${DEMO_TEST_TEXT:-/usr/share/dictd/gcide.dict.dz}
[ -r "$text" ] || { echo "dict-gcide is not installed"; exit 77; }

# Less text, fewer tokens a step: the sanitizers run this too.
zcat -f "$text" | head -c 1500000 >text
number() { sed -n "s/^ *\"$2\": \([0-9.]*\).*/\1/p" "demo/$1/summary.json"; }
# The demo does not make links so slow that a step takes too long; to a machine that then computes for as long as it sends they make no
# difference, and it gets slower ones.
for links in "" "link.up=100kbit link.down=100kbit"; do
    BUILD=$RB_BINARY_DIR DEMO_DIR=$here/demo DEMO_SECONDS=${DEMO_TEST_SECONDS:-5} \
        DEMO_SET="model.context=64 train.batch=4 train.microbatches=4 train.eval_every=2 train.eval_sequences=4 $links" \
        "$RB_SOURCE_DIR/scripts/demo.sh" "$here/text" >log 2>&1 || fail "the demo failed"
    [ "$(number residual-128x steps)" -le "$(number uncompressed steps)" ] || break
done

grep -q 'c = 10\.' log || fail "c of the GPU is not near 10"
for run in uncompressed residual-128x alone; do
    for file in metrics.jsonl summary.json trace.json config.yaml; do
        [ -s "demo/$run/$file" ] || fail "$run left no $file"
    done
    [ -n "$(find "demo/$run" -path '*/step-*/manifest.json')" ] || fail "$run left no snapshot"
done
for row in 'validation loss' 'tokens/s' 'bytes per token forward' 'wire ratio' 'wall time to loss'; do
    grep -q "^$row" log || fail "the table lacks '$row'"
done
grep -q '</html>' demo/report.html || fail "no report"

# What the boundary is for: at least 20 times fewer bytes, and more steps in the same time.
for way in fwd bwd; do
    awk -v a="$(number uncompressed bytes_per_token_$way)" -v b="$(number residual-128x bytes_per_token_$way)" \
        'BEGIN { exit !(a > 500 && b > 0 && a > 20 * b) }' || fail "bytes per token $way are not what they should be"
done
[ "$(number residual-128x steps)" -gt "$(number uncompressed steps)" ] || fail "the narrow boundary was not faster"

# The machine alone holds what the last stage does, under no links; its copies with other seeds are there too.
awk -v a="$(number alone bytes_per_token_fwd)" 'BEGIN { exit !(a == 0) }' || fail "the machine alone has sent something"
grep -q 'layers: 3' demo/alone/config.yaml || fail "the machine alone has not the three blocks of the last stage"
for seed in 2 3 4; do
    [ -s "demo/alone-others/seed-$seed/summary.json" ] || fail "no copy of the machine alone with seed $seed"
done
grep -q '^ *uncompressed *residual-128x *alone$' log || fail "the table does not show the three runs"
