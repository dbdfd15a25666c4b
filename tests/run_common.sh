#!/bin/sh
# For tests that run the program whole: sourced, not run. Makes a small corpus and configuration in the working folder.
resbm=$RB_BINARY_DIR/resbm
[ -x "$resbm" ] || { echo "$resbm was not built"; exit 1; }
# Factor of deadlines: sanitized programs are several times slower, and others may want this machine's processors too.
sanitized() { grep -q '^RESBM_SANITIZE:STRING=.' "$RB_BINARY_DIR/CMakeCache.txt"; }
slower=1
if sanitized; then slower=6; fi
patience_now() { awk -v cores="$(nproc)" -v slower=$slower '{ n = int($1 / cores) + 1; print slower * (n < 5 ? n : 5) }' /proc/loadavg; }
patience=$(patience_now)
# Each test begins in an empty folder of the build, whatever an earlier run has left there.
case $PWD in "$RB_BINARY_DIR"/tests/*_test) rm -rf ./* ;; esac
failures=0
miss() { failures=$((failures + 1)); echo "FAILED: $*"; }
verdict() { [ $failures = 0 ] || { echo "$failures failed"; exit 1; }; echo "all held"; }
now_ms() { date +%s%3N; }

# within SECONDS CONDITION: waits until it holds; fails when it does not in that time, times patience, or times what that would be by then.
within() {
    within_from=$(now_ms) within_times=$patience
    until eval "$2"; do
        if [ $(($(now_ms) - within_from)) -ge $(($1 * 1000 * within_times)) ]; then
            within_now=$(patience_now)
            [ "$within_now" -gt "$within_times" ] || return 1
            within_times=$within_now
        fi
        sleep 0.02
    done
}

# Waits until a file says it; a miss when it does not in SECONDS, times patience.
wait_for() { # FILE PATTERN SECONDS
    i=0
    while ! grep -Eq -- "$2" "$1" 2>/dev/null && [ $i -lt $(($3 * 10 * patience)) ]; do sleep 0.1; i=$((i + 1)); done
    grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 5 "$1"; }
}

# Prose-like bytes, the same everywhere: no package needed, and a model can learn it.
make_corpus() {
    awk 'BEGIN { s = 7; n = split("the of a slow link carries latent gradients between stages and every segment learns", w, " ")
        for (i = 0; i < 30000; i++) { s = (s * 16807) % 2147483647; printf "%s%s", w[s % n + 1], s % 11 ? " " : ".\n" } }' >text
    rm -rf corpus
    "$resbm" data --out corpus text >data.log 2>&1 || { cat data.log; exit 1; }
}

make_config() {
    cat >run.yaml <<'YAML'
model:    {d: 128, layers: 4, heads: 4, ffn: 64, vocab: 256, context: 32, segments: 4}
boundary: {kind: residual, ratio: 16, codec_fwd: int4, codec_bwd: int4}
data:     {train: "corpus/train-*.bin", val: "corpus/val-*.bin", tokenizer: bytes}
optim:    {warmup: 2}
train:    {seed: 3, steps: 3, batch: 6, microbatches: 3, eval_every: 2, eval_sequences: 5, checkpoint_every: 0}
pipeline: {stages: 4, schedule: 1f1b, threads: 1}
YAML
}

# train DIR [section.key=value | --flag ...]: a run from scratch; its output is DIR.log.
train() {
    dir=$1
    shift
    case " $* " in *" --resume "*) ;; *) rm -rf "$dir" ;; esac
    "$resbm" train -q run.yaml --out "$dir" "$@" >"$dir.log" 2>&1
}

# go DIR SETTINGS: trains with the settings in $small, which the test sets, and these; its failure is shown.
go() {
    name=$1
    shift
    # shellcheck disable=SC2086,SC2154
    train "$name" $small "$@" || { miss "$name: $*"; cat "$name.log"; return 1; }
}
# near A B WITHIN: their losses, step by step, as a share.
near() {
    for run in "$1" "$2"; do sed -n 's/.*"loss": *\([0-9.e+-]*\).*/\1/p' "$run/metrics.jsonl" >"$run.losses"; done
    paste "$1.losses" "$2.losses" | awk -v within="$3" 'BEGIN { worst = 0 }
        { off = ($1 - $2) / $1; if (off < 0) off = -off; if (off > worst) worst = off }
        END { print NR " losses, " worst " off at most"; exit !(NR >= 3 && worst <= within) }' || miss "$1 and $2 differ"
}
# planned DIR WHAT: bytes in the summary's memory of stage 0.
planned() { sed -n "/\"memory\"/,/]/s/.*\"$2\": \([0-9]*\).*/\1/p" "$1/summary.json" | head -n 1; }

# killed_at STEP LAST DIR [...]: a run ended by SIGKILL of its coordinator once it has done STEP and before the snapshot of step LAST; its
# stages end by themselves. A kill that came too late (the steps between are a second or two) is tried again, with longer steps.
killed_at() {
    step=$1 last=$2 dir=$3
    shift 3
    for latency in 50 200 600; do
        rm -rf "$dir"
        "$resbm" train -q run.yaml --out "$PWD/$dir" "$@" link.latency=${latency}ms >"$dir.log" 2>&1 &
        pid=$!
        within 60 "grep -q '\"step\":$step,' '$dir/metrics.jsonl' 2>/dev/null || ! kill -0 $pid 2>/dev/null"
        kill -KILL $pid 2>/dev/null
        wait $pid 2>/dev/null
        within 20 "! pgrep -f '$PWD/$dir' >/dev/null" || miss "processes of $dir are left"
        [ -d "$dir/step-$last" ] || break
    done
    grep -q "\"step\":$step," "$dir/metrics.jsonl" || { miss "$dir did not come to step $step"; cat "$dir.log"; }
    [ ! -d "$dir/step-$last" ] || miss "$dir had come to step $last before it was killed"
}

# What may not depend on where a run was computed: every column but times and traffic.
losses() { sed -E 's/,"(staleness|deal)":\[[^]]*\]//g; s/,"(step_s|tokens_per_s|wire_bytes_fwd|wire_bytes_bwd|time_s)":[^,}]*//g' "$1/metrics.jsonl"; }

# Name and hash of every file of the newest snapshot.
weights() {
    newest=$(find "$1" -maxdepth 1 -name 'step-*' | sed 's/.*step-//' | sort -n | tail -n 1)
    awk -F'"' '/"name":/ { name = $4 } /"hash":/ && name { print name, $4; name = "" }' "$1/step-$newest/manifest.json" | sort
}

# same A B: equal losses and equal files, and there are some.
same() {
    losses "$1" >a.losses && losses "$2" >b.losses && weights "$1" >a.weights && weights "$2" >b.weights
    [ -s a.losses ] && [ -s a.weights ] || { miss "$1 is empty"; return; }
    cmp -s a.losses b.losses || { miss "$1 and $2 have other losses"; diff a.losses b.losses | head -n 4; }
    cmp -s a.weights b.weights || { miss "$1 and $2 have other weights"; diff a.weights b.weights | head -n 4; }
}

number() { sed -n "s/^ *\"$2\": \([-0-9.e+]*\).*/\1/p" "$1/summary.json"; }
