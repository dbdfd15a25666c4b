#!/bin/sh
# ctest: timeout=420 serial
# A slice of `make test-internet`: seven network namespaces, one host, five participants, a hostile one; then one fault of most kinds.
# The run gets past each by itself, and losses and weights are those of a single process (tests/internet/internet.py).
set -u
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
command -v tc >/dev/null || { echo "skipped: needs iproute2's tc"; exit 77; }
exec python3 "$RB_SOURCE_DIR/tests/internet/internet.py" --resbm "$RB_BINARY_DIR/resbm" --out "$PWD/run" --seed 1 --attack 1000 \
    --together 3 --rounds 4 --verbose \
    --kinds kill_stage,stop_stage,kill_participant,kill_coordinator,stop_server,link_down_1s,one_direction,late_joiner,doubled_and_reordered,disk_full,clock_skew
