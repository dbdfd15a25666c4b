#!/bin/sh
# ctest: timeout=240
# Four stages, or two with replicas, through a nats-server: bit for bit the losses and weights of the local engine, also where packets are
# doubled, reordered and lost on their way; nothing of the server stays; without the module its absence is named.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
train local || { miss local; cat local.log; }
train nats engine=nats || { miss nats; cat nats.log; }
same local nats
RESBM_MISCHIEF=seed=5,twice=0.05,late=0.05,lost=0.02 train mischief engine=nats || { miss mischief; cat mischief.log; }
same local mischief
train two engine=nats pipeline.stages=2 data.distribute=wire pipeline.schedule=gpipe || { miss two; cat two.log; }
same local two
replicated="pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even train.steps=4 train.eval_every=2 optim.local_steps=2"
# shellcheck disable=SC2086
train locals $replicated || { miss locals; cat locals.log; }
# shellcheck disable=SC2086
train nlocals $replicated engine=nats || { miss nlocals; cat nlocals.log; }
same locals nlocals
for d in nats mischief two nlocals; do [ ! -e $d/server ] || miss "$d leaves files of its server"; done

# Killed: its stages and its server go too, and the run goes on from its snapshot.
. "$RB_SOURCE_DIR/tests/faults_common.sh"
launch orphans engine=nats
[ "$(pgrep -s $pid -f nats-server | wc -l)" = 1 ] || family="$family $(pgrep -f "nats-server -c $PWD/orphans/")"
kill -KILL $pid
ends orphans 10
goes_on orphans
launch killed engine=nats
kill -KILL "$(stage 1)"
ends killed 15
[ $status = 1 ] || miss "stage 1 killed: status $status"
says killed.log "stage 1 \(process [0-9]+\) was killed by signal 9 .*(in|of) step [0-9]+"

mkdir -p alone && cp "$resbm" alone/resbm
alone/resbm train -q run.yaml --out without engine=nats >without.log 2>&1 && miss "trained without the module"
says without.log "engine nats is not in this build .*apt-get install libnats-dev"
verdict
