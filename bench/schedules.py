#!/usr/bin/env python3
"""Throughput of every schedule on one model of 8 segments, predicted by `resbm plan` and measured over shaped links, as Markdown.

    bench/schedules.py build/resbm [--stages 4] [--microbatches 8,32] [--rates 1000mbit,100mbit,25mbit] [--latency 5ms]
                       [--schedules 1f1b,zbv] [--real] [--tries 3] [--jobs 3]

By default stages are processes on device `timed`: their operations sleep for as long as a processor of 40 GFLOP/s would take, so
that links and the order of actions are what is measured, with more stages than this machine has cores. --real computes, a thread
a stage; stages then share the cores there are, which the prediction models. A virtual machine's speed changes within seconds, for the
prediction's measurement of this machine as for the run: each run is predicted before and after it, and of --tries N the one counts
around which the two predictions differ least. docs/schedules.md quotes the result."""
import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys
import tempfile

from inputs import make_inputs

SCHEDULES = ["gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zbv", "pipedream", "pipedream-2bw"]
CONFIG = """model:    {{d: 256, layers: 8, heads: 4, ffn: 704, vocab: 256, context: 256, segments: 8}}
boundary: {{kind: none}}
data:     {{train: "{folder}/corpus/train-*.bin", tokenizer: bytes}}
optim:    {{warmup: 0, schedule: constant, clip_scope: segment}}
train:    {{eval_every: 0, checkpoint_every: 0}}
pipeline: {{threads: 1}}
"""


def flows(schedule):
    return schedule.startswith("pipedream")


def settings(a, schedule, m, rate):
    device = ["pipeline.device=cpu"] if a.real else ["pipeline.device=timed", "pipeline.speed=40e9"]
    # What flows needs some steps until it is in full swing, and as many until nothing begins any more.
    steps = 3 if not flows(schedule) else 8 if m < 16 else 5
    segments = 2 * a.stages if schedule == "zbv" else 8
    return [f"model.segments={segments}", f"pipeline.stages={a.stages}", f"pipeline.schedule={schedule}", f"train.batch={m}", f"train.microbatches={m}",
            f"train.steps={steps}", f"link.up={rate}", f"link.down={rate}", f"link.latency={a.latency}", *device]


def predict(a, folder, keys):
    out = subprocess.run([a.program, "plan", f"{folder}/run.yaml", *keys, "--own", "--json"], capture_output=True, text=True)
    if out.returncode:
        return None, out.stderr.strip()
    row = json.loads(out.stdout)["rows"][0]
    return (None, row["refused"]) if "refused" in row else (row, "")


def measure(a, folder, schedule, keys, name):
    run = subprocess.run([a.program, "train", "-q", f"{folder}/run.yaml", "--out", f"{folder}/{name}", *keys],
                         capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stderr)
    steps = [json.loads(line)["step_s"] for line in open(f"{folder}/{name}/metrics.jsonl")]
    # The first step warms up, and of others other work can only make one longer; of lists that flow a step that ends late shortens the
    # next one, so that the middle counts, without those that fill and drain the pipeline.
    return statistics.median(steps[2:-1]) if flows(schedule) else min(steps[1:])


def one(a, folder, schedule, m, rate):
    keys = settings(a, schedule, m, rate)
    row, why = predict(a, folder, keys)
    if not row:
        return why
    depth = row["inflight"]
    if depth:  # the one that was chosen, in every try
        keys.append(f"pipeline.inflight={depth}")
    best = None
    for i in range(a.tries):
        before = predict(a, folder, keys)[0]["step_s"]
        measured = measure(a, folder, schedule, keys, f"{schedule}-{m}-{rate}-{i}")
        after = predict(a, folder, keys)[0]["step_s"] if a.real else before
        tried = abs(before / after - 1), (before + after) / 2, measured
        print(f"{schedule}, {m} microbatches, {rate}: predicted {before:.3f} s and {after:.3f} s, measured {measured:.3f} s", file=sys.stderr)
        best = min(best, tried) if best else tried
    return best[1], best[2], depth


def cell(result, tokens):
    if isinstance(result, str):
        return "| | |"
    predicted, measured, depth = result
    deep = f" (+{depth})" if depth else ""
    return f"| {tokens / predicted:.0f}{deep} | {tokens / measured:.0f} | {100 * (predicted / measured - 1):+.1f}%"


def table(a, m, rates, results):
    print(f"\n{m} microbatches of 256 tokens, {a.stages} stages, {a.latency}: tokens/s predicted (depth beyond the least), measured, "
          "and how far the predicted step is off\n")
    print("| schedule |" + "".join(f" {r} | | |" for r in rates))
    print("|---|" + "---|---|---|" * len(rates))
    for s in a.schedules:
        print(f"| `{s}` " + " ".join(cell(results[s, m, r], 256 * m) for r in rates) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("--stages", type=int, default=4)
    p.add_argument("--microbatches", default="8,32")
    p.add_argument("--rates", default="1000mbit,100mbit,25mbit")
    p.add_argument("--latency", default="5ms")
    p.add_argument("--schedules", default=",".join(SCHEDULES))
    p.add_argument("--real", action="store_true")
    p.add_argument("--tries", type=int, default=1)
    p.add_argument("--jobs", type=int, default=3, help="runs beside each other, where stages sleep (default 3)")
    a = p.parse_args()
    a.program, a.schedules = os.path.abspath(a.program), a.schedules.split(",")
    counts, rates = [int(m) for m in a.microbatches.split(",")], a.rates.split(",")
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(a.program, folder, CONFIG)
        with concurrent.futures.ThreadPoolExecutor(1 if a.real else a.jobs) as pool:
            jobs = {(s, m, r): pool.submit(one, a, folder, s, m, r) for m in counts for r in rates for s in a.schedules}
            results = {k: j.result() for k, j in jobs.items()}
    print(f"{'computing' if a.real else 'timed'}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    for m in counts:
        table(a, m, rates, results)
    errors = [abs(r[0] / r[1] - 1) for r in results.values() if not isinstance(r, str)]
    print(f"\n{len(errors)} runs; predicted and measured differ by {100 * statistics.mean(errors):.1f}% in the mean, "
          f"{100 * max(errors):.1f}% at most")
    for k, r in results.items():
        if isinstance(r, str):
            print(f"{k[0]} at {k[1]} microbatches: {r}")


if __name__ == "__main__":
    main()
