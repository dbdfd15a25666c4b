#!/bin/sh
# ctest: timeout=300
# The portable build: the device's code once per instruction set, one picked when the device opens. Its suites compare every
# set that this processor has with the reference. Only what they need is built.
set -eu
cache=$RB_BINARY_DIR/CMakeCache.txt
if grep -q '^RESBM_SANITIZE:STRING=.' "$cache"; then
    echo "skipped: the suite without sanitizers builds it"
    exit 77
fi
case $(uname -m) in x86_64 | amd64) ;; *) echo "skipped: one instruction set on $(uname -m)" && exit 77 ;; esac
fail() { echo "$1" && cat log && exit 1; }

generator=$(sed -n 's/^CMAKE_GENERATOR:INTERNAL=//p' "$cache")
[ -f portable/CMakeCache.txt ] || rm -rf portable
cmake -S "$RB_SOURCE_DIR" -B portable -G "$generator" -DRESBM_PORTABLE=ON -DRESBM_TESTS=ON >log 2>&1 || fail "the portable build cannot be configured"
cmake --build portable -j "$(nproc)" --target conformance_test pack_test >log 2>&1 || fail "the portable build fails"

# Outside src/device/cpu/isa/ nothing may ask for more than the architecture has: the flags say so.
grep -q 'march=native' portable/build.ninja portable/CMakeFiles/rb_device.dir/flags.make 2>/dev/null && fail "the portable build is for this machine"
for set in v2 v3 v4; do
    nm portable/librb_device.a 2>/dev/null | grep -q "rb_cpu_slots_$set" || fail "instruction set $set is not in the library"
done
OMP_WAIT_POLICY=passive
export OMP_WAIT_POLICY
for suite in conformance_test pack_test; do
    mkdir -p "of-$suite"
    (cd "of-$suite" && "../portable/$suite") >log 2>&1 || fail "$suite of the portable build failed"
done
