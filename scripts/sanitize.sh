#!/bin/sh
# The suite under the sanitizers, then every fuzzer.
#   scripts/sanitize.sh [address|thread|fuzz ...]     all three when none is named
# FUZZ_SECONDS (60): how long each fuzzer runs. TEST_JOBS: how many tests at a time. Found inputs stay in
# build-fuzz/found/<fuzzer>/; a crash file there is named by its message and fails the run.
set -eu
cd "$(dirname "$0")/.."
jobs=${JOBS:-$(nproc)}
seconds=${FUZZ_SECONDS:-60}
[ $# -gt 0 ] || set -- address thread fuzz
# Compares rates against the kernel's to 3%, which says nothing in a slowed-down build.
timed="^shape_tbf_test$"

# configure FOLDER CMAKE-ARGUMENTS...
configure() {
    folder=$1
    shift
    if [ -f "$folder/CMakeCache.txt" ]; then
        cmake -S . -B "$folder" "$@" >/dev/null
    elif command -v ninja >/dev/null; then
        cmake -S . -B "$folder" -G Ninja "$@" >/dev/null
    else
        cmake -S . -B "$folder" "$@" >/dev/null
    fi
}

# Any finding ends the process that met it. Not every test would notice (a process may be meant to end badly), so what the
# sanitizers write goes to files, and one of them fails the run.
reports() {
    mkdir -p "$1/reports"
    rm -f "$1"/reports/*
    echo "log_path=$PWD/$1/reports/of"
}
none_in() {
    for report in "$1"/reports/of.*; do
        grep -qE 'ERROR: [A-Za-z]*Sanitizer|WARNING: ThreadSanitizer:|runtime error' "$report" 2>/dev/null || continue
        grep -q test_late_memory_is_hidden "$report" && continue # device_test dies there on purpose
        echo "sanitize: reports lie in $1/reports; the first:"
        cat "$report"
        return 1
    done
}

run_address() {
    configure build-asan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRESBM_SANITIZE=address,undefined
    cmake --build build-asan -j "$jobs"
    # Leaks of the OpenMP and oneDNN run-times themselves are listed in tests/lsan.supp.
    # detect_stack_use_after_return stays off: gcc 12 puts 64-byte vectors on its unaligned fake stack and crashes.
    log=$(reports build-asan)
    # verify_asan_link_order=0: tests preload libraries into some processes.
    ASAN_OPTIONS=verify_asan_link_order=0:handle_segv=2:strict_string_checks=1:allocator_may_return_null=1:$log \
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:$log LSAN_OPTIONS=print_suppressions=0:suppressions=$PWD/tests/lsan.supp \
        BUILD=build-asan scripts/run-tests.sh -E "$timed"
    none_in build-asan
}

# What has threads or links runs on the reference device: RB_TEST_DEVICE=ref.
run_thread() {
    configure build-tsan -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRESBM_SANITIZE=thread -DRESBM_OPENMP=OFF
    cmake --build build-tsan -j "$jobs"
    log=$(reports build-tsan)
    # UCX (beneath MPICH) hooks the calls by which a thread's stack is given back: the sanitizer is gone from the thread by then.
    TSAN_OPTIONS=allocator_may_return_null=1:$log:halt_on_error=1:second_deadlock_stack=1:print_suppressions=0:suppressions=$PWD/tests/tsan.supp \
        UCX_MEM_EVENTS=no RB_TEST_DEVICE=ref BUILD=build-tsan scripts/run-tests.sh -E "$timed"
    none_in build-tsan
}

run_fuzz() {
    configure build-fuzz -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
        -DRESBM_FUZZ=ON -DRESBM_TESTS=OFF -DRESBM_OPENMP=OFF -DRESBM_SANITIZE=address,undefined
    cmake --build build-fuzz -j "$jobs"
    count=0
    for file in $(find src -name '*_fuzz.c' | sort); do
        name=$(basename "$file" .c)
        subject=${name%_fuzz}
        mkdir -p "build-fuzz/found/$name" "tests/corpus/$subject"
        echo "== $name, $seconds s"
        UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 "build-fuzz/$name" -max_total_time="$seconds" \
            -timeout=60 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
            -artifact_prefix="build-fuzz/found/$name-" "build-fuzz/found/$name" "tests/corpus/$subject" \
            >"build-fuzz/$name.log" 2>&1 || { tail -n 60 "build-fuzz/$name.log"; exit 1; }
        grep -E 'number_of_executed_units|new_units_added' "build-fuzz/$name.log" || true
        count=$((count + 1))
    done
    [ "$count" -gt 0 ] || { echo "no fuzzers were found"; exit 1; }
    echo "$count fuzzers ran $seconds s each without a finding"
}

for what in "$@"; do
    case $what in
    address) run_address ;;
    thread) run_thread ;;
    fuzz) run_fuzz ;;
    *) echo "sanitize: unknown part '$what' (address, thread, fuzz)" >&2 && exit 2 ;;
    esac
done
