#!/bin/sh
# ctest: timeout=150
# Weights that take several times pipeline.startup_deadline to come over a slow line: all stages get theirs side by side, patience
# goes by what comes and not by the clock, host and participants are told how far it is, and the epoch starts. The line is a relay in
# user space that lets 6 Mbit/s through to the participants together. What their stages send is held to `join --up`.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
pids=
trap 'kill -KILL $pids 2>/dev/null' EXIT
wide="pipeline.stages=2 model.segments=2 model.ffn=320 train.checkpoint_every=2 optim.schedule=constant pipeline.startup_deadline=3s"
# shellcheck disable=SC2086
train run train.steps=2 $wide pipeline.startup_deadline=60s || { miss "local steps"; cat run.log; }
cat >relay.py <<'END'
import asyncio, sys, time
port, bits = int(sys.argv[1]), float(sys.argv[2])
free = 0.0  # when the line has sent what it was given
async def copy(reader, writer, slow):
    global free
    try:
        while data := await reader.read(4096):
            if slow:
                free = max(free, time.monotonic()) + 8 * len(data) / bits
                await asyncio.sleep(max(0, free - time.monotonic() - 0.02))
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()
async def serve(reader, writer):
    far, out = await asyncio.open_connection("127.0.0.1", port, limit=8192)
    await asyncio.gather(copy(far, writer, True), copy(reader, out, False))
async def main():
    server = await asyncio.start_server(serve, "127.0.0.2", port, limit=8192)
    print("relays", flush=True)
    await server.serve_forever()
asyncio.run(main())
END
port=$(python3 -c 'import socket
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# shellcheck disable=SC2086
"$resbm" host run.yaml --listen "127.0.0.1:$port" --announce 127.0.0.2 --out run $wide train.steps=4 >host.log 2>&1 &
host=$!
python3 relay.py "$port" 6e6 >relay.log 2>&1 &
relay=$!
pids="$host $relay"
within 20 'grep -q "waits for" host.log && [ -s relay.log ]' || { miss "host or relay do not start"; cat host.log relay.log; verdict; }
for n in 1 2; do
    mkdir -p guest$n
    (cd guest$n && exec env OMP_NUM_THREADS=1 "$resbm" join ../run/invitation --dir own --up 16kbit) >guest$n.log 2>&1 &
    pids="$pids $!"
done
within 90 'grep -q "^step *4/" host.log || ! kill -0 $host 2>/dev/null || [ "$(grep -c "epoch .* ended" host.log)" -gt 4 ]'
grep -q "^step *4/" host.log || { miss "no step was taken"; tail -n 8 host.log; }
grep -Eq "stages download .* MB of weights" host.log || miss "the host does not say how far the downloads are"
# A step sends 1134 bytes one way and 984 the other, in three microbatches each: at 16 kbit/s the former take 0.57 s and what answers the last
# of them 0.16 s more. Without --up a step takes 0.04 s.
python3 -c 'import json, sys
step = [json.loads(line) for line in open("run/metrics.jsonl")][-1]
sys.exit(step["step_s"] < 0.5)' || { miss "--up does not slow what a stage sends"; cat run/metrics.jsonl; }
for n in 1 2; do
    grep -Eq "downloads? its weights: [0-9.]+ of [0-9.]+ MB" guest$n.log || { miss "participant $n is not told how far it is"; cat guest$n.log; }
    both=$(find guest$n -path '*/weights/*' -size +1M | wc -l)
    [ "$both" -ge 1 ] || miss "participant $n has no weights"
done
verdict
