#!/bin/sh
# ctest: timeout=400
# Offload under schedules whose stages update on their own: states, and gradients, on disk give the bits of keeping them in
# memory, for one segment a stage and two, resumed either way; masters and AdamW on the host have the CPU's bits, in f32 and on a
# device that completes late in hidden memory.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
gradients=optim.offload_parts=states+gradients
small="model.d=64 model.ffn=96 pipeline.deadline=10s optim.clip_scope=segment train.batch=8 train.microbatches=4 train.steps=6
    train.checkpoint_every=3 train.keep=9 train.eval_every=4"

# back FROM DIR SETTINGS: a copy of FROM goes on from its first snapshot.
back() {
    from=$1
    shift
    rm -rf "$1" && cp -r "$from" "$1" && rm -rf "$1/step-6"
    go "$@" --resume
}
# counted DIR SETTINGS: `resbm plan` has the very bytes of weights, with older ones, and of gradients that stage 0 of DIR took.
counted() {
    ran=$1
    shift
    # shellcheck disable=SC2086
    "$resbm" plan run.yaml $small "$@" pipeline.speed=1e9 --own --json >plan.json || { miss "plan $*"; return; }
    of() { tr ',{' '\n\n' <plan.json | sed -n "s/^\"$1\"://p" | head -n 1; }
    older=$(of stashes) kept=$(($(planned "$ran" weights) - $(of weights)))
    [ "$older" -gt 0 ] && [ $((kept - older)) -lt 64 ] && [ $((older - kept)) -lt 64 ] ||
        miss "$ran: weights $(planned "$ran" weights), planned $(of weights) and older $older"
    [ "$(of gradients)" = "$(planned "$ran" gradients)" ] ||
        miss "$ran: gradients $(planned "$ran" gradients), planned $(of gradients)"
}

for schedule in pipedream pipedream-2bw; do
    for kind in "optim.kind=adamw optim.lr=0.002" "optim.kind=muon"; do
        for stages in 4 2; do # one segment each, and two
            how="pipeline.schedule=$schedule $kind pipeline.stages=$stages"
            # shellcheck disable=SC2086
            {
                go plain $how
                go states $how optim.offload=disk && same plain states
                go gradients $how optim.offload=disk $gradients && same plain gradients
                back plain resumed $how optim.offload=disk && same plain resumed
                back plain resumed $how optim.offload=disk $gradients train.recompute=true && same plain resumed
            }
        done
    done
done
# shellcheck disable=SC2086
counted gradients $how optim.offload=disk $gradients
[ "$(planned states states)$(planned gradients states)" = 00 ] || miss "states stayed in memory"
[ "$(planned gradients gradients)" -lt $(($(planned states gradients) / 2)) ] || miss "gradients stayed in memory"

# Updates on the host, on a device whose memory is not the host's: the bits of updates where the weights are.
adamw="optim.kind=adamw optim.lr=0.002"
hidden="pipeline.device=late:cpu optim.offload=host"
for schedule in pipedream "pipedream pipeline.vertical_sync=true" pipedream-2bw; do
    for stages in 4 2; do
        how="pipeline.schedule=$schedule $adamw pipeline.stages=$stages"
        # shellcheck disable=SC2086
        {
            go plain $how
            go hosted $how $hidden optim.offload_update=host && same plain hosted
            back hosted resumed $how optim.offload=none && same plain resumed
            back plain resumed $how $hidden optim.offload_update=host train.recompute=true && same plain resumed
        }
    done
done
down=$(planned hosted host_down) early=$(planned hosted host_early)
[ "$down" -gt 0 ] && [ "$down" = "$early" ] || miss "$early of $down bytes of gradients went down beside the backward pass"
trunk="boundary.tokens=trunk boundary.trunk_width=32 boundary.trunk_heads=2 data.distribute=shared pipeline.schedule=pipedream-2bw"
# shellcheck disable=SC2086
go plain $adamw $trunk && go hosted $adamw $trunk $hidden optim.offload_update=host && same plain hosted

# An update after every second microbatch, in steps that do not flow into one another.
cat >ours <<'TEXT'
0F0 0F1 0F2 0B0 0B1 0U1 0F3 0B2 0B3 0U3
1F0 1B0 1F1 1B1 1U1 1F2-1 1B2 1F3 1B3 1U3
TEXT
ours="pipeline.stages=2 model.layers=2 model.segments=2 pipeline.schedule=file:ours"
# shellcheck disable=SC2086
{
    go plain $ours && go gradients $ours optim.offload=disk $gradients && same plain gradients
    go plain $ours $adamw && go hosted $ours $adamw $hidden optim.offload_update=host && same plain hosted
}

# What a boundary holds to a subspace is projected wherever it is.
held="boundary.kind=subspace boundary.codec_fwd=bf16 boundary.codec_bwd=bf16 pipeline.schedule=pipedream-2bw pipeline.stages=2"
# shellcheck disable=SC2086
{
    go plain $held && go gradients $held optim.offload=disk $gradients && same plain gradients
    go plain $held $adamw && go hosted $held $adamw $hidden optim.offload_update=host && same plain hosted
}
[ -f "$RB_BINARY_DIR/resbm-cuda-emulated.so" ] || { echo "not tried: cuda:emulated, which this build has not"; verdict; exit; }
# Matrices on the device in bf16 alone, older versions of them too: near the bits of masters there, whatever completes late, on
# another number of stages, resumed; Muon with its momentum and gradients in host memory has the very bits.
small="$small model.d=32 model.layers=2 model.heads=2 model.ffn=48 model.context=16 model.segments=2 boundary.ratio=8 boundary.hidden=16
    train.eval_sequences=2 pipeline.stages=2"
on_host="optim.offload=host optim.offload_update=host"
for schedule in pipedream pipedream-2bw; do
    how="pipeline.schedule=$schedule $adamw"
    # shellcheck disable=SC2086
    {
        go plain pipeline.device=cuda:emulated $how
        go hosted pipeline.device=cuda:emulated $how $on_host && near plain hosted 0.01
        go late pipeline.device=late:cuda:emulated $how $on_host && same hosted late
        back hosted resumed pipeline.device=late:cuda:emulated $how $on_host && same hosted resumed
        counted hosted pipeline.device=cuda:emulated $how $on_host
    }
done
# shellcheck disable=SC2086
go alone pipeline.device=late:cuda:emulated $how $on_host pipeline.stages=1 && same hosted alone
[ $((4 * $(planned hosted weights))) -lt $((3 * $(planned plain weights))) ] ||
    miss "masters on the host leave $(planned hosted weights) bytes of weights and older ones of $(planned plain weights)"
how="pipeline.schedule=pipedream-2bw"
# shellcheck disable=SC2086
{
    go plain pipeline.device=cuda:emulated $how
    go gradients pipeline.device=late:cuda:emulated $how optim.offload=host $gradients && same plain gradients
}
verdict
