#!/bin/sh
# ctest: timeout=90
# A participant whose connection breaks, or whose server falls silent, before it has come about tries again
# (tests/internet/mute_server.py; modules/nats/tls_waits.c).
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
"$resbm" host run.yaml --listen 127.0.0.1:0 --out run >host.log 2>&1 &
host=$!
trap 'kill -KILL $host 2>/dev/null' EXIT
wait_for host.log "resbm join INVITATION" 20
kill -TERM $host
wait $host
python3 "$RB_SOURCE_DIR/tests/internet/mute_server.py" --resbm "$resbm" --host run || miss "a participant does not come again"
verdict
