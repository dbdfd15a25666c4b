#!/bin/sh
# ctest: timeout=280
# Hosting as a user meets it: two commands host, one joins. Four participants without data, each with a folder of its own, train with
# the bits of the local engine; host and all participants end; the same command goes on; leaving, pausing and revoking; wrong use is
# named.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
rm -rf run guest* later
long="optim.schedule=constant train.checkpoint_every=2"
# shellcheck disable=SC2086
train local train.steps=6 $long || { miss local; cat local.log; }
pids=
trap 'kill -KILL $pids 2>/dev/null' EXIT
host() {
    rm -f host.log # what the one before said is not to be read as this one's
    # shellcheck disable=SC2086
    "$resbm" host run.yaml --listen 127.0.0.1:0 --out run $long "$@" >host.log 2>&1 &
    host=$!
    pids="$pids $host"
}
join() { # N [more]
    n=$1
    shift
    mkdir -p "guest$n"
    rm -f "guest$n.log"
    (cd "guest$n" && exec env OMP_NUM_THREADS=1 "$resbm" join ../run/invitation --dir own --name "guest $n" "$@") >"guest$n.log" 2>&1 &
    pids="$pids $!"
}
ends() { # PID STATUS WHAT
    i=0
    while kill -0 "$1" 2>/dev/null && [ $i -lt $((400 * patience)) ]; do sleep 0.1; i=$((i + 1)); done
    wait "$1"
    got=$?
    [ $got = "$2" ] || { miss "$3 ended with status $got"; tail -n 5 "$4"; }
}

# What is missing is said before anybody has come.
"$resbm" host run.yaml --listen 127.0.0.1:0 --out none data.train='nowhere/*.bin' >refused.log 2>&1 && miss "hosts without data"
grep -q 'no shard matches "nowhere/\*.bin"' refused.log || { miss "does not say which shards are missing"; cat refused.log; }
[ ! -e none ] || miss "leaves a folder of a run that it refused"

host train.steps=6
wait_for host.log "resbm join INVITATION" 20
most='--max-memory 80M' much='--max-memory 90000G' # little more than a stage needs; more than there is
if sanitized; then most='' much=''; fi # a sanitizer's own maps are larger than any memory
# shellcheck disable=SC2086
for n in 1 2 3 4; do join $n $most; eval "g$n=$!"; done
ends "$host" 0 host host.log
# shellcheck disable=SC2154 # by eval
for n in 1 2 3 4; do eval "ends \$g$n 0 'guest $n' guest$n.log"; done
same local run
[ "$(stat -c %a run/invitation)" = 600 ] || miss "others can read the invitation"
[ "$(find guest1 -name '*.bin' | wc -l)" = 0 ] || miss "a participant has data"

# Replicas: two participants hold the same stage, in a run of its own. One that is lost costs no step, and the spare one takes its place
# behind a snapshot.
replicated="pipeline.stages=2 pipeline.replicas=2 pipeline.deal=even"
# shellcheck disable=SC2086
train twice train.steps=4 $long $replicated || { miss twice; cat twice.log; }
mv run first && mkdir before && mv guest* before
# shellcheck disable=SC2086
host train.steps=100000 $replicated
wait_for host.log "resbm join INVITATION" 20
for n in 1 2 3 4 5; do join $n; eval "g$n=$!"; done
wait_for host.log "^step +[5-9]/" 60
losses twice >a.losses
losses run | head -n 4 | cmp -s - a.losses || { miss "hosted replicas have other losses"; losses run | head -n 4; cat a.losses; }
# shellcheck disable=SC2086,SC2154 # pids, by eval
for g in $g1 $g2 $g3 $g4 $g5; do
    victim=$(pgrep -P $g -f -- '--stage 3 ') && kill -KILL $victim && break
done
wait_for host.log "stage 1 replica 1 .*; going on without it" 20
wait_for host.log "takes the place of the replica of stage 1 that was lost" 60
at=$(grep -c . host.log)
i=0
while [ "$(sed "1,${at}d" host.log | grep -c "^step")" -lt 1 ] && [ $i -lt $((600 * patience)) ]; do sleep 0.1; i=$((i + 1)); done
kill -INT "$host"
ends "$host" 130 "host of replicas" host.log
sed 's/.*{"step":\([0-9]*\),.*/\1/' run/metrics.jsonl >steps
seq "$(wc -l <steps)" | cmp -s - steps || { miss "a lost replica cost steps"; tr '\n' ' ' <steps; }
grep -q "another result" host.log && miss "a step that was done again had another result"
# shellcheck disable=SC2086
kill $g1 $g2 $g3 $g4 $g5
for n in 1 2 3 4 5; do eval "ends \$g$n 0 'guest $n' guest$n.log"; done
cp run/invitation other.invitation
rm -rf run guest* && mv first run && mv before/guest* . && rmdir before

# The same commands go on, each participant with its own key and weights; a snapshot that is gone from the folder comes from the store.
rm -rf run/step-*
host train.steps=100000
wait_for host.log "resbm join INVITATION" 20
for n in 1 2; do join $n; eval "g$n=$!"; done
join 3 --up 3mbit
g3=$!
join 4 --name "guest 4 again" # enrolled under another name
g4=$!
# shellcheck disable=SC2086
join 5 $much
g5=$!
wait_for host.log "took the snapshot of step 6 from the store" 60
wait_for host.log "resumed after step 6" 60
wait_for host.log "step 1[0-9]/" 60
# (The run goes on with four of them, whenever the fifth comes; what they sent is told now and then.)
within 40 '"$resbm" status run >status.log 2>&1 && [ "$(grep -c works status.log)" = 4 ] && [ "$(grep -c spare status.log)" = 1 ]' ||
    { miss "status shows other participants"; cat status.log; }
cat >accounts.py <<'END'
import json, sys
for p in json.load(sys.stdin)["participants"]:
    if p["state"] == "works" and not (p["sent"] > 20000 and p["received"] > 20000 and p["steps"] > 3 and p["busy_s"] > 0): sys.exit(str(p))
END
within 20 '"$resbm" status --json run | python3 accounts.py 2>accounts.log' ||
    { miss "traffic and time of those that work are not accounted"; cat accounts.log; }
"$resbm" status guest1/own >status1.log 2>&1 || { miss "status of a participant"; cat status1.log; }
ln -s own guest1/resbm-own && (cd guest1 && "$resbm" status >../status1.log 2>&1) || { miss "status of the only participant here"; cat status1.log; }
rm guest1/resbm-own
i=0
while ! grep -q "nothing to do yet: this machine is a spare one" guest?.log && [ $i -lt $((200 * patience)) ]; do sleep 0.1; i=$((i + 1)); done
grep -q "nothing to do yet: this machine is a spare one" guest?.log || miss "no participant says that it is spare"

sanitized || wait_for guest5.log "more than this machine has free" 20
grep -q "guest 4 again" status.log || { miss "a new --name does not show"; cat status.log; }
"$resbm" status --json run | python3 -c 'import json, sys
for p in json.load(sys.stdin)["participants"]:
    if p["label"] == "guest 3" and not 0 < p["up_bits"] <= 3e6: sys.exit(str(p))' || miss "--up does not count"

# One at a time works with a key; a key is of one run; a number of a process that is no participant is left alone.
"$resbm" join run/invitation --dir guest1/own >wrong.log 2>&1 && miss "joined twice in one folder"
wait_for wrong.log "a participant works in .*guest1/own already \(process $g1\)" 1
mkdir stale
sleep 600 &
sleeper=$!
pids="$pids $sleeper"
echo $sleeper >stale/pid
"$resbm" leave stale >wrong.log 2>&1 && miss "left for another process"
wait_for wrong.log "no participant runs in stale" 1
kill -0 $sleeper 2>/dev/null || miss "leave has ended a process that is no participant"
kill $sleeper

# One whose owner gives it too little memory for any stage is told so, and is not taken when a place is free.
join 6 --max-memory 30M --name "guest 6 €€€€€€€€€€€€€€€€€€€€" # cut between two characters
g6=$!
wait_for guest6.log "too little for any stage: the smallest needs 0\.[0-9]+ GB .*--max-memory" 30
"$resbm" status run | grep -q "guest 6 .* spare" || miss "status does not show the one with too little memory as spare"

# One of those that work pauses; the spare takes its place; then the paused one goes on as the spare.
n=$(sed -n 's/.*guest \([1-5]\) .* works .*/\1/p' status.log | head -n 1)
"$resbm" leave --pause "guest$n/own" || miss "pause"
wait_for host.log "is paused by its owner" 20
at=$(grep -c . host.log)
"$resbm" leave --resume "guest$n/own" || miss "resume"
wait_for "guest$n.log" resumed 20
i=0
while [ "$(sed "1,${at}d" host.log | grep -c "^step")" -lt 1 ] && [ $i -lt $((600 * patience)) ]; do sleep 0.1; i=$((i + 1)); done

# Revoked while the run goes on: it is cut off, and cannot come back.
who=$(sed -n "s/^\([^ ]*\) .*guest $n .*/\1/p" status.log)
"$resbm" revoke run "$who" >revoke.log 2>&1 || { miss revoke; cat revoke.log; }
eval "ends \$g$n 1 'revoked guest' guest$n.log"
join "$n"
ends $! 1 "revoked guest that comes back" "guest$n.log"
"$resbm" status run | grep "^$who " | grep -q revoked || miss "status does not show who is revoked"
m=$((n % 5 + 1))
"$resbm" leave "guest$m/own" || miss leave
eval "ends \$g$m 0 'guest that leaves' guest$m.log"
grep -q "takes part" guest6.log && miss "one with too little memory took part"
kill $g6
ends $g6 0 "guest with too little memory" guest6.log
kill -INT "$host"
ends "$host" 130 "host on Ctrl-C" host.log

"$resbm" join other.invitation --dir "guest$m/own" >wrong.log 2>&1 && miss "another run's key was written over"
wait_for wrong.log "is the folder of a participant of run r.*, and the invitation is of run r.*: take another --dir" 1
hour=$(date +%H) && hour=${hour#0}
join 6 --hours $(((hour + 2) % 24))-$(((hour + 3) % 24))
g6=$!
"$resbm" host run.yaml --listen 127.0.0.2:0 --out run >wrong.log 2>&1 && miss "listens elsewhere than it began"
wait_for wrong.log "--listen: the run in .* was begun with 127.0.0.1:" 1
"$resbm" host run.yaml --listen 127.0.0.1:0 --announce elsewhere.example --out run >wrong.log 2>&1 && miss "announces another name than it began with"
wait_for wrong.log "--announce: the run in .* was begun with 127.0.0.1:" 1
wait_for guest6.log "cannot reach the host at .* yet: trying again" 20
host train.steps=100000
wait_for guest6.log paused 40
kill -INT "$host" $g6
ends "$host" 130 "host once more" host.log
wait $g6
join 6 # and leaves before it has reached anybody
g6=$!
wait_for guest6.log "cannot reach the host at .* yet: trying again" 20
kill -INT $g6
ends $g6 130 "guest that reaches no host" guest6.log
PATH=$PATH:/usr/sbin:/usr/local/sbin nats-server -c run/host/server.conf >server.log 2>&1 & # and no coordinator
server=$!
pids="$pids $server"
cp guest6.log unreached.log
join 6
g6=$!
wait_for guest6.log "the host's server answers, its coordinator does not yet" 30
kill -INT $g6
ends $g6 130 "guest that reaches no coordinator" guest6.log
join 7
g7=$!
wait_for guest7.log "the host's server answers, its coordinator does not yet" 30
kill -INT $g7
ends $g7 130 "new guest that reaches no coordinator" guest7.log
kill $server
wait $server
grep -q "stopped before the host at .* was reached" unreached.log || { miss "does not say that it was stopped"; cat unreached.log; }
"$resbm" doctor --listen 127.0.0.1:0 >wrong.log 2>&1 || miss "doctor --listen"
wait_for wrong.log "127.0.0.1 is reached from this machine alone" 1
wait_for wrong.log "have the router forward TCP port [0-9]+ to" 1
wait_for wrong.log "host on a rented machine with a public address" 1
wait_for host.log "127.0.0.1 is reached from this machine alone" 1

"$resbm" join nonsense >wrong.log 2>&1 && miss "joined with nonsense"
wait_for wrong.log "nonsense" 1
"$resbm" join "$(cut -c1-300 run/invitation)" >wrong.log 2>&1 && miss "joined with half an invitation"
wait_for wrong.log "this is no invitation .*or a part of it is missing" 1
"$resbm" join run/invitation --hours 25-3 >wrong.log 2>&1 && miss "joined at hour 25"
wait_for wrong.log "not of the form 22-07" 1
"$resbm" leave nowhere >wrong.log 2>&1 && miss "left nowhere"
wait_for wrong.log "no participant runs in nowhere" 1
"$resbm" host run.yaml --listen 0.0.0.0 --out open >wrong.log 2>&1 && miss "announced 0.0.0.0"
wait_for wrong.log "announce has to say" 1
"$resbm" host run.yaml --listen 127.0.0.1:0 --out flows pipeline.schedule=pipedream optim.clip=0 >wrong.log 2>&1 && miss "hosted a schedule that flows"
wait_for wrong.log "steps flow into one another" 1
"$resbm" host run.yaml --listen 127.0.0.1:0 --out unsaved train.save=false >wrong.log 2>&1 && miss "hosted a run without snapshots"
wait_for wrong.log "goes on from its checkpoints" 1
verdict
