#!/usr/bin/env python3
"""Seconds a step under engine mpi beside local TCP, as Markdown: the same stages, configuration and machine.

    bench/mpi.py build/resbm [--tries 3] [--stages 4] [--kinds openmpi,mpich] [--only small,timed,demo]

Three configurations, with whole activations in bf16 and unshaped links: a small one, whose messages of 16 kB are soon computed;
`make demo`'s model on device timed (200 GFLOP/s), whose stages sleep, so that 131 kB under way are what differs; and the same
model computed. Tries alternate between the transports, so that a machine whose speed changes does so for all
of them; a try's figure is the median of its steps but the first, and beside it stands the processor time of its processes
for a step (of mpirun's without the coordinator), which is what a transport takes of cores that compute. docs/cluster.md quotes the result."""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

from inputs import make_inputs

CONFIG = """data:     {{train: "{folder}/corpus/train-*.bin", tokenizer: bytes}}
boundary: {{kind: none}}
optim:    {{warmup: 0, schedule: constant}}
train:    {{eval_every: 0, checkpoint_every: 0}}
pipeline: {{threads: 1}}
"""
MODELS = {  # steps that are counted, and the keys
    "small": (8, ["model.d=64", "model.layers=4", "model.heads=4", "model.ffn=176", "model.vocab=256", "model.context=64", "train.batch=16"]),
    "demo": (3, ["model.d=256", "model.layers=8", "model.heads=4", "model.ffn=704", "model.vocab=256", "model.context=256", "train.batch=8"]),
    "timed": (8, ["model.d=256", "model.layers=8", "model.heads=4", "model.ffn=704", "model.vocab=256", "model.context=256", "train.batch=8",
                  "pipeline.device=timed", "pipeline.speed=200e9"]),
}
# Ranks may be more than cores, and nobody is bound to one of them.
MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
       "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_hwloc_base_binding_policy": "none"}


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(a, folder, model, stages, transport, steps, name):
    keys = [*MODELS[model][1], f"model.segments={stages}", f"pipeline.stages={stages}", "train.microbatches=8", f"train.steps={steps}"]
    out = f"{folder}/{name}"
    command = [a.program, "train", "-q", f"{folder}/run.yaml", "--out", out, *keys]
    if transport == "tcp":
        command += ["pipeline.transport=tcp"]
    else:
        command = [f"mpirun.{transport}", "-n", str(stages), *command, "engine=mpi"]
    before = cpu_seconds()
    done = subprocess.run(command, env={**os.environ, **MPI}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    took = [json.loads(line)["step_s"] for line in open(f"{out}/metrics.jsonl")]
    shutil.rmtree(out)
    return statistics.median(took[1:]), cpu_seconds() - before


def compare(a, folder, model, stages, transports):
    tries = {t: [] for t in transports}
    steps = MODELS[model][0]
    for i in range(a.tries):
        for t in transports:
            # Starting and ending take processor time too: what more steps take more is the steps'.
            few = run(a, folder, model, stages, t, 2, "few")[1]
            step, cpu = run(a, folder, model, stages, t, 2 + steps, "many")
            tries[t].append((step, max(0, cpu - few) / steps))
            print(f"{model}, {stages} stages, {t}, try {i + 1}: {1e3 * step:.1f} ms a step", file=sys.stderr)
    return tries


def row(model, stages, transports, tries):
    cells = []
    for t in transports:
        steps, cpus = zip(*tries[t])
        cells.append(f"{1e3 * statistics.median(steps):.1f} ({1e3 * min(steps):.1f}) | {1e3 * statistics.median(cpus):.0f}")
    print(f"| {model} | {stages} | " + " | ".join(cells) + " |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program")
    p.add_argument("--tries", type=int, default=3)
    p.add_argument("--stages", default="4")
    p.add_argument("--kinds", default="openmpi,mpich")
    p.add_argument("--only", default="small,timed,demo")
    a = p.parse_args()
    a.program = os.path.abspath(a.program)
    beside = os.path.dirname(a.program)
    kinds = [k for k in a.kinds.split(",") if os.path.exists(f"{beside}/resbm-mpi-{k}.so") and shutil.which(f"mpirun.{k}")]
    if not kinds:
        sys.exit("no MPI here: install libopenmpi-dev and openmpi-bin, or libmpich-dev and mpich, and build again")
    transports = ["tcp", *kinds]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}: median of the tries (best), ms a step | ms of processor time a step\n")
    print("| model | stages |" + "".join(f" {t} | processor |" for t in transports))
    print("|---|---|" + "---|---|" * len(transports))
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(a.program, folder, CONFIG)
        for model in a.only.split(","):
            for stages in a.stages.split(","):
                row(model, stages, transports, compare(a, folder, model, int(stages), transports))


if __name__ == "__main__":
    main()
