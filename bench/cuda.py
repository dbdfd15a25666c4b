"""The CUDA device beside PyTorch on the same GPU, in one run: the tables that docs/cuda.md lists as not yet measured.

    bench/cuda.py [--program build/resbm] [--device cuda] [--rounds 3] [--parts train,attention,boundary,offload,pipeline]
                  [--sizes 124M,350M,1.1B,llama8b] [--contexts 1024,4096] [--steps 10] [--attention own]
                  [--torch eager,compile] [--no-torch] [--compile-only]

PyTorch: bf16 autocast, scaled_dot_product_attention, fused AdamW, eager and torch.compile (bench/torch_llama.py's model). They
take turns; medians of all steps but each run's first three. Memory: what resbm took of the card (of the plan, where the card does
not say), and the most that torch's tensors took at once. Any python3 that has a CUDA build of torch; --no-torch measures resbm alone.
All of it takes hours; ten minutes are enough for --rounds 1 --parts train,pipeline --sizes 124M --contexts 1024. --compile-only fills
torch's cache of compiled models beforehand.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from train import Resbm

# d, layers, heads, kv heads, ffn, vocabulary, sequences of 1024 tokens per step
SIZES = {
    "tiny": (64, 2, 2, 2, 96, 256, 2),
    "124M": (768, 12, 12, 12, 2048, 50304, 16),
    "350M": (1024, 24, 16, 16, 2816, 50304, 8),
    "1.1B": (2048, 20, 16, 16, 5632, 32768, 4),
    "llama8b": (4096, 4, 32, 8, 14336, 32768, 4),
}
WARM = 3
WHOLE = ("boundary.kind=none", "boundary.codec_fwd=f32", "boundary.codec_bwd=f32")
NARROW = ("boundary.kind=residual", "boundary.ratio=128", "boundary.codec_fwd=int4", "boundary.codec_bwd=int4")
LOGITS = "pipeline.logits=4gb"  # torch keeps all of them too
WAYS = ("eager", "compile")
ADAMW = ("optim.kind=adamw", "optim.lr=0.0003")


def parameters(size):
    d, layers, heads, kv, ffn, vocab, _ = size
    return layers * (2 * d * d + 2 * d * d * kv // heads + 3 * d * ffn) + 2 * vocab * d


def flops(size, context, tokens):
    """Of a step: 6 per weight that multiplies and token, and attention's products, causal."""
    d, layers, *_, vocab, _ = size
    return 6 * (parameters(size) - vocab * d) * tokens + 6 * layers * context * d * tokens


def torch_peak():
    """bf16 products of 8192, FLOP/s, as torch reaches them here: what shares of the peak are shares of."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(10):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(5):
            a @ a
        end.record()
        torch.cuda.synchronize()
        best = min(best, begin.elapsed_time(end) / 5e3)
    return 2 * 8192**3 / best


def torch_peak_run():
    """In a process of its own, whose memory is free again afterwards."""
    r = subprocess.run([sys.executable, __file__, "--torch-peak"], text=True, capture_output=True)
    if r.returncode:
        sys.exit(f"bench/cuda.py: torch's products failed: {last_line(r)}")
    return float(r.stdout.split()[-1])


def torch_is_here():
    """Exits with what to do where torch cannot measure."""
    try:
        import torch
    except ImportError:
        sys.exit(f"bench/cuda.py: {sys.executable} has no torch; run it with a python3 that has a CUDA build of it, or --no-torch")
    if not torch.cuda.is_available():
        sys.exit(f"bench/cuda.py: torch {torch.__version__} of {sys.executable} finds no GPU (is it a CUDA build?); "
                 "run it with a python3 whose torch does, or --no-torch")


def last_line(r, width=160):
    """What a program that failed said last."""
    return ((r.stderr or "").strip() or (r.stdout or "").strip() or f"status {r.returncode}").splitlines()[-1][:width]


def torch_child(name, context, compiled, steps):
    """In a process of its own, so that its memory is only its own; prints one JSON object."""
    import time

    import torch
    import torch.nn.functional as F
    from torch_llama import Llama

    d, layers, heads, kv, ffn, vocab, thousands = SIZES[name]
    batch = max(1, thousands * 1024 // context)
    torch.manual_seed(1)
    model = Llama(d, layers, heads, ffn, vocab, context, kv_heads=kv).cuda()

    def loss_of(x, y):  # whole, so that the compiler has the loss too
        return F.cross_entropy(model(x).view(-1, vocab), y.reshape(-1))

    run = torch.compile(loss_of) if compiled else loss_of
    rule = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    ids = torch.randint(vocab, (batch, context + 1), device="cuda")
    seconds = []
    for _ in range(steps + WARM):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        rule.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rule.step()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    print(json.dumps({"step_s": seconds, "memory": torch.cuda.max_memory_allocated()}))


def torch_run(name, context, compiled, steps):
    command = [sys.executable, __file__, "--torch-child", name, str(context), str(int(compiled)), str(steps)]
    r = subprocess.run(command, text=True, capture_output=True)
    if r.returncode:
        return None, last_line(r)
    result = json.loads(r.stdout.splitlines()[-1])
    return result["step_s"][WARM:], result["memory"]


def resbm_run(r, name, context, stages, microbatches, *more):
    """Seconds of the steps behind the first ones, bytes on the device per stage, and the summary; or the fault."""
    d, layers, heads, kv, ffn, vocab, thousands = SIZES[name]
    batch = max(microbatches, thousands * 1024 // context)
    size = (d, layers, heads, ffn, context, batch, None)
    more = (f"pipeline.device={r.device}", f"model.kv_heads={kv}", f"model.vocab={vocab}", "pipeline.startup_deadline=600s",
            LOGITS,
            *(() if any(m.startswith("pipeline.attention=") for m in more) else (f"pipeline.attention={r.attention}",)), *more)
    threads = max(1, (os.cpu_count() or 1) // stages)  # which begin with the weights
    try:
        lines, summary = r.train(size, stages, threads, microbatches, r.steps + WARM, *more)
    except subprocess.CalledProcessError as e:
        return None, last_line(e), None
    parts = ("weights", "gradients", "states", "windows", "scratch", "activations")
    on_device = [m["taken"] or sum(m[k] for k in parts) for m in summary["memory"]]
    return [s["step_s"] for s in lines[WARM:]], on_device, summary


class Runs:
    """One program's steps over all rounds."""

    def __init__(self):
        self.seconds, self.memory, self.fault = [], 0, None

    def add(self, seconds, memory_or_fault):
        if seconds:
            self.seconds += seconds
            self.memory = max(self.memory, memory_or_fault)
        else:
            self.fault = memory_or_fault

    def median(self):
        return statistics.median(self.seconds) if self.seconds else None

    def speed(self, tokens):
        return f"{tokens / self.median():.0f}" if self.seconds else self.fault or "-"


def compile_only(a):
    """torch's cache is filled, while something else has the card; one after the other, for its memory's sake."""
    for name in a.sizes:
        for context in a.contexts:
            seconds, fault = torch_run(name, context, True, 1)
            if not seconds:
                print(f"bench/cuda.py: {name} at {context}: {fault}", file=sys.stderr)


def tokens_of(name, context, microbatches=1):
    return max(microbatches, SIZES[name][-1] * 1024 // context) * context


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def head(title, *columns):
    print(f"\n{title}\n")
    row(*columns)
    row(*("---" for _ in columns))


def train(r, a):
    peak = torch_peak_run() if a.torch else None
    head(f"Training, one process, AdamW, bf16{f'; peak of products {peak / 1e12:.0f} TFLOP/s' if peak else ''}", "model",
         "context", "attention", "resbm tokens/s", *(f"torch {way}" for way in WAYS), "ratio to compile", "resbm GB", "torch GB",
         "resbm share of peak")
    for name in a.sizes:
        for context in a.contexts:
            runs = {w: Runs() for w in a.attention}
            theirs = {w: Runs() for w in a.torch}
            for _ in range(a.rounds):
                for way, t in theirs.items():
                    t.add(*torch_run(name, context, way == "compile", a.steps))
                for whose, mine in runs.items():
                    seconds, planned, _ = resbm_run(r, name, context, 1, 1, *ADAMW, f"pipeline.attention={whose}")
                    mine.add(seconds, sum(planned) if seconds else planned)
            tokens = tokens_of(name, context)
            for whose, mine in runs.items():
                s, t = mine.median(), theirs["compile"].median() if "compile" in theirs else None
                row(f"{name} ({parameters(SIZES[name]) / 1e6:.0f} M)", context, whose, mine.speed(tokens),
                    *(theirs[w].speed(tokens) if w in theirs else "-" for w in WAYS), f"{t / s:.2f}" if s and t else "-",
                    f"{mine.memory / 1e9:.2f}", f"{max((t.memory for t in theirs.values()), default=0) / 1e9:.2f}",
                    f"{flops(SIZES[name], context, tokens) / s / peak:.0%}" if peak and s else "-")


def boundary(r, a):
    head("Cost of three boundaries inside one process, as a share of the step", "model", "context", "none s", "residual 128x s",
         "share")
    for name in a.sizes:
        if SIZES[name][1] < 4 and name != "tiny":
            continue
        segments = min(4, SIZES[name][1])
        runs = [resbm_run(r, name, a.contexts[0], 1, 1, *ADAMW, f"model.segments={segments}", *kind)[:2]
                for kind in (WHOLE, NARROW)]
        if any(seconds is None for seconds, _ in runs):
            row(name, a.contexts[0], *("-" if seconds else why for seconds, why in runs), "-")
            continue
        s = [statistics.median(seconds) for seconds, _ in runs]
        row(name, a.contexts[0], f"{s[0]:.4f}", f"{s[1]:.4f}", f"{s[1] / s[0] - 1:.1%}")


HOST = ("optim.offload=host", "optim.offload_update=host")
OFFLOADS = ((), ("optim.offload=host",), HOST, (*HOST, "optim.delay=1"),
            ("optim.offload=host", "optim.offload_parts=states+gradients"))


def offload(r, a):
    head("Offload to the host's memory", "model", "offload", "step s", "GB on the device")
    for name in a.sizes:
        for what in OFFLOADS:
            seconds, planned, _ = resbm_run(r, name, a.contexts[0], 1, 1, *ADAMW, *what)
            label = " ".join(w.split("=")[1] for w in what) or "none"
            if seconds is None:
                row(name, label, "-", planned)
            else:
                row(name, label, f"{statistics.median(seconds):.4f}", f"{sum(planned) / 1e9:.2f}")


def pipeline(r, a):
    head("Four stages that share the GPU, links of 80 Mbit/s and 20 ms, 16 microbatches", "model", "boundary", "tokens/s",
         "of unshaped")
    for name in a.sizes:
        if SIZES[name][1] < 4:
            continue
        slow = ("link.up=80mbit", "link.down=80mbit", "link.latency=20ms")
        for label, kind in (("none, bf16", ("boundary.kind=none", "boundary.codec_fwd=bf16", "boundary.codec_bwd=bf16")),
                            ("residual 128x int4", NARROW)):
            runs = [resbm_run(r, name, a.contexts[0], 4, 16, *ADAMW, "pipeline.deadline=600s", *kind, *shape)[:2]
                    for shape in (slow, ())]
            if any(seconds is None for seconds, _ in runs):
                row(name, label, *("-" if seconds else why for seconds, why in runs))
                continue
            tokens = tokens_of(name, a.contexts[0], 16)
            s = [statistics.median(seconds) for seconds, _ in runs]
            row(name, label, f"{tokens / s[0]:.0f}", f"{s[1] / s[0]:.2f}")


OPERATIONS = ("attention forward", "attention backward")


def bench_attention(r, name, context, whose):
    """Milliseconds of attention's two operations, by `resbm bench kernels`; or the fault."""
    d, _, heads, kv, *_, thousands = SIZES[name]
    options = {"device": r.device, "only": "attention", "attention": whose, "d": d, "heads": heads, "kv-heads": kv, "T": context,
               "B": max(1, thousands * 1024 // context)}
    command = [str(r.program), "bench", "kernels", *(f"--{key}={value}" for key, value in options.items())]
    out = subprocess.run(command, text=True, capture_output=True)
    if out.returncode:
        return None, last_line(out)
    lines = {o: line.split() for line in out.stdout.splitlines() for o in OPERATIONS if line.startswith(o)}
    return [float(lines[o][len(o.split())]) for o in OPERATIONS], None


def attention(r, a):
    head("Attention, own beside cuDNN's: operations, and a whole step", "model", "context", "forward ms own", "cuDNN",
         "backward ms own", "cuDNN", "step s own", "cuDNN", "ratio")
    for name in a.sizes:
        for context in a.contexts:
            best, steps, fault = {}, {"own": [], "cudnn": []}, None
            for _ in range(a.rounds):
                for whose in steps:
                    ms, why = bench_attention(r, name, context, whose)
                    seconds, said, _ = resbm_run(r, name, context, 1, 1, *ADAMW, f"pipeline.attention={whose}")
                    fault = fault or why or (None if seconds else said)
                    steps[whose] += seconds or []
                    if ms:
                        best[whose] = [min(p) for p in zip(ms, best.get(whose, ms))]
            if fault:
                row(name, context, *["-"] * 6, fault)
                continue
            own, theirs = (statistics.median(steps[w]) for w in ("own", "cudnn"))
            row(name, context, *(f"{best[w][i]:.3f}" for i in (0, 1) for w in ("own", "cudnn")), f"{own:.4f}",
                f"{theirs:.4f}", f"{own / theirs:.2f}")


PARTS = {"train": train, "attention": attention, "boundary": boundary, "offload": offload, "pipeline": pipeline}


def main():
    if "--torch-child" in sys.argv:
        name, context, compiled, steps = sys.argv[2:6]
        return torch_child(name, int(context), compiled == "1", int(steps))
    if "--torch-peak" in sys.argv:
        return print(torch_peak())
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", default="build/resbm")
    p.add_argument("--device", default="cuda")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--sizes", default="124M,350M,1.1B,llama8b")
    p.add_argument("--contexts", default="1024,4096")
    p.add_argument("--steps", type=int, default=10, help="of each run, behind three that warm up")
    p.add_argument("--attention", default="own", help="whose: own, cudnn or both in the part train; the first in the others")
    p.add_argument("--torch", default=",".join(WAYS))
    p.add_argument("--no-torch", dest="torch", action="store_const", const="")
    p.add_argument("--compile-only", action="store_true")
    a = p.parse_args()
    a.sizes, a.contexts = a.sizes.split(","), [int(c) for c in a.contexts.split(",")]
    a.attention, a.torch = a.attention.split(","), [w for w in a.torch.split(",") if w]
    if a.torch and "train" in a.parts.split(","):
        torch_is_here()
    if a.compile_only:
        return compile_only(a)
    with tempfile.TemporaryDirectory() as folder:
        r = Resbm(Path(a.program).resolve(), Path(folder))
        r.device, r.steps, r.attention = a.device, a.steps, a.attention[0]
        for part in a.parts.split(","):
            PARTS[part](r, a)


if __name__ == "__main__":
    main()
