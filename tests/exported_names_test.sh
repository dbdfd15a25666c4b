#!/bin/sh
# libresbm.so shows resbm_* and nothing else, every declared function among them, and private global names of the
# layers' archives start with rb_.
set -eu
build=${RB_BINARY_DIR:?}
library=$build/libresbm.so
[ -e "$library" ] || { echo "$library was not built"; exit 1; }

shown=$(nm -D --defined-only "$library" | awk '{print $3}' | sed 's/@.*//' | sort -u)
other=$(echo "$shown" | grep -v '^resbm_' || true)
[ -z "$other" ] || { echo "libresbm.so shows: $other"; exit 1; }

declared=$(sed -n 's/^RESBM_API .*[ *]\(resbm_[a-z0-9_]*\)(.*/\1/p' "$RB_SOURCE_DIR/include/resbm.h" | sort -u)
[ -n "$declared" ]
for name in $declared; do
    echo "$shown" | grep -qx "$name" || { echo "resbm.h declares $name, the library lacks it"; exit 1; }
done

# C names only: those of the tokenizer's C++ shim start with _Z and DW.ref.
wrong=$(nm -A --defined-only --extern-only "$build"/librb_*.a 2>/dev/null |
    awk '$2 ~ /^[TDBRCV]$/ {print $1, $3} $3 ~ /^[TDBRCV]$/ {print $1, $4}' |
    grep -vE ' (rb_|resbm_|_Z|DW\.ref\.|__asan|__odr_asan|__ubsan|__tsan)' || true)
[ -z "$wrong" ] || { echo "names without rb_: $wrong"; exit 1; }
