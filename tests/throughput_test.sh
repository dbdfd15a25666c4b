#!/bin/sh
# ctest: timeout=150
# tests/internet/throughput.py on a small scale: four participants behind 80 Mbit/s and 50 ms, stages of device timed, a snapshot of them at
# the end. The run ends and sends the bytes of one without network; how long it takes is measured, not judged.
set -u
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
command -v tc >/dev/null || { echo "skipped: needs iproute2's tc"; exit 77; }
ip netns add "rbprobe$$" 2>/dev/null || { echo "skipped: network namespaces need root"; exit 77; }
ip netns del "rbprobe$$"
exec python3 "$RB_SOURCE_DIR/tests/internet/throughput.py" --resbm "$RB_BINARY_DIR/resbm" --out "$PWD/run" --rates 80 --speeds 130e9 --steps 3 --deadline 300
