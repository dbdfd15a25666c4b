"""Training speed beside PyTorch, in one run: prints the tables of docs/benchmarks.md.

    bench/train.py [--program build/resbm] [--rounds 3] [--parts one,two,slow,start,codec]

A and B take turns, medians are compared, the load of the machine stands beside them. Needs torch (scripts/venv.sh torch).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from namespaces import Namespaces

HERE = Path(__file__).resolve().parent
SIZES = [  # d, layers, heads, ffn, context, batch, steps
    (256, 8, 4, 704, 256, 16, 6),
    (512, 8, 8, 1408, 512, 8, 4),
]


def call(*args, **kw):
    return subprocess.run([str(a) for a in args], check=True, text=True, capture_output=True, **kw).stdout


def peer(script, *numbers):
    return json.loads(call(sys.executable, HERE / script, *numbers).splitlines()[-1])


def steps_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Resbm:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        text = folder / "text"
        text.write_bytes(os.urandom(1 << 16) * 40)
        call(program, "data", "--out", folder / "corpus", text)

    def train(self, size, stages, threads, microbatches, steps, *more, prefix=()):
        d, layers, heads, ffn, context, batch, _ = size
        out = self.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        run = self.folder / "run.yaml"
        run.write_text("model: {segments: %d}\n" % max(stages, 1))
        call(*prefix, self.program, "train", run, "--quiet", "--out", out, f"model.d={d}", f"model.layers={layers}",
             f"model.heads={heads}", f"model.ffn={ffn}", "model.vocab=256", f"model.context={context}",
             f"train.batch={batch}", f"train.microbatches={microbatches}", f"train.steps={steps}", "optim.warmup=1",
             "optim.schedule=constant", "train.eval_every=0", "train.save=false", "data.val=",
             f"data.train={self.folder}/corpus/train-*.bin", f"pipeline.stages={stages}", f"pipeline.threads={threads}",
             *more)
        return steps_of(out), json.loads((out / "summary.json").read_text())


def load():
    return "load %.1f" % os.getloadavg()[0]


def one_process(r, rounds):
    peak = float(call(r.program, "bench", "flops", "--threads", 2))
    print(f"One process, two threads, f32, whole step (dnnl_sgemm's peak {peak / 1e9:.0f} GFLOP/s)\n")
    print("| model | resbm tokens/s | PyTorch tokens/s | ratio | resbm memory | PyTorch memory | ratio | of peak | |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        d, layers, heads, ffn, context, batch, steps = size
        mine, theirs, rss = [], [], [0, 0]
        for _ in range(rounds):
            lines, summary = r.train(size, 1, 2, 1, steps)
            mine += [s["step_s"] for s in lines[1:]]
            rss[0] = max(rss[0], summary["peak_rss_bytes"][0])
            p = peer("torch_llama.py", d, layers, heads, ffn, 256, context, batch, 2, steps)
            theirs += p["step_s"][1:]
            rss[1] = max(rss[1], p["rss"])
        a, b, tokens = statistics.median(mine), statistics.median(theirs), batch * context
        weights = layers * (4 * d * d + 3 * d * ffn) + d * 256
        flops = 6 * weights * tokens + 6 * layers * context * d * tokens
        print(f"| d {d}, {layers} layers, context {context}, batch {batch} | {tokens / a:.0f} | {tokens / b:.0f} | "
              f"{b / a:.2f} | {rss[0] / 1e6:.0f} MB | {rss[1] / 1e6:.0f} MB | {rss[0] / rss[1]:.2f} | "
              f"{flops / a / peak:.0%} | {load()} |", flush=True)


WHOLE = ("boundary.kind=none", "boundary.codec_fwd=f32", "boundary.codec_bwd=f32")
NARROW = ("boundary.kind=residual", "boundary.ratio=128", "boundary.codec_fwd=int4", "boundary.codec_bwd=int4")
ZERO_BUBBLE = ("pipeline.schedule=zb-h1",)
RATE = "1mbit"


def torch_over_namespaces(size, steps):
    """Seconds of each step of PyTorch's pipeline with its tensors over the slow veth."""
    d, layers, heads, ffn, context, batch, _ = size
    with Namespaces(RATE) as n:
        arguments = [2, d, layers, heads, ffn, 256, context, batch, 8, steps]
        ranks = [subprocess.Popen([str(a) for a in (*n.command(i), sys.executable, HERE / "torch_pipeline.py", *arguments, i,
                                                    f"{n.control(0)}:29500", "data")],
                                  stdout=subprocess.PIPE, text=True) for i in range(2)]
        out = [p.communicate()[0] for p in ranks]
        if any(p.returncode for p in ranks):
            sys.exit("PyTorch's pipeline failed in the namespaces")
        return json.loads(out[1].splitlines()[-1])["step_s"]


def resbm_over_namespaces(r, size, steps, *more):
    """Seconds of each step of resbm over the same veth; nothing is shaped in user space."""
    with Namespaces(RATE) as n:
        launcher = r.folder / "launcher"
        launcher.write_text("#!/bin/sh\nstage=$1\nshift\nexec ip netns exec %s$stage \"$@\"\n" % n.names[0][:-1])
        launcher.chmod(0o755)
        lines, _ = r.train(size, 2, 1, 8, steps, *more, "pipeline.transport=tcp", f"pipeline.launcher={launcher} {{stage}}",
                           f'pipeline.addresses=["{n.data(0)}:7001", "{n.data(1)}:7002"]',
                           f"pipeline.control={n.control(0)}:7003", prefix=n.command(0))
        return [s["step_s"] for s in lines]


def row(name, tokens, seconds, *ratios):
    s = statistics.median(seconds)
    print(f"| {name} | {tokens / s:.0f} | " + " | ".join("" if x is None else f"{statistics.median(x) / s:.3f}" for x in ratios)
          + " |", flush=True)


def two_stages(r, rounds):
    for size in SIZES:
        d, layers, heads, ffn, context, batch, steps = size
        tokens = batch * context
        shaped = (f"link.up={RATE}", f"link.down={RATE}")
        runs = {  # settings, and the run without shape that it is compared with
            "resbm, f32 over the link": (WHOLE, None),
            "resbm 128x int4": (NARROW, None),
            "resbm 128x int4 at 1 Mbit/s (shaped in user space)": (NARROW + shaped, "resbm 128x int4"),
            "resbm 128x int4, zb-h1": (NARROW + ZERO_BUBBLE, None),
            "resbm 128x int4, zb-h1, at 1 Mbit/s": (NARROW + ZERO_BUBBLE + shaped, "resbm 128x int4, zb-h1"),
        }
        peer_s, mine = [], {name: [] for name in runs}
        for _ in range(rounds):
            peer_s += peer("torch_pipeline.py", 2, d, layers, heads, ffn, 256, context, batch, 8, steps)["step_s"][1:]
            for name, (settings, _) in runs.items():
                mine[name] += [s["step_s"] for s in r.train(size, 2, 1, 8, steps, *settings)[0][1:]]
        print(f"\nTwo stages of one thread each, 8 microbatches, d {d}, {layers} layers, context {context}, batch {batch}\n")
        print("| | tokens/s | against PyTorch | against its own unshaped |\n|---|---|---|---|")
        row("PyTorch 1F1B over gloo", tokens, peer_s, peer_s, None)
        for name, (_, own) in runs.items():
            row(name, tokens, mine[name], peer_s, mine.get(own))
        print(f"\n{load()}", flush=True)


def namespaces(r, rounds):
    why = Namespaces.missing()
    if why:
        print(f"\nTwo namespaces at 1 Mbit/s: not measured, {why}", flush=True)
        return
    size = SIZES[0]
    d, layers, heads, ffn, context, batch, steps = size
    tokens = batch * context
    peer_s = peer("torch_pipeline.py", 2, d, layers, heads, ffn, 256, context, batch, 8, steps)["step_s"][1:]
    slow_peer = torch_over_namespaces(size, 1)
    narrow, slow = [], []
    for _ in range(rounds):
        narrow += [s["step_s"] for s in r.train(size, 2, 1, 8, steps, *NARROW, *ZERO_BUBBLE, "pipeline.transport=tcp")[0][1:]]
        slow += resbm_over_namespaces(r, size, steps, *NARROW, *ZERO_BUBBLE)[1:]
    print(f"\nThe same at d {d} in two network namespaces joined by a veth pair with tc tbf at 1 Mbit/s each way\n")
    print("| | tokens/s | seconds per step | against its own unshaped |\n|---|---|---|---|")
    for name, seconds, own in (("PyTorch 1F1B over gloo", slow_peer, peer_s), ("resbm 128x int4, zb-h1", slow, narrow)):
        s = statistics.median(seconds)
        print(f"| {name} | {tokens / s:.0f} | {s:.2f} | {statistics.median(own) / s:.3f} |")
    print(f"\n{load()}", flush=True)


def start_up(r, _rounds):
    runs = [r.train(SIZES[0], 4, 1, 8, 1)[1] for _ in range(5)]
    print("\nFour stages, d 256, from the start of the program to the begin of the first step: "
          + ", ".join(f"{s['start_s']:.2f} s" for s in runs) + "; to its end: "
          + ", ".join(f"{s['first_step_s']:.2f} s" for s in runs) + f" ({load()})", flush=True)


def codec(r, _rounds):
    print("\nCodec\n\n```\n" + call(r.program, "bench", "codec") + "```", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", default="build/resbm")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--parts", default="one,two,slow,start,codec", help="some of one,two,slow,start,codec")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        r = Resbm(Path(a.program).resolve(), Path(folder))
        for part in a.parts.split(","):
            {"one": one_process, "two": two_stages, "slow": namespaces, "start": start_up, "codec": codec}[part](r, a.rounds)


if __name__ == "__main__":
    main()
