#!/bin/sh
# ctest: timeout=160
# A run hosted on NATS servers that are there already, three in a cluster: their configuration includes what resbm writes of users, and a
# command of their operator's makes them read it again. They take messages of 64 KB at the most, and longer values of the store in pieces. The bits are those of the local
# engine; wrong use is named.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
server=$(PATH=$PATH:/usr/sbin command -v nats-server) || { echo "skipped: no nats-server"; exit 77; }
command -v openssl >/dev/null || { echo "skipped: no openssl"; exit 77; }
make_corpus
make_config
here=$PWD
pids=
trap 'kill -KILL $pids 2>/dev/null; for n in 1 2 3; do [ -f "$here/n$n.pid" ] && kill -KILL "$(cat "$here/n$n.pid")" 2>/dev/null; done' EXIT
ends() { # PID STATUS WHAT LOG
    i=0
    while kill -0 "$1" 2>/dev/null && [ $i -lt $((400 * patience)) ]; do sleep 0.1; i=$((i + 1)); done
    wait "$1"
    got=$?
    [ $got = "$2" ] || { miss "$3 ended with status $got"; tail -n 5 "$4"; }
}

# The operator's side: certificate, three configurations, and the command that (re)loads them.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=relay -addext subjectAltName=IP:127.0.0.1 \
    -keyout key.pem -out cert.pem 2>/dev/null || miss "no certificate"
# Six ports that nobody has now.
# shellcheck disable=SC2046 # numbers
set -- $(python3 -c 'import socket
s = [socket.socket() for _ in range(6)]
[x.bind(("127.0.0.1", 0)) for x in s]
print(*(x.getsockname()[1] for x in s))')
url=tls://127.0.0.1:$1
routes="nats://127.0.0.1:$4, nats://127.0.0.1:$5, nats://127.0.0.1:$6"
mkdir -p run/host && : >run/host/server.conf
for n in 1 2 3; do
    port=0 route=0
    eval "port=\$$n route=\$$((n + 3))"
    cat >"n$n.conf" <<END
server_name: n$n
listen: "127.0.0.1:$port"
pid_file: "$here/n$n.pid"
log_file: "$here/n$n.log"
max_payload: 65536
tls {cert_file: "$here/cert.pem", key_file: "$here/key.pem"}
jetstream {store_dir: "$here/store$n"}
cluster {name: homes, listen: "127.0.0.1:$route", routes: [$routes]}
include run/host/server.conf
END
done
cat >load.sh <<'END'
[ "$RESBM_SERVER_CONF" = "$PWD/run/host/server.conf" ] || exit 3
for n in 1 2 3; do
    if [ -f n$n.pid ]; then kill -HUP "$(cat n$n.pid)"; else
        "$1" -c n$n.conf >/dev/null 2>&1 8>&- &
        i=0
        while [ ! -s n$n.pid ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done
    fi
done
END

long="train.steps=4 optim.schedule=constant train.checkpoint_every=2"
# shellcheck disable=SC2086
train local $long || { miss local; cat local.log; }
host() {
    rm -f host.log # what the one before said is not to be read as this one's
    # shellcheck disable=SC2086
    "$resbm" host run.yaml --out run $long "$@" >host.log 2>&1 &
    host=$!
    pids="$pids $host"
}
host --server "$url" --ca cert.pem --load "sh load.sh $server"
wait_for host.log "resbm join INVITATION" 20
for n in 1 2 3 4; do
    mkdir -p "guest$n"
    (cd "guest$n" && exec env OMP_NUM_THREADS=1 "$resbm" join ../run/invitation --dir own --name "guest $n") >"guest$n.log" 2>&1 &
    eval "g$n=$!"
    pids="$pids $!"
done
ends "$host" 0 host host.log
# shellcheck disable=SC2154 # by eval
for n in 1 2 3 4; do eval "ends \$g$n 0 'guest $n' guest$n.log"; done
same local run
"$RB_BINARY_DIR/long_values" run/host/access.json || miss "long values, or a full store"
[ ! -e run/host/server.pem ] || miss "a certificate was made for a server that has one"
grep -Eq "^(listen|port|jetstream|tls)" run/host/server.conf && miss "the users' configuration says how the server is to be"

# What is missing or does not fit is said.
says() { grep -q -- "$2" "$1" || { miss "$1 does not say '$2'"; cat "$1"; }; }
"$resbm" host run.yaml --out other --server "$url" 2>err.txt && miss "a server without --load"
says err.txt "--load COMMAND"
"$resbm" host run.yaml --out other --server http://x --ca cert.pem --load true 2>err.txt && miss "a URL of another kind"
says err.txt "is to be tls://HOST:PORT"
"$resbm" host run.yaml --out other --server "$url" --ca cert.pem --load "exit 4" 2>err.txt && miss "a command that fails"
says err.txt "\"exit 4\" exited with status 4"
"$resbm" host run.yaml --out run --server tls://127.0.0.1:1 --ca cert.pem --load true 2>err.txt && miss "another server for the same run"
says err.txt "--server: the run in .* was begun with $url"
"$resbm" host run.yaml --out run --server "$url" --ca key.pem --load true 2>err.txt && miss "another certificate for the same run"
says err.txt "--ca: the run in"
"$resbm" host run.yaml --out run --server "$url" --listen 127.0.0.1:0 --ca cert.pem --load true 2>err.txt && miss "listens for a server elsewhere"
says err.txt "are of a server that is started here"
"$resbm" host run.yaml --out run --listen 127.0.0.1:0 2>err.txt && miss "another kind of server for the same run"
says err.txt "begun on a server that is not its own"
verdict
