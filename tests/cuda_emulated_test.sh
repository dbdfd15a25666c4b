#!/bin/sh
# ctest: timeout=900
# The CUDA device's own sources, run on the host (cuda:emulated), in whole trainings: the losses are the CPU's within what
# their products round, other numbers of stages and a device that completes late in hidden memory give the same bits, replicas and
# generated text agree, CPU and CUDA stages mix, and what is missing or does not fit is said.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-cuda-emulated.so" ] || { echo "skipped: this build has no resbm-cuda-emulated.so"; exit 77; }
make_corpus
make_config
small="model.d=32 model.layers=2 model.heads=2 model.kv_heads=1 model.ffn=48 model.context=16 model.segments=2 boundary.ratio=8
    boundary.hidden=16 train.batch=4 train.microbatches=2 train.eval_sequences=2 pipeline.stages=1"

# refused PATTERN SETTINGS: the run ends with a message like this.
refused() {
    pattern=$1
    shift
    # shellcheck disable=SC2086
    train no $small "$@" && miss "$* was accepted"
    grep -q "$pattern" no.log || { miss "$*: no message like $pattern"; cat no.log; }
}

go cpu pipeline.device=cpu
go f32 pipeline.device=cuda:emulated pipeline.math=f32 && near cpu f32 0.0001
# With a profile, which changes no bit (the runs below that have to be the same are without).
export RESBM_CUDA_PROFILE=$PWD/profile
go bf16 pipeline.device=cuda:emulated && near cpu bf16 0.02
unset RESBM_CUDA_PROFILE
grep -q 'ms in operations' profile && grep -Eq ' [0-9.]+%  *[0-9]+  *[0-9.]+  *[0-9.]+  attention_forward ' profile ||
    { miss "the profile lacks its heading or attention"; cat profile; }
go f16 pipeline.device=cuda:emulated:1 && near cpu f16 0.005
go two pipeline.device=cuda:emulated pipeline.math=f32 pipeline.stages=2 && same f32 two
# A text goes on with the same tokens as on the CPU in f32, and in bf16 with the same on any stages, however late.
tells() { # TEXT RUN SETTINGS
    text=$1
    shift
    "$resbm" generate "$@" -p 'the slow ' -n 20 -t 1 -P 1 -S 5 >"$text" 2>generate.log || { miss "generate $*"; cat generate.log; }
    [ "$(wc -c <"$text")" -gt 15 ] || miss "generate $* says nothing"
}
tells text-cpu f32 pipeline.device=cpu pipeline.math=auto
tells text-f32 two && { cmp -s text-cpu text-f32 || miss "generate says something else than on the CPU"; }
tells text-one bf16
tells text-two bf16 pipeline.device=late:cuda:emulated pipeline.stages=2
cmp -s text-one text-two || miss "generate says something else on two stages, late"
# Two replicas, each with a share of the microbatches, whose gradients are added up on the host; the same bits late.
go pair pipeline.device=cuda:emulated pipeline.replicas=2 pipeline.deal=even && near bf16 pair 0.0001
go pair-late pipeline.device=late:cuda:emulated pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even && same pair pair-late
# Without matrices kept in bf16 between updates, and late: the bits of rounding them at each use; 2 bytes less for each in the plan.
go late pipeline.device=late:cuda:emulated pipeline.weight_copies=false && same bf16 late
kept=$(planned bf16 weights) bare=$(planned late weights)
[ "$kept" -gt $((bare * 5 / 4)) ] && [ "$kept" -le $((bare * 3 / 2)) ] || miss "copies: $kept bytes of weights, $bare without"
# What was really taken is what was planned, and working memory of the kernels, which is not in the plan.
sum=0 taken=$(planned bf16 taken)
for what in weights gradients states scratch activations; do sum=$((sum + $(planned bf16 $what))); done
[ "$taken" -gt "$sum" ] && [ "$taken" -lt $((sum + 4000000)) ] || miss "$taken bytes taken, $sum planned"
# Activations inside blocks in bf16 (the default where products are in it) or f32; with all that a block can have.
go wide pipeline.device=cuda:emulated pipeline.activations=f32 && near cpu wide 0.02 && near wide bf16 0.02
half=$(planned bf16 activations) whole=$(planned wide activations)
[ $((half * 10)) -lt $((whole * 9)) ] || miss "activations: $half bytes in bf16, $whole in f32"
# Attention by the library (loops in its place): operands where they lie, and rounded where activations are f32, which gives other
# losses than own attention; the same bits on other numbers of stages and late. `auto` measures and says what it took.
go cudnn pipeline.device=cuda:emulated pipeline.attention=cudnn && near cpu cudnn 0.02
grep -q '"emulated"' cudnn/summary.json || { miss "summary.json does not say whose attention it was"; cat cudnn/summary.json; }
go cudnn-late pipeline.device=late:cuda:emulated pipeline.attention=cudnn pipeline.stages=2 && same cudnn cudnn-late
go cudnn-wide pipeline.device=cuda:emulated pipeline.attention=cudnn pipeline.activations=f32 && near wide cudnn-wide 0.02
cmp -s wide.losses cudnn-wide.losses && miss "attention by the library gives the very losses of own attention: it was not taken"
go faster pipeline.device=late:cuda:emulated pipeline.attention=auto && near cpu faster 0.02
for way in forward backward; do
    grep -q "attention $way of 2 x 16 tokens, 2 heads of 16, 1 of keys: .*own [0-9.e-]* ms, cuDNN [0-9.e-]* ms" faster/summary.json ||
        { miss "summary.json does not say whose attention the $way pass took"; cat faster/summary.json; }
done
rich="model.qk_norm=true model.qkv_bias=true train.recompute=true"
# shellcheck disable=SC2086
{
    go rich-cpu pipeline.device=cpu $rich
    go rich pipeline.device=cuda:emulated $rich && near rich-cpu rich 0.02
    go rich-late pipeline.device=late:cuda:emulated pipeline.stages=2 pipeline.schedule=zb-h1 $rich && same rich rich-late
    go rich-f16 pipeline.device=cuda:emulated:1 $rich && near rich-cpu rich-f16 0.005
}
go mixed pipeline.device="cuda:emulated, cpu" pipeline.math=auto pipeline.stages=2 && near cpu mixed 0.02
go late-zb pipeline.device=late:cuda:emulated pipeline.schedule=zb-h1 pipeline.stages=2 && same bf16 late-zb
go late-2bw pipeline.device=late:cuda:emulated pipeline.schedule=pipedream-2bw optim.clip_scope=segment pipeline.stages=2 \
    pipeline.weight_copies=false
go 2bw pipeline.device=cuda:emulated pipeline.schedule=pipedream-2bw optim.clip_scope=segment pipeline.stages=2 && same 2bw late-2bw
# Older versions are what computes with them reads: 4 + 2 + 2 bytes for most weights, and 4 + 4 without copies in bf16.
[ $(($(planned 2bw weights) * 20)) -le $(($(planned late-2bw weights) * 21)) ] ||
    miss "older versions: $(planned 2bw weights) bytes of weights in all, $(planned late-2bw weights) without copies in bf16"
go host pipeline.device=cuda:emulated optim.offload=host optim.offload_parts=states+gradients && same bf16 host
go host-mixed pipeline.device="late:cuda:emulated,cpu" pipeline.stages=2 optim.offload=host && same mixed host-mixed
go adamw-cpu optim.kind=adamw optim.lr=0.002
go adamw-host pipeline.device=late:cpu optim.kind=adamw optim.lr=0.002 optim.offload=host optim.offload_update=host &&
    same adamw-cpu adamw-host
go adamw pipeline.device=cuda:emulated pipeline.math=f32 optim.kind=adamw optim.lr=0.002 pipeline.schedule=zb-h1 pipeline.stages=2
near adamw-cpu adamw 0.0001

# Masters and AdamW on the host, matrices on the device in bf16 alone: whatever the device completes late, on other numbers of
# stages, after going on from a snapshot; and with a delayed update. Not the bits of AdamW on the device, but near.
adamw='optim.kind=adamw optim.lr=0.002 train.checkpoint_every=1 train.keep=9'
on_host='optim.offload=host optim.offload_update=host'
# shellcheck disable=SC2086
{
    go adamw-bf16 pipeline.device=cuda:emulated $adamw
    go masters pipeline.device=cuda:emulated $adamw $on_host && near adamw-bf16 masters 0.01
    go masters-late pipeline.device=late:cuda:emulated pipeline.schedule=zb-h1 pipeline.stages=2 $adamw $on_host && same masters masters-late
    go delayed pipeline.device=cuda:emulated $adamw $on_host optim.delay=1
    cp -r delayed back && rm -rf back/step-2 back/step-3
    go back --resume pipeline.device=late:cuda:emulated pipeline.stages=2 $adamw $on_host optim.delay=1 && same delayed back
}
early=$(planned masters host_early)
[ "$early" -gt 0 ] && [ "$early" = "$(planned masters host_down)" ] || miss "$early bytes of gradients went down beside the backward pass"
less=$(planned masters weights) more=$(planned adamw-bf16 weights)
[ $((2 * less)) -lt "$more" ] || miss "masters on the host leave $less bytes of weights of $more"
[ "$(planned masters states)" = 0 ] && [ "$(planned masters host)" -gt "$more" ] || miss "what the host keeps: $(planned masters host)"

refused 'no device "gpu"' pipeline.device=gpu
refused 'names 3 devices for pipeline.stages = 2' pipeline.device=cpu,cpu,cpu pipeline.stages=2
refused 'cuda:7: this machine has 2 GPUs' pipeline.device=cuda:emulated:7
refused 'bf16; there are f32 and f16' pipeline.device=cuda:emulated:1 pipeline.math=bf16
refused 'cpu computes products in f32 only' pipeline.math=bf16
refused 'activations = bf16, but stage 0.s device cpu' pipeline.activations=bf16
refused 'attention = cudnn is for GPUs' pipeline.attention=cudnn
refused 'attention = cudnn: .*for products in bf16' pipeline.device=cuda:emulated pipeline.math=f32 pipeline.attention=cudnn
refused 'attention = cudnn: .*for products in bf16' pipeline.device=cuda:emulated:1 pipeline.attention=cudnn
RB_CUDA_EMU_CUDNN=0 && export RB_CUDA_EMU_CUDNN
refused 'attention = cudnn: cuDNN is missing' pipeline.device=cuda:emulated pipeline.attention=cudnn
go without pipeline.device=cuda:emulated pipeline.attention=auto && same bf16 without
grep -q '"own attention: cuDNN is missing' without/summary.json || { miss "summary.json does not say why attention is own"; cat without/summary.json; }
unset RB_CUDA_EMU_CUDNN
RB_CUDA_EMU_MEMORY=330000 && export RB_CUDA_EMU_MEMORY
refused 'the activations, .* GB (segment .*emulated.*of its 0.00033 GB are free): .*train.microbatches' pipeline.device=cuda:emulated
RB_CUDA_EMU_MEMORY=100000
refused 'the weights, .* GB (segment .*of its 0.0001 GB are free): .*optim.offload' pipeline.device=cuda:emulated

# What is proposed then fits, each by itself, where all of it is planned; what is not enough is said too. On a card of 7.5 as well,
# whose products are f16 without being asked for, with activations in f32.
fit="optim.kind=adamw optim.lr=0.002 train.steps=1 optim.warmup=0 train.batch=12 train.microbatches=1"
least=2
for card in cuda:emulated cuda:emulated:1; do
    RB_CUDA_EMU_MEMORY=100000000
    # shellcheck disable=SC2086
    go fitting pipeline.device=$card $fit
    for what in weights gradients states activations; do planned fitting $what; done | paste -s -d+ >sum
    RB_CUDA_EMU_MEMORY=$(($(cat sum) - 20000))
    # shellcheck disable=SC2086
    refused 'stage 0 plans .*GB are free for it. It fits with any of: ' pipeline.device=$card $fit
    sed -n 's/.*It fits with any of: //p' no.log | head -n 1 | sed 's/ ([0-9.e+-]* GB)/\n/g' | sed 's/^, //' >ways
    [ "$(grep -c = ways)" -ge $least ] || { miss "only these are proposed on $card:"; cat ways no.log; }
    while read -r way; do
        # shellcheck disable=SC2086
        case $way in *=*) go "fits-$(echo "$way" | tr -c 'a-z0-9\n' -)" pipeline.device=$card $fit $way ;; esac
    done <ways
    least=1
done
fit="pipeline.device=cuda:emulated $fit"
RB_CUDA_EMU_MEMORY=50000
# shellcheck disable=SC2086
refused 'None of these alone is enough: .*together .*does not fit either: spread the model' $fit
unset RB_CUDA_EMU_MEMORY
refused 'offload_update = host needs optim.offload = host' optim.offload_update=host
refused 'offload = host is for accelerators' optim.offload=host
RESBM_CUDA_PLUGIN=$PWD "$resbm" doctor >doctor.log 2>&1
grep -q 'cuda: .*not usable here: device cuda: this build has no resbm-cuda.so' doctor.log || { miss "doctor"; cat doctor.log; }
verdict
