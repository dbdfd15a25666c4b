#!/bin/sh
# ctest: timeout=120
# resbm plan: every schedule and boundary gets a row, memory is what a stage process takes, what is wrong is named.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

says() { grep -q -- "$2" "$1" || { miss "$1 does not say: $2"; cat "$1"; }; }
"$resbm" plan run.yaml pipeline.speed=1e9 --json >plan.json || miss "plan --json"
"$resbm" plan run.yaml pipeline.speed=1e9 -s >plan.txt || miss "plan"
for name in gpipe 1f1b zb-h1 none-bf16 none-int8; do says plan.txt "$name"; done
says plan.txt "recommended"
says plan.json '"recommended":true'

says plan.json '"recommended":{"boundary"'
for field in ratio codec_fwd codec_bwd schedule inflight segments; do says plan.json "\"$field\":"; done
says plan.txt "segments: no other cut\\|segments: a model still to be made"
# Eight blocks in one segment per stage under any schedule, against two per stage in a V.
"$resbm" plan run.yaml model.layers=8 train.batch=8 train.microbatches=8 pipeline.speed=1e9 -b none-int8 >recut.txt || miss "plan"
says recut.txt "model.segments=8 under pipeline.schedule=zbv"
"$resbm" plan run.yaml model.layers=8 train.batch=8 train.microbatches=8 pipeline.speed=1e9 -b none-int8 --json >recut.json || miss "plan"
says recut.json '"recut":{"segments":\[1,1,1,1,1,1,1,1\],"schedule":"zbv"'

# What "auto" means is the card's to say: the plan says which it took. Where it is named, and without a GPU, there is nothing to say.
gpu="run.yaml pipeline.speed=1e9 --own -s"
# shellcheck disable=SC2086
{
    "$resbm" plan $gpu pipeline.device=cpu,cuda,cpu,cpu >auto.txt || miss "plan of a GPU"
    "$resbm" plan $gpu pipeline.device=cuda pipeline.math=f16 >f16.txt || miss "plan of a GPU in f16"
}
says auto.txt "planned for products in bf16; for cards of compute capability 7.5, where more is taken, add pipeline.math=f16"
[ "$(grep -c 'compute capability' auto.txt f16.txt plan.txt)" = "auto.txt:1
f16.txt:0
plan.txt:0" ] || miss "what math a plan is for: $(grep -c 'compute capability' auto.txt f16.txt plan.txt)"

# One segment has no boundary that could narrow anything.
"$resbm" plan run.yaml pipeline.speed=1e9 --json model.segments=1 pipeline.stages=1 >one.json || miss "plan --json of one segment"
says one.json '"ratio":1.0'

# Bytes per link and step are those a run counts, but for the framing of Ethernet, which is charged to shaped links.
"$resbm" plan run.yaml pipeline.speed=1e9 --own --json >own.json || miss "plan --own"
train own train.eval_every=0 || { miss "train"; cat own.log; }
field() { tr ',{' '\n\n' <"$1" | sed -n "s/^\"$2\"://p" | head -n 1; }
wire=$(sed -n '1s/.*"wire_bytes_fwd":\([0-9]*\),.*/\1/p' own/metrics.jsonl)
messages=9 # three boundaries, three microbatches
awk -v link="$(field own.json link_bytes_fwd)" -v wire="$wire" -v n=$messages \
    'BEGIN { frame = wire / n; exit !(wire > 0 && link == 3 * (frame + 66 * int((frame + 1447) / 1448))) }' ||
    miss "plan says $(field own.json link_bytes_fwd) bytes a link, the run sent $wire in all"

# A run says what its stages plan before its first step, and it is what the plan says; not where it is to be quiet.
"$resbm" train run.yaml --out told train.eval_every=0 >told.log 2>&1 || { miss "train"; cat told.log; }
[ "$(grep -c '^memory: stage' told.log)" = 4 ] && ! grep -q '^memory:' own.log || { miss "memory is told once a stage"; cat told.log; }
says told.log "^memory: stage 0 plans $(field own.json total | awk '{ printf "%.3g", $1 / 1e6 }') MB (weights 0"

# Predicted and measured side by side in the run's trace: every computation of the two steps that were kept, once each way, however
# often it is asked for; reports leave it out.
for again in 1 2; do
    "$resbm" plan run.yaml pipeline.speed=1e9 --own --trace own/trace.json >/dev/null || miss "plan --trace, time $again"
done
events() { grep -c "\"name\":\"[0-9]*[FB][0-9]*\",\"cat\":\"$1\"" own/trace.json; }
[ "$(events compute)" = 48 ] || miss "$(events compute) computations were measured, not 2 steps of 24"
[ "$(events predicted)" = 48 ] || miss "$(events predicted) computations are predicted, not 2 steps of 24"
"$resbm" report own --out own.html || miss "a report with predictions in the trace"
"$resbm" plan run.yaml pipeline.speed=1e9 -b none-int8 --trace own/trace.json 2>err.txt >/dev/null && miss "--trace of what was not planned"
says err.txt "ask for them with --own"
"$resbm" plan run.yaml pipeline.speed=1e9 --own optim.clip_scope=segment pipeline.schedule=pipedream --trace alone.json >/dev/null ||
    miss "plan --trace without a run"
[ "$(grep -c '"name":"[0-9]*U[0-9]*","cat":"predicted"' alone.json)" = 12 ] || miss "a step of pipedream has not 12 updates"

# What this machine computes is measured: alone, as many stages at once as it has cores for, and what links take beside them.
"$resbm" plan run.yaml --own --json -t 0 pipeline.device=ref pipeline.threads=1 >measured.json || miss "a plan that measures"
says measured.json '"measured":true'
awk -v n="$(field measured.json at_once)" -v crowd="$(field measured.json crowd)" -v moving="$(field measured.json message_cpu_s)" -v cores="$(nproc)" \
    'BEGIN { exit !(moving > 0 && (cores < 2 || (n > 1 && n <= cores && crowd >= 1))) }' || { miss "what stages take of each other"; cat measured.json; }
"$resbm" plan run.yaml --own -t 0 pipeline.device=ref pipeline.threads=1 >measured.txt || miss "a plan that measures"
says measured.txt "links take .* of a core for a message"
[ "$(field own.json crowd) $(field own.json message_cpu_s)" = "0.0 0.0" ] || miss "a plan that counts has measured something"

# Where that takes longer than 3 s, one line on standard error says so and what plans without; what is planned is the same beside it.
alone="run.yaml --own --json model.segments=1 pipeline.stages=1 pipeline.device=cpu"
# shellcheck disable=SC2086
"$resbm" plan $alone -t 3.5 >slow.json 2>slow.err || miss "a plan that measures for longer"
# shellcheck disable=SC2086
"$resbm" plan $alone -t 0 2>/dev/null >quick.json || miss "a plan that measures for a moment"
says slow.err "resbm: measuring this machine for the plan (boundary own, segment 1 of 1), .*; pipeline.speed=FLOP/s, or flops in a list"
[ "$(wc -l <slow.err)" = 1 ] || { miss "more than that line"; cat slow.err; }
for how in slow quick; do sed 's/[-+0-9.e]//g' $how.json >$how.shape; done
cmp slow.shape quick.shape || miss "the line changes what is planned"
echo "machines: [{count: 4, memory: 8G}]" >speechless.yaml
sed 's/memory/flops: 1e9, memory/' speechless.yaml >stated.yaml
for way in "pipeline.speed=1e9" "-m stated.yaml" "-m speechless.yaml pipeline.speed=1e9"; do
    # shellcheck disable=SC2086
    "$resbm" plan run.yaml --json -t 3.5 $way >way.json 2>way.err || miss "a plan with $way"
    says way.json '"measured":false'
    [ -s way.err ] && { miss "a plan with $way speaks of measuring"; cat way.err; }
done

# FLOP/s of some machines alone are none to plan by, whichever comes first; pipeline.speed is that of the others.
printf 'machines:\n  - {count: 2, flops: 1e9}\n  - {count: 2, memory: 8G}\n' >first.yaml
printf 'machines:\n  - {count: 2, memory: 8G}\n  - {count: 2, flops: 1e9}\n' >last.yaml
for how in "first 3:5: machine 2" "last 2:5: machine 0"; do
    list=${how%% *}
    for balance in "" --balance; do
        # shellcheck disable=SC2086
        "$resbm" plan run.yaml --own -m "$list.yaml" $balance >err.txt 2>&1 && miss "FLOP/s of the $list machines alone $balance"
        says err.txt "$list.yaml:${how#* } (from 0) has no flops, and others have: .*pipeline.speed=FLOP/s"
    done
    "$resbm" plan run.yaml --own --json -m "$list.yaml" pipeline.speed=1e9 >mixed.json || miss "pipeline.speed beside the $list machines' FLOP/s"
    [ "$(field mixed.json step_s)" = "$(field own.json step_s)" ] || miss "FLOP/s of the $list machines count otherwise than pipeline.speed"
done

# A machine list: what it says of one stage holds for that one.
cat >machines.yaml <<END
machines:
  - {flops: 1e9, memory: 2M, up: 10mbit, down: 10mbit, latency: 20ms}
  - {count: 2, flops: 1e9, memory: 8G, up: 10mbit, down: 10mbit, latency: 20ms, disk: 100M}
END
"$resbm" plan run.yaml pipeline.stages=3 -m machines.yaml >tight.txt || { miss "machines"; cat tight.txt; }
says tight.txt "stage 0 lacks"
# Bytes, time and share of the uplink that snapshots take on their way to the host of a run across machines; where that is longer than
# the time between them, what is enough.
"$resbm" plan run.yaml pipeline.speed=1e9 --own link.up=10mbit train.checkpoint_every=1000 >up.txt || miss "plan with an uplink"
says up.txt "to the host of a run across machines: up to .* a stage, .* at link.snapshot_share=0.25 of its uplink, every .*% of it; whole files, of which packing"
"$resbm" plan run.yaml pipeline.speed=1e9 --own link.up=10mbit train.checkpoint_every=1 >up.txt || miss "plan with an uplink"
says up.txt "longer than the time between snapshots, so that steps would wait: train.checkpoint_every=[0-9]* is enough"
"$resbm" plan run.yaml pipeline.speed=1e9 --own link.up=10mbit train.checkpoint_every=1000 --json >up.json || miss "plan with an uplink"
awk -v s="$(field up.json snapshot_up_s)" -v b="$(field up.json snapshot_bytes)" 'BEGIN { exit !(s > 8 * b / 4 / 10e6 * 4 && s < 8 * b / 10e6 * 4) }' ||
    miss "a snapshot takes $(field up.json snapshot_up_s) s for $(field up.json snapshot_bytes) bytes in all"
"$resbm" plan run.yaml pipeline.stages=2 -m machines.yaml 2>err.txt && miss "three machines for two stages"
says err.txt "lists 3 machines for 2 stages"
echo "machines: [{flops: 1e9, memmory: 2M}]" >bad.yaml
"$resbm" plan run.yaml -m bad.yaml 2>err.txt && miss "an unknown key"
says err.txt 'a machine has no "memmory"'
# A relay that all messages pass: every byte of the step, and what of it ends first.
cat >relay.yaml <<END
machines:
  - {count: 3, flops: 1e9, memory: 8G, latency: 10ms}
relay: {up: 2mbit, down: 4mbit, latency: 10ms, message: 1ms, memory: 800M, participant: 1M}
END
"$resbm" plan run.yaml pipeline.stages=3 -m relay.yaml --own >relay.txt || { miss "relay"; cat relay.txt; }
says relay.txt "through a relay: up 2 Mbit/s, down 4 Mbit/s, latency 10 ms"
says relay.txt "its uplink ends first"
"$resbm" plan run.yaml pipeline.stages=3 -m relay.yaml --own --json >relay.json || miss "relay --json"
# In the line the shares are as the rates; what it passes is what the stages send.
tr '{}' '\n\n' <relay.json | awk -F '[:,]' '
    /"bytes_fwd":/ { for (i = 1; i < NF; i++) if ($i ~ /"bytes_(fwd|bwd)"/) sent += $(i + 1) }
    /"thread":/ { for (i = 1; i < NF; i++) { if ($i == "\"bytes\"") passed = $(i + 1); if ($i == "\"down\"") down = $(i + 1); if ($i == "\"up\"") up = $(i + 1) } }
    END { exit !(passed > 0 && passed > 0.999 * sent && passed < 1.001 * sent && up > 1.999 * down && up < 2.001 * down) }' || { miss "the relay's shares"; cat relay.json; }
# The coordinator is beside it: a step's order comes from there, and the word that it is done goes there.
printf 'machines:\n  - {count: 3, flops: 1e9, latency: 20ms}\n' >near.yaml
printf 'machines:\n  - {count: 3, flops: 1e9, latency: 5ms}\nrelay: {latency: 15ms}\n' >far.yaml
for m in near far; do "$resbm" plan run.yaml pipeline.stages=3 -m $m.yaml --own --json >$m.json || miss "plan -m $m.yaml"; done
awk -v a="$(field near.json step_s)" -v b="$(field far.json step_s)" 'BEGIN { exit !(b - a > 0.0199 && b - a < 0.0201) }' ||
    miss "a step takes $(field far.json step_s) s with the coordinator beside the relay, $(field near.json step_s) s without"
sed 's/message/massage/' relay.yaml >bad.yaml
"$resbm" plan run.yaml pipeline.stages=3 -m bad.yaml 2>err.txt && miss "an unknown key of a relay"
says err.txt 'a relay has no "massage"'
"$resbm" plan run.yaml -b residual-999-int5 2>err.txt && miss "an unknown codec"
says err.txt "neither a ratio nor a codec"

"$resbm" plan run.yaml pipeline.device=timed 2>err.txt && miss "stages of no speed"
says err.txt "timed computes nothing that a plan could measure: .*pipeline.speed=FLOP/s"

# Where nothing fits, the settings that would are named with what they come to; a plan with the first of them finds that it does.
largest=$(tr ',{' '\n\n' <own.json | sed -n 's/^"total"://p' | sort -n | tail -n 1)
less="pipeline.speed=1e9 --own pipeline.memory=$((largest * 9 / 10))"
# shellcheck disable=SC2086
"$resbm" plan run.yaml $less >nothing.txt || miss "plan of what does not fit"
says nothing.txt "Nothing fits. Boundary own under 1f1b, stage [0-9] plans .* GB: weights .*It fits with any of: train.recompute=true ("
way=$(sed -n 's/.*It fits with any of: \([^ ]*\) (.*/\1/p' nothing.txt)
# shellcheck disable=SC2086
"$resbm" plan run.yaml $less "$way" >fits.txt || miss "plan with $way"
says fits.txt "recommended"
# shellcheck disable=SC2086
"$resbm" plan run.yaml $less pipeline.memory=1M >never.txt || miss "plan of what never fits"
says never.txt "None of these alone is enough: .*together .* GB, which does not fit either: spread the model over more"

# Blocks shared out by speed: the slow machine gets fewer; what fits nowhere is said in bytes.
cat >uneven.yaml <<END
machines:
  - {flops: 1e9, memory: 8G}
  - {flops: 4e9, memory: 8G}
END
"$resbm" plan run.yaml model.layers=8 pipeline.stages=2 -m uneven.yaml --own --balance >even.txt || { miss "balance"; cat even.txt; }
says even.txt "model.segments: \\[[12], [67]\\]"
sed 's/8G/1M/' uneven.yaml >tiny.yaml
"$resbm" plan run.yaml model.layers=8 pipeline.stages=2 -m tiny.yaml --own --balance 2>err.txt && miss "a model that fits nowhere"
says err.txt "bytes, .* more than it has room for\\|bytes have no place"
verdict
