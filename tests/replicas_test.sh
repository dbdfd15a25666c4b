#!/bin/sh
# ctest: timeout=300 serial
# shellcheck disable=SC2154,SC2086 # resbm is of run_common.sh; settings are words
# Replicas: losses agree with one replica's to rounding under every deal and transport, and are the same bits with the same
# deal; snapshots do not depend on them; a slow one gets fewer microbatches.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
make_corpus
make_config

# close_to A B RELATIVE: losses of the same steps, no farther apart than that.
close_to() {
    paste -d, "$1/metrics.jsonl" "$2/metrics.jsonl" | awk -F'"loss":' -v most="$3" '{ a = $2 + 0; b = $3 + 0; d = a > b ? a - b : b - a
        if (a <= 0 || b <= 0 || d > most * a) { print "  step " NR ": " a " against " b; bad = 1 } } END { exit bad || NR < 8 }' ||
        miss "$1 and $2 differ by more than $3"
}
smooth="optim.kind=adamw optim.lr=0.002 boundary.codec_fwd=f32 boundary.codec_bwd=f32 train.steps=8 train.microbatches=4 train.batch=8
    train.checkpoint_every=4 train.keep=9 pipeline.stages=2 pipeline.deal=even"

train one $smooth || { miss one; cat one.log; }
agrees() {
    name=$1
    shift
    train "$name" $smooth "$@" || { miss "$name"; cat "$name.log"; return; }
    close_to one "$name" 1e-6
}
agrees two pipeline.replicas=2
agrees unequal 'pipeline.replicas=[3,1]'
agrees fan 'pipeline.replicas=[1,2]' pipeline.schedule=gpipe pipeline.transport=tcp
train onehalf $smooth boundary.aux=stream boundary.tokens=embedding || { miss onehalf; cat onehalf.log; }
train halves $smooth boundary.aux=stream boundary.tokens=embedding pipeline.replicas=2 pipeline.schedule=zb-h1 data.distribute=wire ||
    { miss halves; cat halves.log; }
close_to onehalf halves 1e-6

# The same deal, the same bits; after a resume too, on as many replicas.
train again $smooth pipeline.replicas=2 pipeline.threads=2 || { miss again; cat again.log; }
same two again
rm -rf again/step-8
train again $smooth pipeline.replicas=2 --resume || { miss "again, resumed"; cat again.log; }
same two again

# Snapshots know nothing of replicas: begun with two, ended with one, and the other way round.
rm -rf moved
cp -r two moved && rm -rf moved/step-8
train moved $smooth --resume || { miss moved; cat moved.log; }
close_to one moved 1e-6
"$resbm" eval two >eval.log 2>&1 || { miss "eval"; cat eval.log; }

# Learned steps of int4 boundaries, whose statistics the replicas add up too: a first step is the same to the bit, and
# eight of them stay close (a latent may round the other way).
coarse="train.steps=8 train.microbatches=4 train.batch=8 pipeline.stages=2 pipeline.deal=even"
train coarse $coarse || { miss coarse; cat coarse.log; }
train coarse2 $coarse pipeline.replicas=2 || { miss coarse2; cat coarse2.log; }
for d in coarse coarse2; do sed -n '1s/.*"loss":\([^,]*\),.*/\1/p' $d/metrics.jsonl; done >first
[ "$(sort -u first | wc -l)" = 1 ] || miss "the first step's losses differ: $(tr '\n' ' ' <first)"
close_to coarse coarse2 0.005

# Eight bits between replicas: lossy, with the loss carried on.
train eight $smooth pipeline.replicas=2 pipeline.replica_codec=int8 || { miss eight; cat eight.log; }
close_to one eight 1e-3
sync() { grep -o '"sync": [0-9]*' "$1/summary.json" | awk '{ s += $2 } END { print s }'; }
awk -v a="$(sync two)" -v b="$(sync eight)" 'BEGIN { exit !(b > 0 && b < 0.28 * a && b > 0.25 * a) }' ||
    miss "int8 sends $(sync eight) bytes between replicas, f32 $(sync two)"

# Process 2, the first stage's second replica, is stopped three quarters of the time.
cat >slow.sh <<'END'
[ "$1" = 2 ] && (while kill -STOP $$ && sleep 0.03 && kill -CONT $$ && sleep 0.01; do :; done) 2>/dev/null &
shift
exec "$@"
END
# (The first deal is even; what is measured then decides.)
train slow train.steps=12 train.microbatches=8 train.batch=8 train.eval_every=0 model.d=256 model.ffn=704 pipeline.stages=2 \
    pipeline.replicas=2 pipeline.launcher="sh slow.sh {stage}" || { miss slow; cat slow.log; }
sed -n 's/.*"deal":\[\([0-9]*\),[0-9]*,\([0-9]*\),.*/\1 \2/p' slow/metrics.jsonl |
    awk '{ more += $1 - $2 } END { exit !(NR == 12 && more > 4) }' || { miss "the slow replica is dealt as much"; grep -o '"deal":[^]]*' slow/metrics.jsonl; }

refused() {
    what=$1
    shift
    train refused "$@" && miss "$what is taken"
    says refused.log "$what"
}
refused "pipeline.replicas = 4, but train.microbatches = 3" pipeline.replicas=4
refused "pipeline.replicas has 2 entries for pipeline.stages = 4" 'pipeline.replicas=[1,2]'
refused "takes no replicas" pipeline.replicas=2 pipeline.schedule=pipedream optim.clip=0
refused "boundary.feedback = gradient" pipeline.replicas=2 boundary.kind=topk boundary.feedback=gradient
verdict
