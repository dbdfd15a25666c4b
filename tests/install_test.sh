#!/bin/sh
# What `make install` puts in place is enough to build against: a program is compiled with the installed header and
# pkg-config file, linked with the installed library, and run.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if grep -q '^RESBM_SANITIZE:STRING=.' "$RB_BINARY_DIR/CMakeCache.txt"; then
    echo "a sanitized library wants its run-time library first"
    exit 77
fi
cmake --install "$RB_BINARY_DIR" --prefix "$scratch/usr" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }

cat >"$scratch/t.c" <<'C'
#include <resbm.h>
#include <stdio.h>
int main(void) { return printf("%s %s\n", resbm_version(), resbm_status_text(RESBM_OK)) < 0; }
C
pc=$(find "$scratch/usr" -name resbm.pc)
sed -i "s|^prefix=.*|prefix=$scratch/usr|" "$pc"
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
# shellcheck disable=SC2046
cc -o "$scratch/t" "$scratch/t.c" $(pkg-config --cflags --libs resbm)
version=$(cat "$RB_SOURCE_DIR/VERSION")
got=$(LD_LIBRARY_PATH=$(pkg-config --variable=libdir resbm) "$scratch/t")
case $got in
"$version "*) ;;
*) echo "the installed library says '$got', VERSION says $version"; exit 1 ;;
esac
[ "$(pkg-config --modversion resbm)" = "$version" ]
[ -f "$(find "$scratch/usr" -name resbm.1)" ] || { echo "no man page was installed"; exit 1; }
[ -x "$scratch/usr/bin/resbm" ] || { echo "no program was installed"; exit 1; }
"$scratch/usr/bin/resbm" --version | grep -q "$version"
