#!/bin/sh
# ctest: timeout=180
# Optimizer states (and gradients) on disk: the bits of a run without, on any number of stages, for both optimizers,
# resumed either way, after a kill; nothing left behind; a disk too small or missing says so.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

same_as() { same "$1" "$2"; [ -s "$2/metrics.jsonl" ] || miss "$2 has no metrics"; }

# away DIR KIND [key=value ...]
away() {
    dir=$1 kind=$2
    shift 2
    train "$dir" optim.kind="$kind" optim.offload=disk "$@" || { miss "$dir"; cat "$dir.log"; }
    same_as "plain-$kind" "$dir"
    [ -z "$(find "$dir" -name '.resbm*')" ] || miss "$dir holds scratch"
}
gradients=optim.offload_parts=states+gradients
for kind in muon adamw; do
    train "plain-$kind" optim.kind=$kind train.checkpoint_every=1 train.keep=9 || { miss "plain-$kind"; cat "plain-$kind.log"; }
    for stages in 1 3; do away "states-$kind-$stages" "$kind" pipeline.stages=$stages; done
    for stages in 2 4; do away "gradients-$kind-$stages" "$kind" pipeline.stages=$stages $gradients; done
done
away gradients-muon-1 muon pipeline.stages=1 $gradients train.checkpoint_every=1 train.keep=9 train.recompute=true
train tied model.segments=1 pipeline.stages=1 model.tied=true train.recompute=true || { miss tied; cat tied.log; }
train tied-away model.segments=1 pipeline.stages=1 model.tied=true train.recompute=true optim.offload=disk \
    $gradients || { miss tied-away; cat tied-away.log; }
same_as tied tied-away

# From step 1: with -> without -> with, and the other way round.
rm -rf back forth
cp -r gradients-muon-1 back && rm -rf back/step-2 back/step-3
cp -r plain-muon forth && rm -rf forth/step-2 forth/step-3
train back --resume train.steps=3 || { miss back; cat back.log; }
train forth --resume optim.offload=disk $gradients pipeline.stages=3 || { miss forth; cat forth.log; }
same_as plain-muon back
same_as plain-muon forth

# Killed in the middle: the file goes with its process, the snapshot is the truth.
mkdir -p elsewhere
rm -rf killed
"$resbm" train -q run.yaml --out killed train.steps=400 optim.schedule=constant train.checkpoint_every=1 train.keep=3 \
    optim.offload=disk optim.offload_dir=elsewhere pipeline.stages=2 >killed.log 2>&1 &
coordinator=$!
within 30 "[ -e killed/step-2/manifest.json ]" || miss "killed did not come to step 2"
kill -9 $coordinator
wait $coordinator 2>/dev/null
[ -z "$(find elsewhere -type f)" ] || miss "a killed run left files: $(find elsewhere -type f)"
last=$(find killed -maxdepth 1 -name 'step-*' ! -name '*.tmp' | sed 's/.*step-//' | sort -n | tail -n 1)
train killed --resume train.steps=$((last + 2)) optim.schedule=constant optim.offload=disk ||
    { miss "resume after a kill"; cat killed.log; }
train whole train.steps=$((last + 2)) optim.schedule=constant || { miss whole; cat whole.log; }
weights whole >a.weights
weights killed >b.weights
cmp -s a.weights b.weights || miss "killed and resumed: other weights"
grep -q "resumed after step $last" killed.log || { miss "not resumed after step $last"; cat killed.log; }

# refused PATTERN ARGS
refused() {
    pattern=$1
    shift
    rm -rf x
    timeout $((30 * patience)) "$resbm" train -q run.yaml --out x "$@" >refused.log 2>&1
    [ $? = 1 ] || miss "status of: $*"
    grep -Eq -- "$pattern" refused.log || { miss "nothing says '$pattern' of: $*"; tail -n 3 refused.log; }
}
refused 'offload_parts.*offload = none.*disk' optim.offload_parts=states+gradients
refused 'offload_dir.*offload = none.*disk' optim.offload_dir=elsewhere
refused 'offload = host.*device = cpu.*disk' optim.offload=host
refused '/proc/none' optim.offload=disk optim.offload_dir=/proc/none
(ulimit -f 100; refused 'cannot reserve [0-9]+ bytes in .*stage 0.*offload_dir' optim.offload=disk pipeline.stages=1
    exit $failures) || miss "a file size limit"
if [ "$(id -u)" = 0 ] && mkdir -p small && mount -t tmpfs -o size=500k tmpfs small 2>/dev/null; then
    trap 'umount small' EXIT
    refused 'cannot reserve [0-9]+ bytes in small, where [0-9]+ are free.*stage 0.*offload_dir' optim.offload=disk \
        optim.offload_dir=small pipeline.stages=1
else
    echo "full disk: not tried (no permission to mount a small file system)"
fi
verdict
