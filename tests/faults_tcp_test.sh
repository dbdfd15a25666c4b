#!/bin/sh
# ctest: timeout=300 serial
# Faults over TCP, between processes that cannot see each other's ends: killed and stopped stages, connections cut and
# gone silent, frames changed on their way. frame_proxy (tests/frame_proxy.c) is the faulty network.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config
. "$RB_SOURCE_DIR/tests/faults_common.sh"
tcp="pipeline.transport=tcp"

for k in 0 3; do
    launch killed $tcp
    kill -KILL "$(stage $k)"
    ends killed 10
    [ $status = 1 ] || miss "stage $k killed: status $status"
    says killed.log "stage $k \(process [0-9]+\) was killed by signal 9 .*(in|of) step [0-9]+"
    says killed.log "killed/step-[0-9]+: go on with --resume"
done
goes_on killed

launch stopped $tcp pipeline.deadline=${patience}s link.latency=100ms
kill -STOP "$(stage 1)"
ends stopped 10
[ $status = 1 ] || miss "stage 1 stopped: status $status"
says stopped.log "(stage [0-3]|the coordinator) waited [0-9.]+ s for .*(in|of) step|step [0-9]+ from stage"
says stopped.log "stopped stage 1"
goes_on stopped

# faulty FAULT PATTERN ...: two stages; the 31st frame from stage 0 to stage 1 suffers the fault.
stages=2
cat >launcher <<'L'
#!/bin/sh
fault=$1 proxied=$2 stage=$3
shift 3
[ "$stage" != "$proxied" ] || exec "$RB_BINARY_DIR/frame_proxy" "$fault" 30 "$@"
exec "$@"
L
chmod +x launcher
export RB_BINARY_DIR
faulty() {
    fault=$1
    shift
    for deadline in $((2 * patience)) $((10 * patience)); do # as in launch, for the steps from there to the fault
        launch "$fault" $tcp pipeline.stages=2 pipeline.threads=1 "pipeline.launcher=$PWD/launcher $fault 0 {stage}" \
            pipeline.deadline=${deadline}s
        [ "$deadline" = $((2 * patience)) ] || slack=20
        ends "$fault" 10
        [ "$(sed -n '$s/.*"step":\([0-9]*\),.*/\1/p' "$fault/metrics.jsonl")" -lt 9 ] && grep -q "waited [0-9.]* s for" "$fault.log" || break
    done
    [ $status = 1 ] || miss "$fault: status $status"
    for pattern; do says "$fault.log" "$pattern"; done
    says "$fault.log" "$fault/step-[0-9]+: go on with --resume"
    goes_on "$fault"
}
where="boundary 1, microbatch 0, step 10"
faulty checksum "stage 1.*: stage 0 sent a bad frame.*$where.*checksum [0-9a-f]{16}, its header says"
faulty microbatch "stage 1.*: stage 0 sent a bad frame.*checksum [0-9a-f]{16}, its header says"
faulty version "stage 1.*: stage 0 sent a bad frame .*: frame has version 7, this program speaks 1.*$where"
faulty shape "stage 1.*stage 0 sent what cannot be used: .*T \(positions\) 31 where 32"
faulty step "stage 1 waited [0-9.]+ s for the forward activation of $where from stage 0" \
    "instead came the forward activation of boundary 1, microbatch 0, step 1010, which nobody asks for"
faulty cut "stage [01].*stage [01] closed the connection"
faulty silent "waited [0-9.]+ s for the (forward activation|gradient) of boundary 1"
faulty gone "(the coordinator waited .* for a sign of life from stage 0 in step 10: .*network.*|stage 1 waited [0-9.]+ s for the forward activation)"

# Behind a launcher no signal tells that a stage is stopped: it gives no sign of life.
stages=1
launch asleep $tcp pipeline.stages=1 pipeline.threads=1 "pipeline.launcher=$PWD/launcher none 0 {stage}" pipeline.deadline=${patience}s
kill -STOP "$(stage 0)"
ends asleep 10
[ $status = 1 ] || miss "stage 0 asleep: status $status"
says asleep.log "the coordinator waited [0-9.]+ s for a sign of life from stage 0 (in step|while writing the snapshot)"
goes_on asleep

# The coordinator stopped (its machine gone): its stages do not stay for ever.
stages=2
launch alone $tcp pipeline.stages=2 pipeline.deadline=${patience}s
kill -STOP $pid
within $((10 + slack)) '[ -z "$(pgrep -s $pid -r R,S,D -f "^[^ ]*resbm stage")" ]' || miss "stages whose coordinator is gone stay"
kill -CONT $pid
ends alone 10
[ $status = 1 ] || miss "coordinator stopped: status $status"
says alone.log "stage [01] waited [0-9.]+ s for a sign of life from the coordinator"
goes_on alone
verdict
