#!/bin/sh
# ctest: timeout=120
# A coordinator that was stopped for so long that another one has taken over gives way, and its keeper starts one that waits for its turn:
# the host does not end as if somebody had asked for it. One that was asked to stop does, however early.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
pids=
trap 'kill -CONT $pids 2>/dev/null; kill -KILL $pids 2>/dev/null' EXIT
"$resbm" host run.yaml --listen 127.0.0.1:0 --out run train.steps=4 >host.log 2>&1 &
host=$!
pids=$host
within 20 'grep -q "waits for" host.log' || { miss "no coordinator waits for participants"; cat host.log; verdict; }
first=$(pgrep -P $host -f ' coordinate ') || { miss "there is no coordinator"; verdict; }
"$resbm" coordinate "$PWD/run" >second.log 2>&1 &
second=$!
pids="$pids $first $second"
sleep 1
[ -s second.log ] && miss "a second coordinator did not wait: $(cat second.log)"
kill -STOP $host "$first" # the keeper too: it would start a stopped coordinator anew
within 20 'grep -q "waits for" second.log' || { miss "the second one has not taken over"; cat second.log; }
kill -CONT "$first" $host
within 20 'grep -q "starting it again" host.log' || { miss "the first one was not started again"; tail -n 3 host.log; }
kill -0 $host 2>/dev/null || miss "the host has ended"
kill -TERM $second
within 20 '! kill -0 $second 2>/dev/null' || miss "the second one does not end"
within 20 '[ "$(grep -c "waits for" host.log)" -gt 1 ]' || { miss "no coordinator of the host has come back"; tail -n 3 host.log; }
kill -INT $host
within 20 '! kill -0 $host 2>/dev/null' || miss "the host does not end"

# Who is asked to stop while the coordinator starts stops: one that has not come so far as to hear of it is not started again.
cat >slow.c <<'END'
#include <string.h>
#include <unistd.h>
__attribute__((constructor)) static void slow(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "coordinate")) usleep(500000);
}
END
cc -shared -fPIC -O1 -o slow.so slow.c || miss "no compiler for slow.so"
for pause in 0.1 0.5; do
    LD_PRELOAD=$PWD/slow.so "$resbm" host run.yaml --listen 127.0.0.1:0 --out early >early.log 2>&1 &
    host=$!
    pids="$pids $host"
    within 20 'pgrep -P $host -f "^[^ ]*resbm coordinate " >/dev/null'
    sleep $pause
    kill -INT $host
    within 20 '! kill -0 $host 2>/dev/null' || { miss "a host that was stopped $pause s after its coordinator was started does not end"; tail -n 3 early.log; }
done
verdict
