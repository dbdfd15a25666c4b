#!/bin/sh
# ctest: timeout=240 serial
# resbm compare: one table, the same whether or not it was interrupted; the budget is kept; a child that fails is named
# and the others go on; changed settings and misspelt ones are refused by name.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
rm -rf whole broken INT KILL slip

cat >spec.yaml <<'YAML'
base:
  model:    {d: 64, layers: 4, heads: 2, ffn: 64, vocab: 256, context: 32, segments: 2}
  boundary: {kind: residual, ratio: 16, tokens: trunk, trunk_blocks: 1, trunk_ffn: 64}
  data:     {train: "corpus/train-*.bin", val: "corpus/val-*.bin"}
  optim:    {warmup: 2}
  train:    {steps: 16, batch: 4, microbatches: 2, eval_every: 4, eval_sequences: 8}
seeds: 2
links: [8mbit/2ms, 1mbit]
compute: 0.05gflops
extend_sweeps: 1
target: best uncompressed + 5%
variants:
  plain:  {control: uncompressed, sweep: {optim.lr: [0.01, 0.02]}}
  narrow: {}
  alone:  {control: alone of narrow}
YAML
# All but what a clock or the kernel said.
result() { grep -v 'step_s_measured\|peak_rss_bytes\|WARNING: its measured steps' "$1/compare.json" | sed 's/,$//'; }
same_result() { # A B how
    result "$1" >a.result
    result "$2" >b.result
    cmp -s a.result b.result || { miss "$3 it came to something else"; diff a.result b.result | head; }
}
compare() { # DIR [--flag ...]
    dir=$1
    shift
    "$resbm" compare spec.yaml --out "$dir" "$@" >"$dir.log" 2>"$dir.err"
}
begin=$(now_ms)
compare whole || { miss "the comparison"; cat whole.err; }
took=$(($(now_ms) - begin))
[ -s whole/compare.md ] && [ -s whole/compare.json ] || miss "no table"
for row in plain narrow alone alone-time; do grep -q "^| $row .*±" whole/compare.md || miss "the table lacks $row"; done
grep -q 'one segment, 3 blocks' whole/compare.md || miss "alone does not hold two blocks and the trunk's"
loss='([0-9.]*)'
grep -q "optim.lr 0.01 $loss, 0.02 $loss, 0.04 $loss the best is 0.04. WARNING: it is the highest" whole/compare.md ||
    grep -q "optim.lr 0.01 $loss, 0.02 $loss, 0.0[0-9]* $loss the best is 0.0[12]\\.\$" whole/compare.md || miss "a sweep is not extended where its best lies at the edge"
grep -q '</html>' whole/report.html && grep -q '"name": "alone-time"' whole/report.html || miss "no page"
# What crossed is what the wire's rules say; the timing model knows that a slower link takes longer, where there is one.
python3 - whole/compare.json <<'PY' || miss "times and bytes"
import json, sys
rows = {r["name"]: r for r in json.load(open(sys.argv[1]))["rows"]}
for name in "plain", "narrow":
    r, t = rows[name], rows[name]["time"]
    for way in "fwd", "bwd":
        sent, paper = t["bytes_per_token_" + way], r["bytes_per_token_%s_model" % way]
        assert abs(sent - paper) < 1e-6 * paper, (name, way, sent, paper)
    assert 0 < t["step_s_model"][0] < t["step_s_model"][1] and t["step_s_measured"] > 0 and t["peak_rss_bytes"] > 1 << 20, t
assert rows["narrow"]["extra_params"] > 0 and rows["plain"]["extra_params"] == 0
alone, twin = rows["alone"], rows["alone-time"]
assert alone["time"]["step_s_model"][0] == alone["time"]["step_s_model"][1]
assert twin["steps"] == int(rows["narrow"]["steps"] * rows["narrow"]["time"]["step_s_model"][0] / alone["time"]["step_s_model"][0])
assert twin["steps"] > alone["steps"]
PY
# And a step is what the plan makes of the same deployment.
"$resbm" plan --own --json whole/runs/narrow/seed-1/run.yaml pipeline.stages=2 pipeline.speed=50e6 link.up=8mbit link.down=8mbit \
    link.latency=2ms >plan.json || miss "the plan"
python3 -c 'import json, sys
of = lambda name: json.load(open(name))
row, = (r for r in of("whole/compare.json")["rows"] if r["name"] == "narrow")
a, b = row["time"]["step_s_model"][0], of("plan.json")["rows"][0]["step_s"]
sys.exit(abs(a / b - 1) > 1e-6 and "compare says %g s a step, plan %g" % (a, b))' || miss "compare and plan differ"
[ -z "$(find whole -name 'step-*')" ] || miss "snapshots of finished runs are left"
[ -s whole/runs/narrow/seed-2/run.yaml ] || miss "no resolved configuration"

# A second look trains nothing.
compare whole || miss "the second look"
grep -q started whole.err && miss "the second look trained"

# In pieces of a third of what the whole took; smaller ones where all was done in the first, by a machine that has become faster.
for part in 3 9 27; do
    budget=$(awk -v ms=$took -v part=$part 'BEGIN { printf "%.2f", ms / 1000 / part + 0.1 }')
    rm -rf broken
    sessions=0
    status=3
    while [ $status = 3 ] && [ $sessions -lt 60 ]; do
        compare broken --budget "${budget}s"
        status=$?
        sessions=$((sessions + 1))
    done
    [ $status = 0 ] && [ $sessions = 1 ] || break
done
[ $status = 0 ] && [ $sessions -gt 1 ] || miss "in pieces: status $status after $sessions sessions"
same_result whole broken "in pieces"

# A signal in the middle of a run; of SIGKILL the children learn nothing: the next session waits for what they hold.
for signal in INT KILL; do
    "$resbm" compare spec.yaml --out "$signal" --jobs 1 >"$signal.log" 2>&1 &
    pid=$!
    within 60 "grep -q '\"step\":6,' '$signal/runs/narrow/seed-1/metrics.jsonl' 2>/dev/null" || miss "$signal did not come to step 6"
    kill -$signal $pid
    wait $pid
    status=$?
    [ $signal = KILL ] || [ $status = 130 ] || miss "Ctrl-C gave status $status"
    compare "$signal" || { miss "going on after SIG$signal"; cat "$signal.err"; }
    same_result whole "$signal" "after SIG$signal"
done

# Another setting is another run.
sed 's/  narrow: {}/  narrow: {boundary.ratio: 8}/' spec.yaml >changed.yaml
"$resbm" compare changed.yaml --out whole >changed.log 2>&1 && miss "changed settings were taken"
grep -q 'narrow seed 1: boundary.ratio: 16 -> 8' changed.log || { miss "the change is not named"; cat changed.log; }
"$resbm" compare changed.yaml --out whole --replace >changed.log 2>&1 || miss "--replace"
grep -q 'narrow seed 1: started' changed.log || miss "--replace trained nothing"
grep -q '^- narrow: .*(boundary.ratio=8)\.$' whole/compare.md || miss "what the specification sets is not beside the table"
grep -q 'plain.*started' changed.log && miss "--replace trained what was done"

# Slips are named where they stand.
refused() { # what, sed expression, text of the message
    sed "$2" spec.yaml >slip.yaml
    "$resbm" compare slip.yaml --out slip >slip.log 2>&1 && miss "$1 was taken"
    grep -q "$3" slip.log || { miss "$1 is not named"; cat slip.log; }
    [ ! -d slip/runs ] || miss "$1 trained something"
}
refused "a misspelt key" 's/  narrow: {}/  narrow: {boundary.ratoi: 8}/' "slip.yaml:14:12: .*unknown key 'ratoi'.*did you mean ratio"
refused "a misspelt entry" 's/^seeds/seedz/' "slip.yaml:7:1: unknown entry 'seedz': did you mean 'seeds'"
refused "an unknown variant" 's/of narrow/of narow/' "variant alone: control of 'narow' is no other variant: did you mean 'narrow'"
refused "a setting that is there twice" 's/  narrow: {}/  narrow: {boundary.ratio: 8, boundary.ratio: 4}/' "slip.yaml:14:31: this entry is there twice"
refused "a variant like itself" 's/  narrow: {}/  narrow: {like: narrow}/' "variant narrow: like itself: name another one"
refused "a seed of its own" 's/  narrow: {}/  narrow: {train.seed: 3}/' "slip.yaml:14:12: train.seed: .*which .seeds. names"
refused "a value twice in a sweep" 's/0.01, 0.02/0.01, 0.01/' "the sweep of optim.lr has 0.01 twice"
refused "the name of a control's second row" 's/  narrow: {}/&\n  alone-time: {}/' "slip.yaml:15:3: variant alone-time: where there are links"
refused "a link of nothing" 's/1mbit/0mbit/' "link 0mbit: .*out of range; allowed: 1kbit to 1000gbit, or none"
refused "no data" '/^  data:/d' "slip.yaml:1[0-9]:3: variant plain has no data.train: name a run"
refused "a value out of range" 's/  narrow: {}/  narrow: {boundary.ratio: 7}/' "variant narrow: .*boundary.ratio"

# One that cannot be trained is named; the others are.
"$resbm" compare changed.yaml --out whole --variant 'broken:data.train=nowhere-*.bin' >broken.log 2>broken.err &&
    miss "a failing run gave status 0"
grep -q 'broken: 2 of 2 seeds failed: .*nowhere' broken.log || { miss "the failing run is not named"; cat broken.log; }
grep -q '^| plain .*±' broken.log || miss "the others are not in the table"
verdict
