#!/bin/sh
# `make bench`: the tables of docs/benchmarks.md, on this machine. ROUNDS: how often A and B take turns.
set -eu
cd "$(dirname "$0")/.."
lscpu | sed -n 's/^Model name: */machine: /p; s/^CPU(s): */processors: /p'
exec .venv/bin/python bench/train.py --program "${BUILD:-build}/resbm" --rounds "${ROUNDS:-3}"
