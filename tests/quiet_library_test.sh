#!/bin/sh
# The library never exits, aborts or prints: faults are statuses, text goes to a FILE the caller gave. Checked in
# the source and in what the shared library imports from the C library.
set -eu
cd "${RB_SOURCE_DIR:?}"

files=$(find src -name '*.c' ! -name '*_test.c' ! -name '*_fuzz.c' ! -path 'src/cli/*')
# shellcheck disable=SC2086
bad=$(grep -nE '(^|[^a-zA-Z0-9_.>"])(_?exit|quick_exit|abort|printf|vprintf|puts|putchar|perror|assert|err|errx|warn|warnx) ?\(' $files |
    grep -vE ':[0-9]+: *(/?\*|//)' || true)
[ -z "$bad" ] || { echo "the library must not do this:"; echo "$bad"; exit 1; }
# shellcheck disable=SC2086
bad=$(grep -nE '(^|[^a-zA-Z0-9_])(stdout|stderr)($|[^a-zA-Z0-9_])' $files | grep -vE ':[0-9]+: *(/?\*|//)|/\*.*(stdout|stderr)' || true)
[ -z "$bad" ] || { echo "the library must not write to the program's output:"; echo "$bad"; exit 1; }

# A sanitized library imports abort and the like for the sanitizer's own sake.
if ! nm -D "$RB_BINARY_DIR/libresbm.so" | grep -qE '__(asan|ubsan|tsan)_'; then
    bad=$(nm -D --undefined-only "$RB_BINARY_DIR/libresbm.so" | awk '{print $2}' | sed 's/@.*//' |
        grep -xE 'exit|_exit|quick_exit|abort|printf|__printf_chk|puts|putchar|perror|__assert_fail' || true)
    [ -z "$bad" ] || { echo "libresbm.so imports: $bad"; exit 1; }
fi
