#!/bin/sh
# ctest: timeout=400
# Schedules whose stages update on their own: PipeDream on one stage is training with as many smaller steps, 2BW gives the
# same bits on any number of stages, and every kind goes on bit for bit after a kill or from a snapshot.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

async="pipeline.deadline=10s optim.clip_scope=segment train.batch=8 train.microbatches=4 train.steps=6 train.eval_every=2
    train.checkpoint_every=3"
run() { # DIR settings ...
    # shellcheck disable=SC2086
    train "$@" $async || { miss "$*"; cat "$1.log"; }
}

# One stage has nothing in flight: an update per microbatch is a step per microbatch.
even="pipeline.stages=1 pipeline.deadline=10s optim.clip_scope=segment optim.schedule=constant optim.warmup=0 boundary.codec_fwd=f32
    boundary.codec_bwd=f32 train.eval_every=0"
for kind in residual subspace; do
    # shellcheck disable=SC2086
    {
        train each $even boundary.kind=$kind train.batch=8 train.microbatches=4 train.steps=3 pipeline.schedule=pipedream || { miss each; cat each.log; }
        train small $even boundary.kind=$kind train.batch=2 train.microbatches=1 train.steps=12 || { miss small; cat small.log; }
    }
    weights each >each.weights && weights small >small.weights
    [ -s each.weights ] && cmp -s each.weights small.weights || miss "pipedream on one stage, $kind, is not training with smaller steps"
done

# Delayed by one step everywhere, 2BW does not know how many stages there are.
run one pipeline.schedule=pipedream-2bw pipeline.stages=1
for deployment in "pipeline.stages=2" "pipeline.stages=4" "pipeline.stages=3 train.recompute=true data.distribute=wire" \
    "pipeline.stages=4 link.latency=3ms link.jitter=1ms pipeline.inflight=2 pipeline.transport=tcp"; do
    # shellcheck disable=SC2086
    run other pipeline.schedule=pipedream-2bw $deployment
    same one other
done

# What a boundary remembers, holds its tensors to or narrows over time goes by the microbatch's own step.
for model in "boundary.kind=topk boundary.feedback=gradient" "boundary.kind=subspace" "boundary.identity=rotate" "boundary.anneal_from=4" \
    "boundary.tokens=trunk boundary.trunk_width=32 boundary.trunk_heads=2 boundary.aux=latent" "optim.kind=adamw optim.lr=0.002"; do
    # shellcheck disable=SC2086
    run one pipeline.schedule=pipedream-2bw pipeline.stages=1 $model
    # shellcheck disable=SC2086
    run other pipeline.schedule=pipedream-2bw $model
    same one other
done
# Trunks before their messages, by the version of the weights that their segments see.
trunk="boundary.tokens=trunk boundary.trunk_width=32 boundary.trunk_heads=2 data.distribute=shared"
# shellcheck disable=SC2086
run one pipeline.schedule=pipedream-2bw pipeline.stages=1 $trunk
# shellcheck disable=SC2086
run other pipeline.schedule=pipedream-2bw $trunk train.recompute=true
same one other

# Under the others staleness, and with it the result, belongs to the stages; not to threads, timing or how data comes.
for kind in "pipedream" "pipedream pipeline.vertical_sync=true" "pipedream-2bw"; do
    # shellcheck disable=SC2086
    run straight pipeline.schedule=$kind
    # shellcheck disable=SC2086
    run other pipeline.schedule=$kind train.recompute=true data.distribute=wire pipeline.threads=2 pipeline.transport=tcp
    same straight other
    rm -rf half && cp -r straight half && rm -rf half/step-6
    # shellcheck disable=SC2086
    run half pipeline.schedule=$kind --resume
    same straight half
    # Killed in the middle, coordinator and all.
    # shellcheck disable=SC2086
    killed_at 4 6 killed $async pipeline.schedule=$kind pipeline.inflight=1
    [ -d killed/step-3 ] || miss "$kind was killed before its first snapshot"
    # shellcheck disable=SC2086
    run killed pipeline.schedule=$kind pipeline.inflight=1 link.latency=1ms --resume
    # shellcheck disable=SC2086
    run deeper pipeline.schedule=$kind pipeline.inflight=1 link.latency=1ms
    same deeper killed
done
stale=$(sed -n 's/.*"staleness": \[\([^]]*\)\].*/\1/p' straight/summary.json)
case "$stale" in [0-9]*,*,*,*) ;; *) miss "no staleness per stage in summary.json: $stale" ;; esac

# With a schedule of one's own: an update after every second microbatch, nothing left over from step to step.
cat >ours <<'TEXT'
0F0 0F1 0F2 0B0 0B1 0U1 0F3 0B2 0B3 0U3
1F0 1B0 1F1 1B1 1U1 1F2-1 1B2 1F3 1B3 1U3
TEXT
run own pipeline.stages=2 model.layers=2 model.segments=2 pipeline.schedule=file:ours
run again pipeline.stages=2 model.layers=2 model.segments=2 pipeline.schedule=file:ours train.recompute=true
same own again

refused() {
    sentence=$1
    shift
    # shellcheck disable=SC2086
    train bad "$@" && miss "$* was taken"
    grep -qF "$sentence" bad.log || { miss "$*: not refused with \"$sentence\""; cat bad.log; }
}
refused 'set optim.clip_scope: segment' pipeline.schedule=pipedream
refused 'set train.microbatches to 4 or more, or pipeline.stages to 3' pipeline.schedule=pipedream-2bw optim.clip_scope=segment
echo '0F0 0F1 0B0 0U0 0F2 0B1 0F3 0B2 0B3 0U3' >uneven
refused 'all must take as many' pipeline.schedule=file:uneven pipeline.stages=1 model.segments=1 optim.clip_scope=segment train.batch=8 train.microbatches=4
refused 'set optim.delay: 0' pipeline.schedule=pipedream optim.clip_scope=segment optim.delay=1
verdict
