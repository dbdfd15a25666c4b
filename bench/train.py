"""Training speed beside PyTorch, in one run: prints the tables of docs/benchmarks.md.

    bench/train.py [--program build/resbm] [--rounds 3]

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
import time
from pathlib import Path

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

    def train(self, size, stages, threads, microbatches, steps, *more):
        d, layers, heads, ffn, context, batch, _ = size
        out = self.folder / "run"
        shutil.rmtree(out, ignore_errors=True)
        run = self.folder / "run.yaml"
        run.write_text("model: {segments: %d}\n" % max(stages, 1))
        call(self.program, "train", run, "--quiet", "--out", out, f"model.d={d}", f"model.layers={layers}",
             f"model.heads={heads}", f"model.ffn={ffn}", "model.vocab=256", f"model.context={context}",
             f"train.batch={batch}", f"train.microbatches={microbatches}", f"train.steps={steps}", "optim.warmup=1",
             "optim.schedule=constant", "train.eval_every=0", "train.checkpoint_every=0", "data.val=",
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


def two_stages(r, rounds):
    size = SIZES[0]
    d, layers, heads, ffn, context, batch, steps = size
    tokens = batch * context
    whole = ("boundary.kind=none", "boundary.codec_fwd=f32", "boundary.codec_bwd=f32")
    narrow = ("boundary.kind=residual", "boundary.ratio=128", "boundary.codec_fwd=int4", "boundary.codec_bwd=int4")
    slow = ("link.up=1mbit", "link.down=1mbit")
    rows = {"PyTorch 1F1B over gloo": [], "resbm, f32 over the link": [], "resbm 128x int4": [],
            "resbm 128x int4 at 1 Mbit/s": []}
    for _ in range(rounds):
        rows["PyTorch 1F1B over gloo"] += peer("torch_pipeline.py", 2, d, layers, heads, ffn, 256, context, batch, 8,
                                               steps)["step_s"][1:]
        rows["resbm, f32 over the link"] += [s["step_s"] for s in r.train(size, 2, 1, 8, steps, *whole)[0][1:]]
        rows["resbm 128x int4"] += [s["step_s"] for s in r.train(size, 2, 1, 8, steps, *narrow)[0][1:]]
        rows["resbm 128x int4 at 1 Mbit/s"] += [s["step_s"] for s in r.train(size, 2, 1, 8, steps, *narrow, *slow)[0][1:]]
    base = statistics.median(rows["PyTorch 1F1B over gloo"])
    free = statistics.median(rows["resbm 128x int4"])
    print("\nTwo stages of one thread each, 8 microbatches, d 256, 8 layers, context 256, batch 16\n")
    print("| | tokens/s | against PyTorch | against unshaped |\n|---|---|---|---|")
    for name, values in rows.items():
        s = statistics.median(values)
        against = f"{free / s:.3f}" if "Mbit" in name else ""
        print(f"| {name} | {tokens / s:.0f} | {base / s:.2f} | {against} |")
    wire = 2 * tokens * d * 4 * 8 / 1e6  # forward and backward, f32, one border
    print(f"| PyTorch at 1 Mbit/s, computed: its step + {wire:.0f} Mbit over one link both ways at once | "
          f"{tokens / (base + wire / 2):.0f} | {base / (base + wire / 2):.3f} | |")
    print(f"\n{load()}", flush=True)


def start_up(r, _rounds):
    times = []
    for _ in range(5):
        begin = time.monotonic()
        lines, _ = r.train(SIZES[0], 4, 1, 8, 1)
        times.append(time.monotonic() - begin - lines[0]["step_s"])
    print("\nFour-stage run, from start to end without its one step (start, first snapshot and farewell included): "
          + ", ".join(f"{t:.2f} s" for t in times), flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--program", default="build/resbm")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--parts", default="one,two,start", help="of one, two, start")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        r = Resbm(Path(a.program).resolve(), Path(folder))
        for part in a.parts.split(","):
            {"one": one_process, "two": two_stages, "start": start_up}[part](r, a.rounds)
    print("\nCodec\n\n```\n" + call(a.program, "bench", "codec") + "```")


if __name__ == "__main__":
    main()
