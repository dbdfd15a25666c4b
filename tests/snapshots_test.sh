#!/bin/sh
# ctest: timeout=120
# Snapshots of a hosted run cross packed, against the one before where both ends have it: fewer bytes than the files have, and fewer
# than without. When the host's copy is gone the next one does without, and nothing else changes: the losses and files are those of
# the local engine. A host that was started again packs against what it finds.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
[ -f "$RB_BINARY_DIR/resbm-nats.so" ] || { echo "skipped: built without libnats"; exit 77; }
make_corpus
make_config
wide="pipeline.stages=2 model.segments=2 model.ffn=320 train.checkpoint_every=4 optim.schedule=constant train.eval_every=8 model.layers=2"
# shellcheck disable=SC2086
train local train.steps=40 $wide || { miss local; cat local.log; }
pids=
trap 'kill -KILL $pids 2>/dev/null' EXIT
host() { # STEPS [more]
    steps=$1
    shift
    rm -f host.log # what the one before said is not waited for
    # shellcheck disable=SC2086
    "$resbm" host run.yaml --listen 127.0.0.1:0 --out run $wide train.steps="$steps" "$@" >host.log 2>&1 &
    host=$!
    pids="$pids $host"
    wait_for host.log "resbm join INVITATION" 20
    for n in 1 2; do
        env OMP_NUM_THREADS=1 "$resbm" join run/invitation --dir guest$n >guest$n.log 2>&1 &
        pids="$pids $!"
    done
}
ends() {
    within 60 "! kill -0 $host 2>/dev/null"
    wait $host || { miss "the host of $1 steps ended with status $?"; tail -n 5 host.log; }
}
# The newest snapshot here goes as soon as it is told of, until one has come that could be packed against none. A share of 1: it is
# told of before the next steps, in one of which it goes.
host 32 link.snapshot_share=1
while kill -0 $host 2>/dev/null && [ "$(grep -c "snapshot of step .* crossed$" host.log)" -lt 2 ]; do
    last=$(sed -n 's/^the snapshot of step \([0-9]*\) is here.* packed against .*/\1/p' host.log | tail -n 1)
    [ -z "$last" ] || rm -rf "run/step-$last"
    sleep 0.02
done
ends 32
grep "snapshot of step" host.log
# Of each line: step, files, MB they have, MB that crossed, files packed against the snapshot before.
sed -n 's/^the snapshot of step \([0-9]*\) is here: \([0-9]*\) files of \([0-9.]*\) MB, for which \([0-9.]*\) MB crossed\(; \([0-9]*\) are packed.*\)\{0,1\}$/\1 \2 \3 \4 0\6/p' host.log >cost
awk '$1 == 4 { first = $4; if ($5 != 0) bad = "the first one has nothing before it" }
    $4 > 0.9 * $3 { bad = "as many bytes crossed as the files have: " $0 }
    $5 > 0 { based++; if ($5 != $2) bad = "of these files not all were packed alike: " $0; if ($4 >= first) bad = "no fewer bytes than without: " $0 }
    $5 == 0 && $1 > 4 { lost++ }
    END { if (!based) bad = "none was packed against the one before"
          if (!lost) bad = "none had to do without"
          if (bad) { print bad; exit 1 } }' cost || miss "what snapshots cost"
grep -q "epoch .* ended" host.log && miss "an epoch ended"
host 40
ends 40
wait_for host.log "snapshot of step 36 is here: .* are packed against those of step 32" 1
same local run
verdict
