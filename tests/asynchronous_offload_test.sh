#!/bin/sh
# ctest: timeout=400
# Offload under schedules whose stages update on their own: states, and gradients, on disk give the bits of keeping them in
# memory, for one segment a stage and two, resumed either way.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
gradients=optim.offload_parts=states+gradients
small="model.d=64 model.ffn=96 pipeline.deadline=10s optim.clip_scope=segment train.batch=8 train.microbatches=4 train.steps=4
    train.checkpoint_every=2 train.keep=9 train.eval_every=3"

# go DIR SETTINGS: trains; its failure is shown.
go() {
    name=$1
    shift
    # shellcheck disable=SC2086
    train "$name" $small "$@" || { miss "$name: $*"; cat "$name.log"; return 1; }
}
# back DIR SETTINGS: a copy of `plain` goes on from its first snapshot.
back() {
    rm -rf "$1" && cp -r plain "$1" && rm -rf "$1/step-4"
    go "$@" --resume
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
                back resumed $how optim.offload=disk && same plain resumed
                back resumed $how optim.offload=disk $gradients train.recompute=true && same plain resumed
            }
        done
    done
done
[ "$(sed -n 's/.*"states": \([0-9]*\),.*/\1/p' states/summary.json | head -n 1)" = 0 ] || { miss "states stayed in memory"; cat states/summary.json; }

# An update after every second microbatch, in steps that do not flow into one another.
cat >ours <<'TEXT'
0F0 0F1 0F2 0B0 0B1 0U1 0F3 0B2 0B3 0U3
1F0 1B0 1F1 1B1 1U1 1F2-1 1B2 1F3 1B3 1U3
TEXT
ours="pipeline.stages=2 model.layers=2 model.segments=2 pipeline.schedule=file:ours"
# shellcheck disable=SC2086
go plain $ours && go gradients $ours optim.offload=disk $gradients && same plain gradients

# What a boundary holds to a subspace is projected wherever it is.
held="boundary.kind=subspace boundary.codec_fwd=bf16 boundary.codec_bwd=bf16 pipeline.schedule=pipedream-2bw pipeline.stages=2"
# shellcheck disable=SC2086
go plain $held && go gradients $held optim.offload=disk $gradients && same plain gradients
verdict
