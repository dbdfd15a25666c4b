#!/bin/sh
# ctest: timeout=120
# What the coordinator decides about a step is what the weights do. With beta1 = beta2 = 0 and eps = 1 AdamW moves a weight by
# rate x clipped gradient (whose square is next to nothing here), so that the way between two snapshots tells rate and clipping.
set -u
. "$RB_SOURCE_DIR/tests/run_common.sh"
python=$RB_SOURCE_DIR/.venv/bin/python
[ -x "$python" ] || { echo "skipped: no $python (scripts/venv.sh)" && exit 77; }
make_corpus
make_config
plain="boundary.kind=none boundary.codec_fwd=f32 boundary.codec_bwd=f32 optim.kind=adamw optim.beta1=0 optim.beta2=0 optim.eps=1
    optim.lr=10 optim.adamw_lr=10 optim.schedule=constant train.steps=4 train.checkpoint_every=1 train.keep=9 train.eval_every=0"
cat >way.py <<'P'
"""way.py RUN FROM TO: how far the weights went between two snapshots, and each segment's share."""
import sys, glob
import numpy as np
from safetensors.numpy import load_file
run, a, b = sys.argv[1:]
ways = []
for path in sorted(glob.glob(f"{run}/step-{a}/segment-?.safetensors")):
    x, y = load_file(path), load_file(path.replace(f"step-{a}/", f"step-{b}/"))
    ways.append(sum(float(np.sum((y[k].astype(np.float64) - x[k]) ** 2)) for k in x) ** 0.5)
print(sum(w * w for w in ways) ** 0.5, *ways)
P
# way RUN FROM TO WANT [SEGMENT]: within 1%; the whole model's, or the numbered segment's.
way() {
    "$python" way.py "$1" "$2" "$3" >way.out || { miss "$1: no way"; return; }
    awk -v want="$4" -v field="${5:-0}" '{ x = $(field + 1); exit !(x > 0.99 * want && x < 1.01 * want) }' way.out ||
        miss "$1 from step $2 to $3: $(cat way.out), not $4 (${5:-all})"
}

# What a commit does beside the weights: both ends of a boundary move their learned steps alike, and what a boundary holds to a
# subspace is in it again (AdamW, which goes by coordinates, leads out of it).
cat >ends.py <<'P'
"""ends.py steps RUN: encoder's and decoder's steps are the same bits, and have moved. ends.py rank RUN K: of matrices held to K dimensions."""
import sys, glob
import numpy as np
from safetensors.numpy import load_file
what, run = sys.argv[1:3]
def tensors(step):
    files = [f for f in glob.glob(f"{run}/step-{step}/*.safetensors") if ".optim." not in f]
    return {k: v for f in files for k, v in load_file(f).items()}
first, last = tensors(1), tensors(4)
if what == "steps":
    ends = [k for k in last if k.endswith(".encoder.steps")]
    assert len(ends) == 3, sorted(last)
    for k in ends:
        other = k.replace("encoder", "decoder")
        assert last[k].tobytes() == last[other].tobytes(), k
        assert last[k].tobytes() != first[k].tobytes(), k
else:
    held = {k: last[k] for k in last if any(f"layers.{i}." in k and ("o_proj" in k or "down_proj" in k) for i in range(3))}
    assert len(held) == 6, sorted(held)
    k = "model.embed_tokens.weight" # with what crosses fixed beside it: what was learned
    held[k] = last[k] - first[k]
    for k, v in held.items():
        s = np.linalg.svd(v.astype(np.float64), compute_uv=False)
        assert s[int(sys.argv[3])] < 1e-5 * s[0], (k, s[int(sys.argv[3])] / s[0])
P
four="train.steps=4 train.checkpoint_every=1 train.keep=9 train.eval_every=0 optim.warmup=0 model.layers=4 model.segments=4"
for stages in 1 2; do
    # shellcheck disable=SC2086
    train ends $four pipeline.stages=$stages && "$python" ends.py steps ends || miss "learned steps on $stages stages"
    # shellcheck disable=SC2086
    train held $four boundary.kind=subspace boundary.codec_fwd=bf16 boundary.codec_bwd=bf16 boundary.ratio=4 model.d=64 optim.kind=adamw \
        optim.lr=0.002 pipeline.stages=$stages && "$python" ends.py rank held 16 || miss "a subspace on $stages stages"
done

# The norm of the whole model is clipped to 0.01: rate 10 makes 0.1 of it. Warm-up over four steps: half the rate in step 2.
for stages in 1 2; do
    # shellcheck disable=SC2086
    train global $plain optim.clip=0.01 optim.warmup=4 pipeline.stages=$stages || { miss global; cat global.log; }
    way global 1 2 0.05
    way global 3 4 0.1
done
# Each segment's own: so much in each of the four.
# shellcheck disable=SC2086
train segment $plain optim.clip=0.01 optim.clip_scope=segment optim.warmup=0 pipeline.stages=2 || { miss segment; cat segment.log; }
for i in 1 2 3 4; do way segment 1 2 0.1 $i; done
# A norm below the bound is left alone: the way is rate x the norm that metrics.jsonl tells.
# shellcheck disable=SC2086
train free $plain optim.lr=0.001 optim.adamw_lr=0.001 optim.eps=1 optim.clip=1000 optim.warmup=0 train.steps=2 model.init_std=0.001 ||
    { miss free; cat free.log; }
norm=$(sed -n '2s/.*"grad_norm":\([0-9.e+-]*\).*/\1/p' free/metrics.jsonl)
"$python" way.py free 1 2 >way.out
awk -v n="$norm" '{ exit !(n > 0 && $1 > 0.5 * 0.001 * n && $1 < 1.001 * 0.001 * n) }' way.out ||
    miss "free: $(cat way.out) is not 0.001 x $norm"
verdict
