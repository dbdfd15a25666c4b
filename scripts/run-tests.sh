#!/bin/sh
# Runs the tests of an existing build folder, two at a time. Arguments go to ctest (-R name, ...).
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
# Threads that wait must not spin: two tests share the machine.
export OMP_WAIT_POLICY=passive
exec ctest --test-dir "$build" --output-on-failure --no-tests=error -j "${TEST_JOBS:-2}" "$@"
