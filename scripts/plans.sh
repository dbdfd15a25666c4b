#!/bin/sh
# Writes the tables of docs/plans.md again: between "<!-- plan NAME MACHINES [OPTION ...] -->" and "<!-- end -->" stands what
# `resbm plan examples/plans/NAME.yaml -m examples/plans/MACHINES.yaml OPTION ...` prints. Run from the repository's root.
set -eu
resbm=${RESBM:-build/resbm}
page=docs/plans.md
new=$(mktemp)
trap 'rm -f "$new"' EXIT
while IFS= read -r line; do
    case $line in
    "<!-- plan "*)
        printf '%s\n' "$line" >>"$new"
        # shellcheck disable=SC2046 # names and options are words
        set -- $(printf '%s' "$line" | sed 's/^<!-- plan //; s/ -->$//')
        name=$1 machines=$2
        shift 2
        { printf '```\n' && "$resbm" plan "examples/plans/$name.yaml" -m "examples/plans/$machines.yaml" "$@" && printf '```\n'; } >>"$new"
        skipping=1
        ;;
    "<!-- end -->")
        printf '%s\n' "$line" >>"$new"
        skipping=
        ;;
    *) [ -n "${skipping:-}" ] || printf '%s\n' "$line" >>"$new" ;;
    esac
done <"$page"
cp "$new" "$page"
