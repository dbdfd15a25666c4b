#!/bin/sh
# ctest: timeout=200
# shellcheck disable=SC2086 # settings are words
# A participant that lives, and whose stage does nothing more (tests/liar.c), is found by what the steps before took, and a spare one takes
# its place long before pipeline.deadline; the run has the bits of the local engine. One whose stage always dies at its start has the next
# tries wait, longer each time, which host and status say; the run goes on at once when another one comes.
# That needs a server that knows it, which is seen to. One that never ends its first step ends the epoch, too, with nobody to take its place.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
. "$RB_SOURCE_DIR/tests/liar_common.sh"
[ -x "$RB_BINARY_DIR/liar" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
pids=
trap 'kill -KILL $pids 2>/dev/null' EXIT
begin() { # settings
    train local "$@" pipeline.deadline=60s || { miss "local"; cat local.log; }
    rm -rf run guest* liar* host.log
    "$resbm" host run.yaml --listen 127.0.0.1:0 --out run "$@" >host.log 2>&1 &
    host=$!
    pids=$host
    wait_for host.log "resbm join INVITATION" 20
}
# Three stages: it is stuck in the ninth or the eighteenth step, when eight are known.
begin pipeline.stages=3 train.steps=22 train.checkpoint_every=10 optim.schedule=constant train.eval_every=0 data.val= pipeline.deadline=$((60 * patience))s
RB_LIE="stuck 54" join liar liar
liar=$!
for n in 1 2; do join resbm guest$n; done
wait_for host.log "^step +1/" 40
join resbm guest_spare
wait_for host.log "guest_spare..\)? is there" 20

# Meanwhile: a server that refuses its new configuration is not taken for one that has it: who joins is told.
mv run/host/server.key kept.key
join resbm guest_early
early=$!
refused="the server does not know its new configuration \(.*server.conf\): Failed to reload server configuration: .*server.key"
wait_for host.log "the server was not told who takes part: $refused.*; trying again" 20
join resbm guest_refused
within 40 "! kill -0 $! 2>/dev/null" || miss "one whom the server does not know waits"
wait_for guest_refused.log "the host refuses this machine: $refused" 1
mv kept.key run/host/server.key
kill -KILL $early

wait_for host.log "holds up the others" 40
sed -n 's/.*epoch [0-9]* ended: \(.*\)/  \1/p' host.log
grep -Eq "stage ([0-2]) \(p[0-9]-[0-9a-f]{4}\) holds up the others in step ([89]|1[0-9]): .* which is [0-9.e+]+ times the usual [0-9.]+ s of [0-9]+ steps of this epoch, and waits for nobody; (stage [0-2] waits for the (forward activation|gradient) of boundary [0-9], microbatch [0-9], step [0-9]+ from it|the others have done theirs)" host.log ||
    miss "the words do not say who waited for what, and how long"
named=$(sed -n 's/.*stage [0-2] (\(p[0-9]-[0-9a-f]*\)) holds up.*/\1/p' host.log | sort -u)
[ "$named" = "$(sed -n 's/^resbm host: \(p[^ ]*\) ("liar") has joined/\1/p' host.log)" ] || miss "another one is blamed: $named"
finish

begin pipeline.stages=2 train.steps=6 train.checkpoint_every=3 optim.schedule=constant
# One of two always dies.
join resbm guest1
RB_LIE="dies 0" join liar liar
liar=$!
wait_for host.log "the next try in 0.5 s: the last 3 epochs ended before a step, the last because .*stage [01] .*exited with status 3" 40
wait_for host.log "the next try in 1 s: the last 4 epochs" 20
wait_for host.log "the next try in 2 s: the last 5 epochs" 20
# (Between tries there is none ahead, for a moment.)
within 60 '"$resbm" status run >status.log 2>&1 &&
    grep -Eq "^step 0 of 6, epoch [0-9]+, the next try in [0-9]+ s: the last [0-9]+ epochs ended before a step, the last because stage [01] .* exited with status 3" status.log' ||
    { miss "status does not say why nothing goes on"; head -n 1 status.log; }
wait_for guest1.log "nothing to do yet: the run waits before the next try: the last [0-9]+ epochs ended before a step" 20
join resbm guest_other
finish

# One does not say that it has done its first step, in which no deadline is learned, and nobody could take its place.
begin pipeline.stages=2 train.steps=4 train.checkpoint_every=2 optim.schedule=constant pipeline.deadline=$((3 * patience))s
join resbm guest1
RB_LIE="mute 0" join liar liar
liar=$!
wait_for host.log "epoch 1 ended: stage [01] .*holds up the others in step 0: it has not done its part for [0-9.]+ s, which is too long after the others .pipeline.deadline is $((3 * patience)) s., and waits for nobody; (the others have done theirs|stage [01] waits)" 60
wait_for host.log "pipeline.deadline is $((3 * patience)) s.: epochs before were held up" 60
join resbm guest_other
finish
verdict
