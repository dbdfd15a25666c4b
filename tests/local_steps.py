#!/usr/bin/env python3
"""Local steps against plain arithmetic: two replicas, each with one of two windows of text in every step, are done again as runs of one
pipeline on those windows alone; their weights are averaged here and go through Nesterov's update as torch.optim.SGD has it.

    local_steps.py RESBM        works in the present folder"""
import json, os, shutil, struct, subprocess, sys
from array import array

RESBM, T, K, LR, MOMENTUM = sys.argv[1], 32, 2, 0.7, 0.9
COMMON = ["optim.kind=adamw", "optim.lr=0.001", "optim.beta1=0", "optim.beta2=0", "optim.schedule=constant", "optim.warmup=0", "optim.clip=0",
          "boundary.codec_fwd=f32", "boundary.codec_bwd=f32", "pipeline.stages=2", "data.val=", "train.eval_every=0", "train.keep=99"]
bad = 0


def check(ok, text):
    global bad
    if not ok:
        bad += 1
        print("FAILED: " + text)


def shard(path, tokens):
    with open(path, "wb") as f:
        f.write(struct.pack("<3i", 20240520, 1, len(tokens)) + bytes(1012) + array("H", tokens).tobytes())


def start(out, *more):
    return subprocess.Popen([RESBM, "train", "-q", "run.yaml", "--out", out] + COMMON + list(more), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def ends(*runs):
    for r in runs:
        said = r.communicate()[0]
        if r.returncode:
            raise SystemExit("FAILED: %s" % said)


def train(out, *more):
    ends(start(out, *more))


def tensors(folder, names):
    """name -> values, of a step-N folder's files whose name `names` accepts."""
    found = {}
    for f in sorted(os.listdir(folder)):
        if not f.endswith(".safetensors") or not names(f):
            continue
        with open(folder + "/" + f, "rb") as g:
            head = json.loads(g.read(struct.unpack("<Q", g.read(8))[0]))
            body = g.read()
        for name, t in head.items():
            if name != "__metadata__":
                a, b = t["data_offsets"]
                found[name] = array("f", body[a:b])
    return found


def weights(folder):
    return tensors(folder, lambda f: ".optim." not in f and ".outer." not in f)


def farthest(a, b):
    """Largest distance, over the largest value there is."""
    assert a.keys() == b.keys() and a
    most = max(max(map(abs, v)) for v in a.values() if len(v))
    return max(max((abs(x - y) for x, y in zip(a[n], b[n])), default=0) for n in a) / most


def chains(begin, at, name):
    """Weights after two steps on each sequence of the two windows, from the snapshot step-`at` of the folder `begin` (None: a new run)."""
    one = ["train.batch=1", "train.microbatches=1", "train.checkpoint_every=1"]
    for first in "ab":
        if begin:
            shutil.copytree(begin, name + first)
    ends(*(start(name + first, "train.steps=%d" % (at + 1), "data.train=%s.bin" % first, *one, *(["--resume"] if begin else [])) for first in "ab"))
    for first in "ab":
        for second in "ab":
            shutil.copytree(name + first, name + first + second)
        ends(*(start(name + first + second, "train.steps=%d" % (at + 2), "data.train=%s.bin" % second, "--resume", *one) for second in "ab"))
    after = {p + q: weights("%s/step-%d" % (name + p + q, at + 2)) for p in "ab" for q in "ab"}
    return after


def outer(start, momentum, x, y):
    """One outer update: (weights, momentum)."""
    w, b = {}, {}
    for n in start:
        g = [a - (p + q) / 2 for a, p, q in zip(start[n], x[n], y[n])]
        b[n] = array("f", [MOMENTUM * m + v for m, v in zip(momentum[n] if momentum else [0] * len(g), g)])
        w[n] = array("f", [a - LR * (v + MOMENTUM * m) for a, v, m in zip(start[n], g, b[n])])
    return w, b


def only_step(run, step, copy):
    shutil.copytree(run, copy)
    for d in os.listdir(copy):
        if d.startswith("step-") and d != "step-%d" % step:
            shutil.rmtree(copy + "/" + d)
    return copy


text = b"a slow link carries latent gradients; every segment learns from it, and the others wait for no one"
ids = list(text[:2 * T + 1])
shard("a.bin", ids[:T + 1])
shard("b.bin", ids[T:])
shard("both.bin", ids)
train("start", "train.steps=1", "optim.lr=0", "optim.adamw_lr=0", "train.batch=1", "train.microbatches=1", "data.train=a.bin")
train("local", "train.steps=4", "train.batch=2", "train.microbatches=2", "train.checkpoint_every=2", "data.train=both.bin", "pipeline.replicas=2",
      "pipeline.deal=even", "optim.local_steps=%d" % K, "optim.outer_lr=%g" % LR, "optim.outer_momentum=%g" % MOMENTUM)

pairs = [("aa", "bb"), ("ab", "ba")]  # who had which window when: the sampler's order, one of these
at, momentum = weights("start/step-1"), None
for number in (1, 2):
    step = number * K
    begin = None if number == 1 else only_step("local", step - K, "begin")
    after = chains(begin, step - K, "round%d" % number)
    got, kept = weights("local/step-%d" % step), tensors("local/step-%d" % step, lambda f: ".outer." in f)
    tried = [outer(at, momentum, after[p], after[q]) for p, q in pairs]
    apart = [farthest(got, {n: w.get(n, got[n]) for n in got}) for w, _ in tried]
    print("round %d: weights are %.2g and %.2g from those of the two orders" % (number, *apart))
    # Without memory of the first moment AdamW still rounds by what it was, and here the second replica begins round 2 with the first one's.
    check(min(apart) < (1e-6 if number == 1 else 3e-5), "round %d: the outer update is another than Nesterov's" % number)
    check(max(apart) > 1e-4, "round %d: this check cannot tell the orders apart" % number)
    _, momentum = tried[apart.index(min(apart))]
    scale = max(max(map(abs, v)) for v in momentum.values())
    far = max(max(abs(x - y) for x, y in zip(kept["outer_momentum." + n], momentum[n])) for n in momentum
              if "outer_momentum." + n in kept) / scale
    check(len(kept) > 10 and far < (1e-3 if number == 1 else 1e-2), "round %d: the kept momentum is %.2g away" % (number, far))
    at = got
sys.exit(1 if bad else 0)
