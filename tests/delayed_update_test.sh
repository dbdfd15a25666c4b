#!/bin/sh
# ctest: timeout=180
# optim.delay: 1, in whole runs: gradients are of weights that lack the newest update; the same bits on any number of stages, under
# every synchronous schedule, wherever states are, and after going on from a snapshot; said where the run says what it is.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
small="model.d=32 model.heads=2 model.ffn=48 boundary.ratio=4 boundary.hidden=16 train.batch=4 train.microbatches=2
    train.eval_sequences=2 optim.delay=1"

# go DIR SETTINGS: a delayed run; its failure is shown.
go() {
    name=$1
    shift
    # shellcheck disable=SC2086
    train "$name" $small train.steps=5 "$@" || { miss "$name: $*"; cat "$name.log"; }
}

# All steps see one and the same sequence: losses are of weights alone. a, a, b, ... where without a delay they are a, b, ...
head -c 100 text >line
"$resbm" data --val 0.5 --out one line >one.log 2>&1 || { miss one; cat one.log; }
alone='data.train=one/train-*.bin data.val= optim.schedule=constant optim.warmup=0 boundary.codec_fwd=f32 boundary.codec_bwd=f32'
# shellcheck disable=SC2086
{
    go one-delayed $alone train.steps=4
    go one-plain $alone train.steps=3 optim.delay=0
}
for run in one-delayed one-plain; do sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' $run/metrics.jsonl >$run.losses; done
cat one-plain.losses one-delayed.losses | paste -s -d' ' | awk '{ print; exit !(NF == 7 && $1 != $2 && $4 == $1 && $5 == $1 && $6 == $2 && $7 != $3) }' ||
    miss "a delayed update is not seen one step later than a plain one"

go whole train.checkpoint_every=2 train.keep=9
for stages in 1 2; do go stages-$stages pipeline.stages=$stages && same whole stages-$stages; done
go zb pipeline.schedule=zb-h1 pipeline.stages=2 && same whole zb
go disk optim.offload=disk optim.offload_parts=states+gradients pipeline.stages=2 && same whole disk
go replicas pipeline.stages=2 pipeline.replicas=2
[ "$(number replicas delay)" = 1 ] || miss "replicas"
go adamw optim.kind=adamw optim.lr=0.002
go adamw-host optim.kind=adamw optim.lr=0.002 pipeline.device=late:cpu optim.offload=host optim.offload_update=host \
    pipeline.stages=2 && same adamw adamw-host
go held boundary.kind=subspace boundary.codec_fwd=bf16 boundary.codec_bwd=bf16
go held-1 boundary.kind=subspace boundary.codec_fwd=bf16 boundary.codec_bwd=bf16 pipeline.stages=1 && same held held-1

# Going on from step 2, elsewhere; and from or to a run without a delay, which is said.
cp -r whole back && rm -rf back/step-4 back/step-5
go back --resume pipeline.stages=1 optim.offload=disk && same whole back
cp -r whole plain && rm -rf plain/step-5
go plain --resume optim.delay=0
grep -q 'optim.delay' plain.log || miss "nothing says that the delay ended"

go lone optim.delay=0 train.checkpoint_every=2
cp -r lone late && rm -rf late/step-5
go late --resume
grep -q 'optim.delay' late.log || miss "nothing says that a delay began"
"$resbm" verify run.yaml optim.delay=1 >verify.log 2>&1 || { miss verify; tail -n 3 verify.log; }

# The loss that the run ends with is that of its snapshot.
"$resbm" eval whole >eval.log 2>&1 || { miss eval; cat eval.log; }
awk -v want="$(number whole val_loss)" '{ for (i = 1; i <= NF; i++) if ($i + 0 > 0 && ($i - want < 1e-4 && want - $i < 1e-4)) found = 1 }
    END { exit !found }' eval.log || { miss "eval gives another loss than $(number whole val_loss)"; cat eval.log; }

grep -q '^delayed update' whole.log || miss "the run does not say that its updates are delayed"
[ "$(number whole delay)" = 1 ] || miss "summary.json has no delay"
grep -q '"delay":1' whole/report.html || miss "report.html has no delay"
grep -q '"delay"' one-plain/summary.json && miss "a run without a delay has one in summary.json"
for bad in "optim.delay=2" "pipeline.schedule=pipedream-2bw pipeline.stages=2 optim.clip_scope=segment" \
    "pipeline.replicas=2 pipeline.stages=2 optim.local_steps=2"; do
    # shellcheck disable=SC2086
    train no $small $bad && miss "$bad was accepted"
    grep -q 'optim.delay' no.log || { miss "$bad: no message about optim.delay"; cat no.log; }
done
verdict
