#!/bin/sh
# Installs the Debian or Ubuntu packages that the named groups need and that are missing.
#   scripts/install-deps.sh [--check] build|conformance|demo|study|test|sanitize ...
# As root they are installed; otherwise, and always with --check, the one line to run is printed and the exit
# status is 1 if something is missing. RESBM_NO_INSTALL=1 skips all of this (other systems, own builds).
set -eu

[ "${RESBM_NO_INSTALL:-0}" = 1 ] && exit 0
check=0
packages=
for group in "$@"; do
    case $group in
    --check) check=1 ;;
    build) packages="$packages gcc g++ make cmake pkg-config libdnnl-dev libyaml-dev libjansson-dev libxxhash-dev
                     zlib1g-dev libsentencepiece-dev" ;;
    demo) packages="$packages dict-gcide" ;;
    study) packages="$packages dict-gcide sentencepiece" ;;
    test) packages="$packages ninja-build libcmocka-dev iproute2 python3 python3-venv shellcheck nats-server libnats-dev openssl
                    libssl-dev libopenmpi-dev openmpi-bin libmpich-dev mpich" ;;
    conformance) packages="$packages libcmocka-dev" ;;
    sanitize) packages="$packages clang llvm" ;;
    *) echo "install-deps: unknown group '$group' (build, conformance, demo, study, test, sanitize)" >&2 && exit 2 ;;
    esac
done

if ! command -v dpkg-query >/dev/null 2>&1; then
    echo "install-deps: this is no Debian or Ubuntu system. Install what these packages hold, then set" >&2
    echo "RESBM_NO_INSTALL=1: $packages" >&2
    exit 1
fi

missing_of() {
    for p in "$@"; do
        case $(dpkg-query -W -f '${db:Status-Abbrev}' "$p" 2>/dev/null) in
        ii*) ;;
        *) printf '%s ' "$p" ;;
        esac
    done
}

install() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
}

# Installs the missing ones; the package lists are only refreshed when the first attempt fails.
need() {
    missing=$(missing_of "$@")
    [ -n "$missing" ] || return 0
    if [ $check = 1 ] || [ "$(id -u)" != 0 ]; then
        echo "Missing packages. Run this line, then the same command again:" >&2
        echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $missing" >&2
        exit 1
    fi
    echo "installing: $missing"
    # shellcheck disable=SC2086
    install $missing >/dev/null 2>&1 || { apt-get -o DPkg::Lock::Timeout=300 update && install $missing; }
}

# shellcheck disable=SC2086
need $packages

# The fuzzer's run-time library carries clang's version in its name and is only a recommendation of clang.
case " $* " in
*" sanitize "*)
    major=$(clang -dumpversion | cut -d. -f1)
    if ! echo 'int LLVMFuzzerTestOneInput(const char *p, unsigned long n) { return n && *p > 127; }' |
        clang -x c -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null; then
        need "libclang-rt-$major-dev"
    fi
    ;;
esac
