#!/bin/sh
# Makes .venv with the pinned Python packages of tests/requirements.txt, and with argument `torch`, `python`, `cuda` (cuBLAS) or
# `cudnn` (0.5 GB to fetch, 0.9 GB on disk; without what they depend on, which we do not use) those of tests/requirements-<argument>.txt too. Does nothing when they are there. Only tests that read our files with other
# people's libraries, golden numbers and the benchmark use it; nothing else in this project needs Python.
# RESBM_NO_VENV=1 skips it; those tests then report themselves skipped.
set -eu
cd "$(dirname "$0")/.."
[ "${RESBM_NO_VENV:-0}" = 1 ] && exit 0

for set in requirements ${1:+requirements-$1}; do
    file=tests/$set.txt
    stamp=.venv/$set.stamp
    cmp -s "$file" "$stamp" && .venv/bin/python -c '' 2>/dev/null && continue
    .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv && python3 -m venv .venv; }
    # Bytecode is made when it is first used; of all these packages' files it takes longer than installing them.
    case $set in *-cudnn) alone=--no-deps ;; *) alone= ;; esac
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-compile $alone -r "$file"
    cp "$file" "$stamp"
done
