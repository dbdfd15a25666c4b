#!/bin/sh
# ctest: timeout=120 serial
# Wrong input and worlds that do not fit: a message that says what, where and what to do, a status other than zero, and
# what was there before stays as it was.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

# refused PATTERN [key=value | --flag ...]: training must end so, quickly.
refused() {
    pattern=$1
    shift
    timeout $((30 * patience)) "$resbm" train -q run.yaml "$@" >refused.log 2>&1
    status=$?
    [ $status = 1 ] || miss "status $status of: $*"
    grep -Eq -- "$pattern" refused.log || { miss "nothing says '$pattern' of: $*"; tail -n 3 refused.log; }
}
rm -rf x nan small
refused "'lrr' in section optim: did you mean lr" --out x optim.lrr=1
refused "'microbatch'.*did you mean microbatches" --out x train.microbatch=2
refused "'modle'.*did you mean model" --out x modle.d=3
refused 'ratio.*100' --out x boundary.ratio=100
refused 'stages.*9.*segments.*4|stages.*segments' --out x pipeline.stages=9
refused 'microbatches.*4.*batch.*6|microbatches.*batch' --out x train.microbatches=4
refused 'heads' --out x model.heads=5
refused 'lr' --out x optim.lr=-1
refused "'k' in section boundary: did you mean [a-z_]+\? Its keys: kind" --out x boundary.k=3
refused 'pipeline.control names no place of this machine: cannot listen on tcp:1.2.3.4:9' --out x pipeline.transport=tcp \
    pipeline.control=1.2.3.4:9
refused 'stage 1: pipeline.addresses, entry 2, .*pipeline.launcher starts stage 1: cannot listen' --out x pipeline.transport=tcp \
    pipeline.stages=2 'pipeline.addresses=["127.0.0.1:17005", "1.2.3.4:9"]'
refused 'pipeline.deadline = 60s is below the [0-9.e+]+ s that one microbatch .*raise it' --out x link.up=1kbit boundary.kind=none \
    boundary.codec_fwd=f32 boundary.codec_bwd=f32
refused 'codec_fwd.*int3.*int4|int4' --out x boundary.codec_fwd=int3
refused 'nothing-.*resbm data' --out x 'data.train=nothing-*.bin'
refused 'corpus: it is a folder: name its shards, corpus/train-\*.bin' --out x data.train=corpus
refused 'data.tokenizer = nosuch.model: No such file' --out x data.tokenizer=nosuch.model
refused 'data.tokenizer = nosuch: no tokenizer is called so' --out x data.tokenizer=nosuch
refused 'vocab.* 60' --out x model.vocab=60
refused 'cannot.*(/proc/none|proc)' --out /proc/none/run
refused 'no snapshot' --out empty --resume
train=$(find corpus -name 'train-*.bin' | sort | head -n 1)
head -c 2000 "$train" >cut.bin
refused 'cut.bin.*truncated' --out x data.train=cut.bin
head -c 100 "$train" >stub.bin
refused 'stub.bin' --out x data.train=stub.bin
sed 's/^train:/trian:/' run.yaml >typo.yaml
"$resbm" train typo.yaml --out x >refused.log 2>&1 && miss "typo.yaml was accepted"
grep -Eq 'typo.yaml:5.*trian.*train' refused.log || { miss "the misspelt section is not named"; cat refused.log; }
printf 'model:\n\td: 128\n' >tab.yaml
"$resbm" train tab.yaml --out x >refused.log 2>&1 && miss "a tab was accepted"
grep -q 'tab.yaml:2:1: the line begins with a tab' refused.log || { miss "the tab is not named"; cat refused.log; }
[ -z "$(find x -name 'step-*' 2>/dev/null)" ] || miss "a refused run left a snapshot"

# An older run is not overwritten.
train old train.checkpoint_every=1 train.keep=9 || { miss old; cat old.log; }
cksum old/metrics.jsonl old/step-*/* >before
refused 'old already holds a run.*--resume.*--out' --out old
cksum old/metrics.jsonl old/step-*/* | cmp -s - before || miss "a refused run changed the older one"
"$resbm" generate old data.tokenizer=nosuch.model >refused.log 2>&1 && miss "generates without its tokenizer"
grep -q 'data.tokenizer=PATH.*cannot open nosuch.model' refused.log || { miss "the key of the tokenizer is not named"; cat refused.log; }
cksum old/summary.json old/report.html >before
"$resbm" train -q run.yaml --out old train.checkpoint_every=1 train.keep=9 --resume >refused.log 2>&1 || miss "nothing left to do is no fault"
grep -q 'old has done all of its train.steps = 3: raise it' refused.log || { miss "nobody says that nothing is left"; cat refused.log; }
cksum old/summary.json old/report.html | cmp -s - before || miss "with nothing left to do the summary changed"
refused 'd.*256|model' --out old --resume model.d=256

# Not finite: the step and the first tensor; the last snapshot is one of finite numbers.
refused 'step [0-9]+.*(not finite).*(model\.|boundary\.|lm_head|logits|loss)' --out nan optim.lr=100 optim.adamw_lr=100 \
    optim.clip=0 train.steps=40 train.checkpoint_every=1
refused 'already holds' --out nan

# A damaged snapshot is named, and the one before it is used, bit for bit.
for damage in flip cut manifest; do
    rm -rf damaged
    cp -r old damaged
    part=damaged/step-3/segment-1.safetensors
    case $damage in
    flip) printf '\125' | dd of=$part bs=1 seek=3000 conv=notrunc 2>/dev/null ;;
    cut) head -c 5000 $part >part && cp part $part ;;
    manifest) sed -i 's/"cursor": 18/"cursor": 19/' damaged/step-3/manifest.json ;;
    esac
    train damaged --resume || { miss "resume after $damage"; cat damaged.log; continue; }
    [ $damage = manifest ] || grep -q 'step-3.*segment-1.safetensors' damaged.log || { miss "$damage: no name"; cat damaged.log; }
    grep -q 'step-3' damaged.log || miss "$damage: no name"
    grep -q 'resumed after step 2' damaged.log || { miss "$damage: not resumed after step 2"; cat damaged.log; }
    same old damaged
done
rm -rf half && cp -r old half && rm half/step-3/manifest.json
train half --resume && same old half
grep -q 'resumed after step 2' half.log || miss "a snapshot without a manifest was used"
rm -f damaged/step-*/segment-0.safetensors
"$resbm" eval damaged >refused.log 2>&1 && miss "eval of a run without a whole snapshot"
grep -q 'segment-0.safetensors' refused.log || { miss "the missing file is not named"; cat refused.log; }

# Sizes beyond all memory: which they are, and the keys to lower.
huge="model.d=65536 model.heads=64 model.ffn=1048576 boundary.hidden=64 pipeline.stages=1"
# shellcheck disable=SC2086
refused 'stage 0: no memory for the weights, .* GB .*: lower model.d, model.ffn.*pipeline.stages' --out x $huge
refused 'stage 0: no memory for the activations, .* GB .*: lower train.batch or model.context' --out x \
    pipeline.stages=1 model.context=200000 train.batch=30000
refused 'steps.*out of range; allowed: 1 to 1000000000' --out x train.steps=100000000000

# Ctrl-C, and Ctrl-C again before the step is over: nothing is left behind but the earlier snapshots.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
# interrupted FILE PATTERN: signals the run $pid (a session of its own) as often as asked, and waits.
interrupted() {
    wait "$pid"
    status=$?
    [ $status = 130 ] || { miss "$1: status $status"; cat "$1"; }
    grep -Eq -- "$2" "$1" || { miss "$1 does not say '$2'"; tail -n 3 "$1"; }
    [ -z "$(ls -A "$TMPDIR")" ] || miss "$1 leaves $(find "$TMPDIR")"
    within 20 '! pgrep -s "$pid" >/dev/null' || miss "$1 leaves processes: $(pgrep -s "$pid" -a)"
}
# A second Ctrl-C that came when the step was over (it takes two seconds) is tried again with steps of seven and twenty.
for latency in 300 1000 3000; do
    rm -rf hasty
    setsid "$resbm" train -q run.yaml --out hasty train.steps=40 train.checkpoint_every=2 train.eval_every=0 link.latency=${latency}ms \
        >hasty.log 2>&1 &
    pid=$!
    within 60 '[ -s hasty/step-2/manifest.json ] || ! kill -0 "$pid" 2>/dev/null'
    if kill -0 "$pid" 2>/dev/null; then
        refused "another run is writing to hasty: wait for its end, or choose another --out" --out hasty --resume
    fi
    sleep 1 # step 3 has begun
    kill -INT "$pid"
    within 30 'grep -q "once more ends at once" hasty.log || ! kill -0 "$pid" 2>/dev/null'
    kill -INT "$pid" 2>/dev/null
    within 60 '! kill -0 "$pid" 2>/dev/null'
    grep -q "stopped on request after step [34]" hasty.log || break
done
interrupted hasty.log 'stopped at once on request, (in step [0-9]+|while finishing|while writing the snapshot of step 3)\. The last snapshot is hasty/step-2: go on with --resume'
[ ! -e hasty/step-3 ] || miss "the second Ctrl-C waited for a snapshot"

printf '#!/bin/sh\nexec sleep 600\n' >never
chmod +x never
setsid "$resbm" train -q run.yaml --out starting "pipeline.launcher=$PWD/never" >starting.log 2>&1 &
pid=$!
within 30 'pgrep -s "$pid" sleep >/dev/null'
kill -INT "$pid"
interrupted starting.log 'stopped at once on request, while starting'

setsid "$resbm" verify run.yaml pipeline.stages=2 --steps 900 >verify.log 2>&1 &
pid=$!
within 30 'pgrep -s "$pid" -f "^[^ ]*resbm stage" >/dev/null'
kill -INT "$pid"
interrupted verify.log 'stopped (on request after step [0-9]+|at once on request, while starting)$'
unset TMPDIR
trap - EXIT

# A full disk: named, and the earlier snapshot is whole.
if [ "$(id -u)" = 0 ] && mkdir -p small && mount -t tmpfs -o size=7m tmpfs small 2>/dev/null; then
    trap 'umount small' EXIT
    refused 'small/.*No space left' --out small/run train.steps=40 train.checkpoint_every=1 train.keep=9
    "$resbm" eval small/run >eval.log 2>&1 || { miss "nothing was left to evaluate"; cat eval.log; }
else
    echo "full disk: not tried (no permission to mount a small file system)"
fi
verdict
