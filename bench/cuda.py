"""The CUDA device beside PyTorch on the same GPU, in one run: the tables that docs/cuda.md lists as not yet measured.

    bench/cuda.py [--program build/resbm] [--device cuda] [--rounds 3] [--parts train,attention,boundary,offload,pipeline]
                  [--sizes 124M,350M,1.1B,llama8b] [--contexts 1024,4096] [--steps 10] [--attention own] [--optim adamw]
                  [--boundaries none,residual] [--torch eager,compile] [--no-torch] [--compile-only]

PyTorch: bf16 autocast, scaled_dot_product_attention, fused AdamW, eager and torch.compile (bench/torch_llama.py's model).
What a table compares takes turns, once in each of --rounds. Seconds and what follows from them are medians of all steps but each
run's first three, with the quartiles in brackets; ratios of two ways are the median over the rounds, with the least and the most in
brackets. Memory: what resbm took of the card (of the plan, where the card does not say), and the most that torch's tensors took at
once. Any python3 that has a CUDA build of torch; --no-torch measures resbm alone. All of it takes hours; ten minutes are enough for
--rounds 1 --parts train,pipeline --sizes 124M --contexts 1024. --compile-only fills torch's cache of compiled models beforehand.
Ended by SIGTERM, it prints what it has of the table it was at.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from train import Resbm

# d, layers, heads, kv heads, ffn, vocabulary, sequences of 1024 tokens per step
SIZES = {
    "tiny": (128, 2, 2, 2, 96, 256, 1),
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
RULES = {"adamw": ADAMW, "muon": ("optim.kind=muon", "optim.lr=0.01")}


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
    on_device = sum(m["taken"] or sum(m[k] for k in parts) for m in summary["memory"])
    summary["update_s"] = update_s(r.folder / "run") if stages == 1 else None
    return [s["step_s"] for s in lines[WARM:]], on_device, summary


def update_s(run):
    """The commit with its update, until the device is done with it: the least of the first steps, which the trace has."""
    events = json.loads((run / "trace.json").read_text())["traceEvents"]
    return min((e["dur"] / 1e6 for e in events if e.get("cat") == "optimizer"), default=None)


class Over(Exception):
    """The time is over: what was measured is printed."""


def over(*_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Over


class Runs:
    """One way's steps, round by round."""

    def __init__(self):
        self.rounds, self.memory, self.fault, self.summaries = [], 0, None, []

    def add(self, seconds, memory_or_fault, summary=None):
        if seconds:
            self.rounds.append(seconds)
            self.memory = max(self.memory, memory_or_fault)
            self.summaries.append(summary)
        else:
            self.fault = memory_or_fault

    def seconds(self):
        return [s for one in self.rounds for s in one]

    def median(self):
        return statistics.median(self.seconds()) if self.rounds else None

    def speed(self, tokens):
        return f"{tokens / self.median():.0f}" if self.rounds else self.fault or "-"

    def step(self):
        """The median step's seconds, and the quartiles."""
        all_of_them = self.seconds()
        if len(all_of_them) < 2:
            return f"{all_of_them[0]:.4f}" if all_of_them else self.fault or "-"
        low, middle, high = statistics.quantiles(all_of_them, n=4, method="inclusive")
        return f"{middle:.4f} ({low:.4f} to {high:.4f})"

    def of_summary(self, number, form):
        """The median over the rounds of what their summaries say."""
        values = [v for v in map(number, self.summaries) if v is not None]
        return f"{statistics.median(values):{form}}" if values else "-"


def turns(a, ways):
    """Each way once per round, one after the other: {name: Runs}. A way that failed is not tried again."""
    runs = {name: Runs() for name in ways}
    try:
        for _ in range(a.rounds):
            for name, run in ways.items():
                if runs[name].fault:
                    continue
                runs[name].add(*run())
                if runs[name].fault and runs[name].rounds:
                    print(f"bench/cuda.py: a later round of {name} failed: {runs[name].fault}", file=sys.stderr, flush=True)
    except Over:
        a.over = True
    return runs


def per_round(top, bottom, form, less=0):
    """Medians of the rounds of `top` over those of `bottom`, less something: the median, and the least and the most."""
    ratios = [statistics.median(t) / statistics.median(b) - less for t, b in zip(top.rounds, bottom.rounds)]
    if not ratios:
        return "-"
    spread = f" ({min(ratios):{form}} to {max(ratios):{form}})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):{form}}{spread}"


def cases(a, contexts=None):
    """Sizes and contexts, as long as there is time."""
    for name in a.sizes:
        for context in contexts or a.contexts:
            if not a.over:
                yield name, context


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
    head(f"Training, one process, bf16{f'; peak of products {peak / 1e12:.0f} TFLOP/s' if peak else ''} (torch: AdamW)", "model",
         "context", "attention", "optim", "resbm tokens/s", *(f"torch {way}" for way in WAYS), "ratio to compile", "resbm GB",
         "torch GB", "resbm share of peak", "resbm step s", "of it the update")
    for name, context in cases(a):
        theirs = {w: partial(torch_run, name, context, w == "compile", a.steps) for w in a.torch}
        mine = {(whose, rule): partial(resbm_run, r, name, context, 1, 1, *RULES[rule], f"pipeline.attention={whose}")
                for whose in a.attention for rule in a.optim}
        runs, tokens = turns(a, theirs | mine), tokens_of(name, context)
        for whose, rule in mine:
            own, compiled = runs[whose, rule], runs.get("compile", Runs())
            row(f"{name} ({parameters(SIZES[name]) / 1e6:.0f} M)", context, whose, rule, own.speed(tokens),
                *(runs[w].speed(tokens) if w in runs else "-" for w in WAYS),
                per_round(compiled, own, ".2f") if rule == "adamw" else "-", f"{own.memory / 1e9:.2f}",
                f"{max((runs[w].memory for w in theirs), default=0) / 1e9:.2f}",
                f"{flops(SIZES[name], context, tokens) / own.median() / peak:.0%}" if peak and own.rounds else "-", own.step(),
                own.of_summary(lambda s: s["update_s"], ".4f"))


def boundary(r, a):
    head("Cost of boundaries inside one process, as a share of the step", "model", "context", "boundaries", "none s",
         "residual 128x s", "share")
    for name, context in cases(a, a.contexts[:1]):
        segments = min(4, SIZES[name][1])
        ways = {"none": WHOLE, "residual": NARROW}
        runs = turns(a, {way: partial(resbm_run, r, name, context, 1, 1, *ADAMW, f"model.segments={segments}", *settings)
                         for way, settings in ways.items()})
        row(name, context, segments - 1, *(runs[way].step() for way in ways), per_round(runs["residual"], runs["none"], ".1%", 1))


HOST = ("optim.offload=host", "optim.offload_update=host")
OFFLOADS = {"none": (), "device": ("optim.offload=host",), "host": HOST, "host, delay 1": (*HOST, "optim.delay=1"),
            "device, states+gradients": ("optim.offload=host", "optim.offload_parts=states+gradients")}


def waited(what):
    """Seconds a step, of all stages and over all steps of a run, that summary.json's memory has under `what`."""
    return lambda s: sum(m[what] for m in s["memory"]) / s["steps"]


def offload(r, a):
    head("Offload to the host's memory, AdamW (offload_update)", "model", "context", "offload", "tokens/s", "step s",
         "step of none's", "host_wait_s a step", "disk_wait_s a step", "GB on the device", "GB resident on the host")
    for name, context in cases(a, a.contexts[:1]):
        runs = turns(a, {way: partial(resbm_run, r, name, context, 1, 1, *ADAMW, *settings) for way, settings in OFFLOADS.items()})
        for way, own in runs.items():
            row(name, context, way, own.speed(tokens_of(name, context)), own.step(), per_round(own, runs["none"], ".2f"),
                own.of_summary(waited("host_wait_s"), ".4f"), own.of_summary(waited("disk_wait_s"), ".4f"),
                f"{own.memory / 1e9:.2f}", own.of_summary(lambda s: sum(s["peak_rss_bytes"]) / 1e9, ".2f"))


SLOW = ("link.up=80mbit", "link.down=80mbit", "link.latency=20ms")
SENT = {"none": ("boundary.kind=none", "boundary.codec_fwd=bf16", "boundary.codec_bwd=bf16"), "residual": NARROW}
SENT_NAMES = {"none": "none, bf16", "residual": "residual 128x int4"}


def pipeline(r, a):
    head("Stages that share the GPU, links of 80 Mbit/s and 20 ms, 16 microbatches", "model", "context", "stages", "boundary",
         "tokens/s", "step s", "unshaped step s", "tokens/s of unshaped")
    for name, context in cases(a, a.contexts[:1]):
        stages = min(4, SIZES[name][1])
        runs = turns(a, {(sent, shaped): partial(resbm_run, r, name, context, stages, 16, *ADAMW, "pipeline.deadline=600s",
                                                 *SENT[sent], *(SLOW if shaped else ()))
                         for sent in a.boundaries for shaped in (True, False)})
        for sent in a.boundaries:
            slow, free = runs[sent, True], runs[sent, False]
            row(name, context, stages, SENT_NAMES[sent], slow.speed(tokens_of(name, context, 16)), slow.step(), free.step(),
                per_round(free, slow, ".2f"))


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


def attention_run(r, name, context, whose, best):
    """A round of one of them; its operations go into best."""
    ms, why = bench_attention(r, name, context, whose)
    if not ms:
        return None, why
    best[whose] = [min(p) for p in zip(ms, best.get(whose, ms))]
    return resbm_run(r, name, context, 1, 1, *ADAMW, f"pipeline.attention={whose}")


def attention(r, a):
    head("Attention, own beside cuDNN's: operations (the least of the rounds), and a whole step", "model", "context",
         "forward ms own", "cuDNN", "backward ms own", "cuDNN", "step s own", "cuDNN", "ratio")
    for name, context in cases(a):
        best = {}
        runs = turns(a, {whose: partial(attention_run, r, name, context, whose, best) for whose in ("own", "cudnn")})
        row(name, context, *(f"{best[w][i]:.3f}" if w in best else "-" for i in (0, 1) for w in runs),
            *(own.step() for own in runs.values()), per_round(runs["own"], runs["cudnn"], ".2f"))


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
    p.add_argument("--optim", default="adamw", help="adamw, muon or both in the part train")
    p.add_argument("--boundaries", default=",".join(SENT), help="that the part pipeline sends over")
    p.add_argument("--torch", default=",".join(WAYS))
    p.add_argument("--no-torch", dest="torch", action="store_const", const="")
    p.add_argument("--compile-only", action="store_true")
    a = p.parse_args()
    a.sizes, a.contexts = a.sizes.split(","), [int(c) for c in a.contexts.split(",")]
    a.attention, a.torch = a.attention.split(","), [w for w in a.torch.split(",") if w]
    a.optim, a.boundaries, a.over = a.optim.split(","), a.boundaries.split(","), False
    if a.torch and "train" in a.parts.split(","):
        torch_is_here()
    if a.compile_only:
        return compile_only(a)
    signal.signal(signal.SIGTERM, over)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        r = Resbm(Path(a.program).resolve(), Path(folder))
        r.device, r.steps, r.attention = a.device, a.steps, a.attention[0]
        for part in a.parts.split(","):
            if not a.over:
                PARTS[part](r, a)
    if a.over:
        sys.exit("bench/cuda.py: ended before all was measured")


if __name__ == "__main__":
    main()
