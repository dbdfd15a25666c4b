#!/bin/sh
# ctest: timeout=900
# The CUDA device's own sources, run on the host (cuda:emulated), in whole trainings: the losses are the CPU's within what
# their products round, other numbers of stages and a device that completes late in hidden memory give the same bits, CPU
# and CUDA stages mix, and what is missing or does not fit is said.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-cuda-emulated.so" ] || { echo "skipped: this build has no resbm-cuda-emulated.so"; exit 77; }
make_corpus
make_config
small="model.d=32 model.layers=2 model.heads=2 model.kv_heads=1 model.ffn=48 model.context=16 model.segments=2 boundary.ratio=8
    boundary.hidden=16 train.batch=4 train.microbatches=2 train.eval_sequences=2 pipeline.stages=1"

# go DIR SETTINGS: trains; its failure is shown.
go() {
    name=$1
    shift
    # shellcheck disable=SC2086
    train "$name" $small "$@" || { miss "$name: $*"; cat "$name.log"; return 1; }
}
# near A B WITHIN: their losses, step by step, as a share.
near() {
    for run in "$1" "$2"; do sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$run/metrics.jsonl" >"$run.losses"; done
    paste "$1.losses" "$2.losses" | awk -v within="$3" 'BEGIN { worst = 0 }
        { off = ($1 - $2) / $1; if (off < 0) off = -off; if (off > worst) worst = off }
        END { print NR " losses, " worst " off at most"; exit !(NR >= 3 && worst <= within) }' || miss "$1 and $2 differ"
}
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
go bf16 pipeline.device=cuda:emulated && near cpu bf16 0.02
go f16 pipeline.device=cuda:emulated:1 && near cpu f16 0.005
go two pipeline.device=cuda:emulated pipeline.math=f32 pipeline.stages=2 && same f32 two
go late pipeline.device=late:cuda:emulated && same bf16 late
go mixed pipeline.device="cuda:emulated, cpu" pipeline.math=auto pipeline.stages=2 && near cpu mixed 0.02
go late-zb pipeline.device=late:cuda:emulated pipeline.schedule=zb-h1 pipeline.stages=2 && same bf16 late-zb
go late-2bw pipeline.device=late:cuda:emulated pipeline.schedule=pipedream-2bw optim.clip_scope=segment pipeline.stages=2
go 2bw pipeline.device=cuda:emulated pipeline.schedule=pipedream-2bw optim.clip_scope=segment pipeline.stages=2 && same 2bw late-2bw
go host pipeline.device=cuda:emulated optim.offload=host optim.offload_parts=states+gradients && same bf16 host
go host-mixed pipeline.device="late:cuda:emulated,cpu" pipeline.stages=2 optim.offload=host && same mixed host-mixed
go adamw-cpu optim.kind=adamw optim.lr=0.002
go adamw-host pipeline.device=late:cpu optim.kind=adamw optim.lr=0.002 optim.offload=host optim.offload_update=host &&
    same adamw-cpu adamw-host
go adamw pipeline.device=cuda:emulated pipeline.math=f32 optim.kind=adamw optim.lr=0.002 pipeline.schedule=zb-h1 pipeline.stages=2
near adamw-cpu adamw 0.0001

refused 'no device "gpu"' pipeline.device=gpu
refused 'names 3 devices for pipeline.stages = 2' pipeline.device=cpu,cpu,cpu pipeline.stages=2
refused 'cuda:7: this machine has 2 GPUs' pipeline.device=cuda:emulated:7
refused 'bf16; there are f32 and f16' pipeline.device=cuda:emulated:1 pipeline.math=bf16
refused 'cpu computes products in f32 only' pipeline.math=bf16
RB_CUDA_EMU_MEMORY=300000 && export RB_CUDA_EMU_MEMORY
refused 'the activations, .* GB (segment .*emulated.*of its 0.0003 GB are free): .*train.microbatches' pipeline.device=cuda:emulated
RB_CUDA_EMU_MEMORY=100000
refused 'the weights, .* GB (segment .*of its 0.0001 GB are free): .*optim.offload' pipeline.device=cuda:emulated
unset RB_CUDA_EMU_MEMORY
refused 'offload_update = host needs optim.offload = host' optim.offload_update=host
refused 'offload = host is for accelerators' optim.offload=host
RESBM_CUDA_PLUGIN=$PWD "$resbm" doctor >doctor.log 2>&1
grep -q 'cuda: .*not usable here: device cuda: this build has no resbm-cuda.so' doctor.log || { miss "doctor"; cat doctor.log; }
verdict
