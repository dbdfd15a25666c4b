#!/bin/sh
# ctest: timeout=300 serial
# Faults of the run as a user meets them: each ends in a message that says what, where and what to do, with a status
# other than zero, leaves no process and no hang, and the last snapshot goes on where it stood.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
. "$RB_SOURCE_DIR/tests/faults_common.sh"

for k in 0 1 2 3; do
    launch killed
    kill -KILL "$(stage $k)"
    ends killed 10
    [ $status = 1 ] || miss "stage $k killed: status $status"
    says killed.log "stage $k \(process [0-9]+\) was killed by signal 9 .*(in|of) step [0-9]+"
    says killed.log "killed/step-[0-9]+: go on with --resume"
done
goes_on killed

launch stopped pipeline.deadline=${patience}s link.latency=100ms
kill -STOP "$(stage 2)"
ends stopped 15
[ $status = 1 ] || miss "stage 2 stopped: status $status"
says stopped.log "stage [0-3] waited [0-9.]+ s for the (forward )?(activation|gradient) of boundary [0-2], microbatch [0-2], step [0-9]+|waited [0-9.]+ s for a sign of life from stage 2 (in step|while writing)"
says stopped.log "stopped stage 2"
says stopped.log "go on with --resume"
goes_on stopped

# Stopped while nobody but the coordinator waits for it: the snapshots are all there is time for.
launch asleep pipeline.deadline=${patience}s train.checkpoint_every=1 link.latency=0ms
kill -STOP "$(stage 2)"
ends asleep 15
[ $status = 1 ] || miss "stage 2 asleep: status $status"
says asleep.log "waited .*stopped stage 2"
goes_on asleep

launch interrupted
kill -s INT -- -$pid
ends interrupted 10
[ $status = 130 ] || miss "Ctrl-C: status $status"
says interrupted.log "stopped on request after step [0-9]+.*go on with --resume"
at=$(sed -n '$s/.*"step":\([0-9]*\),.*/\1/p' interrupted/metrics.jsonl)
[ -s "interrupted/step-$at/manifest.json" ] || miss "Ctrl-C at step $at left no snapshot of it"
goes_on interrupted

launch orphans
kill -KILL $pid
ends orphans 10
goes_on orphans
verdict
