#!/bin/sh
# What `make install` puts in place is enough to build against: the installed example is compiled with the installed
# header and pkg-config file, linked with the installed library, and trains with the installed program.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if grep -q '^RESBM_SANITIZE:STRING=.' "$RB_BINARY_DIR/CMakeCache.txt"; then
    echo "a sanitized library wants its run-time library first"
    exit 77
fi
cmake --install "$RB_BINARY_DIR" --prefix "$scratch/usr" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }

pc=$(find "$scratch/usr" -name resbm.pc)
sed -i "s|^prefix=.*|prefix=$scratch/usr|" "$pc"
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
cc -std=c11 -Wall -Wextra -Werror -o "$scratch/train" "$(find "$scratch/usr" -path '*/examples/train.c')" \
    $(pkg-config --cflags --libs resbm)
seq 1 9000 >"$scratch/text"
LD_LIBRARY_PATH=$(pkg-config --variable=libdir resbm) PATH="$scratch/usr/bin:$PATH" "$scratch/train" "$scratch/text" \
    "$scratch/made" >"$scratch/out" 2>&1 || { cat "$scratch/out"; exit 1; }
grep -q '^step 6: loss [0-9]' "$scratch/out" || { echo "the example says:"; cat "$scratch/out"; exit 1; }
version=$(cat "$RB_SOURCE_DIR/VERSION")
[ "$(pkg-config --modversion resbm)" = "$version" ]
[ -f "$(find "$scratch/usr" -name resbm.1)" ] || { echo "no man page was installed"; exit 1; }
[ -x "$scratch/usr/bin/resbm" ] || { echo "no program was installed"; exit 1; }
"$scratch/usr/bin/resbm" --version | grep -q "$version"
