#!/bin/sh
# A layer may include only its own headers, those of the layers before it, and include/resbm.h. The order is the
# order of the rb_layer lines in CMakeLists.txt; src/cli comes last.
set -eu
cd "${RB_SOURCE_DIR:-$(dirname "$0")/..}"

# check FOLDER LAYERS: prints each #include "layer/..." of FOLDER's files that points upwards or out of the list.
check() {
    # shellcheck disable=SC2046
    awk -v order="$2" '
        BEGIN { n = split(order, l, " "); for (i = 1; i <= n; i++) at[l[i]] = i }
        { sub(/\r$/, "") }
        /^[ \t]*#[ \t]*include[ \t]*"/ {
            split(FILENAME, path, "/")
            for (i = 1; i in path; i++) if (path[i] == "src") layer = path[i + 1]
            split($0, q, "\"")
            m = split(q[2], part, "/")
            if (m == 1) next # resbm.h, rb_cmocka.h
            if (!(part[1] in at)) { print FILENAME ":" FNR ": " q[2] " is no path below src/"; bad = 1 }
            else if (at[part[1]] > at[layer]) { print FILENAME ":" FNR ": " layer " must not use " part[1]; bad = 1 }
        }
        END { exit bad }' $(find "$1" -name '*.[ch]' -o -name '*.cc' | sort)
}

layers="$(sed -n 's/^rb_layer(\([a-z]*\).*/\1/p' CMakeLists.txt | tr '\n' ' ')cli"
[ "${layers%% *}" = core ] || { echo "no layers found in CMakeLists.txt"; exit 1; }
check src "$layers"

# The check itself must see a wrong include.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/src/core"
printf '#include "core/err.h"\n#include "run/config.h"\n' >"$scratch/src/core/x.c"
if check "$scratch/src" "$layers" >"$scratch/out"; then
    echo "an include of run/ in core/ went unnoticed"
    exit 1
fi
grep -q 'core must not use run' "$scratch/out"
