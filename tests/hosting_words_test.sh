#!/bin/sh
# ctest: timeout=120
# What somebody who hosts or joins is told when it cannot be as he means it: at once, where he is, with the cause and what to do.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
sed -i 's/stages: 4/stages: 1/' run.yaml
pids='' small='' dir=''
# shellcheck disable=SC2086
trap 'kill -KILL $pids 2>/dev/null; end_server; [ -z "$small" ] || within 5 "umount small 2>/dev/null"' EXIT

# nats-server 2.9 whose disk was full may hear no signal but this one, and outlives who hosts. One that was just started has not
# written its number yet, or is about to begin: it is known by its configuration, and looked for twice.
end_server() {
    for _ in 1 2; do
        for pid in $(pgrep -f "nats-server -c $PWD/$dir/host/server.conf"); do kill -KILL "$pid"; done
        sleep 0.3
    done
}

# refused PATTERN COMMAND [...]: it ends so, quickly.
refused() {
    pattern=$1
    shift
    timeout $((20 * patience)) "$resbm" "$@" >refused.log 2>&1
    status=$?
    case $status in 1 | 2) ;; *) miss "status $status of: $*" ;; esac
    grep -Eq -- "$pattern" refused.log || { miss "nothing says '$pattern' of: $*"; tail -n 3 refused.log; }
}
begin() { # [more]: hosts in DIR
    rm -f host.log
    "$resbm" host run.yaml --out "$dir" "$@" >host.log 2>&1 &
    host=$!
    pids="$pids $host"
}

here="--listen 127.0.0.1:0 --out none"
# shellcheck disable=SC2086
{
    refused '--announce: "my host" is no name of a machine' host run.yaml $here --announce 'my host'
    refused 'id [0-9]+, the model.s vocabulary has 10: set model.vocab' host run.yaml $here model.vocab=10
    refused 'one window of model.context 60000 takes 60001' host run.yaml $here model.context=60000
    refused 'data.tokenizer = nosuch.model: No such file' host run.yaml $here data.tokenizer=nosuch.model
}
[ ! -e none ] || miss "leaves a folder of a run that it refused"
refused 'cannot open nowhere' join nowhere --max-memory 8GB --up 20Mbit
refused 'cannot open nowhere' join nowhere --max-memory 8gib
refused '"8GX" is no size like 8G' join nowhere --max-memory 8GX

# A small disk of its own for the run, to be full later.
dir=run
if [ "$(id -u)" = 0 ] && mkdir -p small && mount -t tmpfs -o size=40k tmpfs small 2>/dev/null; then
    small=mounted dir=small/run
    refused 'the disk of .*small/run is full \([0-9]+ KB free\): make room' host run.yaml --listen 127.0.0.1:0 --out $dir
    umount small && mount -t tmpfs -o size=64m tmpfs small && rm -rf small/run || exit 1
else
    echo "full disk: not tried (no permission to mount a small file system)"
fi

# A model that fits nowhere; a name that stands for no address.
begin --listen 127.0.0.1:0 --announce tls://no-such-name.invalid:4222 model.d=65536 model.heads=64 boundary.hidden=64 model.ffn=65536
wait_for host.log 'stage 0 needs [0-9.]+ GB of memory: hardly a machine has that; lower model.d' 20
before=$(now_ms)
refused 'no-such-name.invalid:4222 as invite: its name stands for no address here' join $dir/invitation --dir lost
grep -q "Name or service not known" refused.log && [ $(($(now_ms) - before)) -gt $((15000 * patience)) ] && miss "tries a name that is none again and again"
kill -INT "$host" && wait "$host"

# No name server answers: the deadline holds for a name as well, however long getaddrinfo takes.
cat >mute.c <<'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **out) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    if (!host || strcmp(host, "mute.invalid") || (hints && hints->ai_flags & AI_NUMERICHOST)) return real(host, port, hints, out);
    sleep(3600);
    return EAI_AGAIN;
}
END
cc -shared -fPIC -O1 -o mute.so mute.c -ldl || miss "no compiler for mute.so"
mkdir -p unheard
echo '{"url": "tls://mute.invalid:4222", "run": "r", "name": "guest", "seed": "", "certificate": ""}' >unheard/access.json
export LD_PRELOAD="$PWD/mute.so"
refused 'tls://mute.invalid:4222 as guest: the name server did not answer within [0-9.]+ s' status unheard
unset LD_PRELOAD

# Nobody has come: the address may be another one. Then somebody comes, with another build.
begin --listen 127.0.0.1:0 --announce 127.0.0.1 optim.schedule=constant train.steps=100000 train.checkpoint_every=6 train.eval_every=0
wait_for host.log "nobody has a key of this run yet" 20
wait_for host.log "waits for 1 more participant" 20
build=$("$resbm" --version | sed -n 's/.*(\(.*\))$/\1/p')
other=$resbm
if [ -n "$build" ]; then
    other=$PWD/resbm
    LC_ALL=C sed "s/$build/$(echo "$build" | tr '0-9a-f' '1-90b-fa')/g" "$resbm" >resbm && chmod +x resbm && ln -sf "$RB_BINARY_DIR/resbm-nats.so" .
fi
OMP_NUM_THREADS=1 "$other" join $dir/invitation --dir guest >guest.log 2>&1 &
guest=$!
pids="$pids $guest"
[ -z "$build" ] || wait_for host.log "runs another build of resbm [0-9.]+ \([^ ]+\) than this host \($build\)" 20
refused "the run in $dir is hosted already \(process $host\): resbm status $dir" host run.yaml --out $dir

# As somebody else: root reads and signals everything, others do not.
as=
[ "$(id -u)" = 0 ] && as="setpriv --reuid=65534 --regid=65534 --clear-groups"
stranger() { # PATTERN COMMAND [...]
    pattern=$1
    shift
    $as "$resbm" "$@" >refused.log 2>&1 && miss "a stranger may: $*"
    grep -Eq -- "$pattern" refused.log || { miss "nothing says '$pattern' of a stranger's $*"; cat refused.log; }
}
if [ -n "$as" ] && $as test -x "$resbm" && $as test -e "$PWD/run.yaml"; then
    stranger 'cannot read .*guest/access.json: Permission denied; it belongs to' status guest
    stranger 'cannot read .*/access.json: Permission denied; it belongs to' status $dir
    stranger 'cannot read guest/pid: Permission denied; it belongs to' leave guest
    chmod 755 guest && chmod 644 guest/pid
    stranger "the participant in guest \(process $guest\) is another user's" leave guest
else
    echo "another user: not tried"
fi

# The host's disk is full: that is this machine's, not stage 0's, and it is not tried at once again.
if [ -n "$small" ]; then
    wait_for host.log "the snapshot of step [0-9]+ is here" 30
    i=0
    while ! grep -q "epoch 1 ended" host.log && [ $i -lt $((300 * patience)) ]; do
        dd if=/dev/zero bs=65536 >>small/fill 2>/dev/null # older snapshots that go make room
        sleep 0.1
        i=$((i + 1))
    done
    why="(this machine could not keep the snapshot of step [0-9]+ \(make room|cannot write step [0-9]+ to .*$dir|the run's store on the server is full)"
    # Which comes first, the snapshot or the server's own files, is chance; the server may fall silent or break off, too.
    if grep -Eq "epoch 1 ended: $why" host.log; then wait_for host.log "the next try in [23]. s: $why" 20; fi
    dd if=/dev/zero bs=65536 >>small/fill 2>/dev/null
    wait_for host.log "the disk of .*$dir is full \([0-9]+ KB free\): make room" 20
    rm small/fill
    wait_for host.log "the disk has room again: starting the server anew" 30
fi
kill -KILL "$guest" "$host"
# shellcheck disable=SC2086
wait $pids 2>/dev/null
end_server
pids=''
verdict
