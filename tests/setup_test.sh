#!/bin/sh
# The set-up scripts: they parse, they name their packages, without root they print one line to run and fail.
set -eu
cd "${RB_SOURCE_DIR:?}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() { echo "$1"; exit 1; }

for f in scripts/*.sh tests/*.sh .ci/run; do
    head -n 1 "$f" | grep -q '^#!/bin/sh$' || fail "$f: not a /bin/sh script"
    sh -n "$f" || fail "$f does not parse"
done
for f in scripts/*.sh .ci/run; do [ -x "$f" ] || fail "$f is not executable"; done
if command -v shellcheck >/dev/null; then shellcheck -x -S warning scripts/*.sh tests/*.sh .ci/run; fi

# A dpkg-query that knows no package: everything is missing, so --check must print the line and fail.
mkdir "$scratch/bin"
printf '#!/bin/sh\nexit 1\n' >"$scratch/bin/dpkg-query"
chmod +x "$scratch/bin/dpkg-query"
if PATH="$scratch/bin:$PATH" RESBM_NO_INSTALL=0 scripts/install-deps.sh --check build demo test 2>"$scratch/out"; then
    fail "missing packages went unnoticed"
fi
grep -q 'sudo apt-get .*install .*libdnnl-dev.*dict-gcide.*libcmocka-dev' "$scratch/out" || fail "no line to run"
[ "$(grep -c sudo "$scratch/out")" = 1 ] || fail "more than one line to run"

# The same as another user than root: nothing may be installed.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
    printf '#!/bin/sh\necho installed >%s/installed\n' "$scratch" >"$scratch/bin/apt-get"
    chmod 755 "$scratch" "$scratch/bin" "$scratch/bin/apt-get"
    cp scripts/install-deps.sh "$scratch/"
    if setpriv --reuid 65534 --regid 65534 --clear-groups env PATH="$scratch/bin:$PATH" RESBM_NO_INSTALL=0 \
        sh "$scratch/install-deps.sh" build 2>"$scratch/out"; then
        fail "a user without root got no error"
    fi
    grep -q 'sudo apt-get' "$scratch/out" || fail "no line to run for a user without root"
    [ ! -e "$scratch/installed" ] || fail "apt-get was called without root"
fi

# An unknown group is an error, and RESBM_NO_INSTALL=1 skips everything.
if RESBM_NO_INSTALL=0 scripts/install-deps.sh nonsense 2>/dev/null; then fail "an unknown group was accepted"; fi
RESBM_NO_INSTALL=1 scripts/install-deps.sh build

for target in all demo test bench install sanitize format clean help; do
    grep -q "^$target:" Makefile || fail "make $target is missing"
done
make -s help | grep -q '^make demo' || fail "make help does not list demo"
if grep -nE '(https?|ftp)://' scripts/install-deps.sh scripts/venv.sh tests/requirements*.txt; then
    fail "the set-up names a host; the package manager knows its own"
fi
