#!/bin/sh
# ctest: timeout=150
# What link.h promises holds over MPI: the conformance suite, its streams going through each MPI's module.
set -eu
. "$RB_SOURCE_DIR/tests/run_common.sh"
. "$RB_SOURCE_DIR/tests/mpi_common.sh"
for kind in $kinds; do
    RB_LINK_OVER=$kind timeout $((60 * slowness)) "$RB_BINARY_DIR/link_conformance_test" >"$kind.log" 2>&1 || { cat "$kind.log"; exit 1; }
    grep -q 'PASSED.* 28 test' "$kind.log" || { cat "$kind.log"; exit 1; }
    echo "$kind: 28 held"
done
