#!/usr/bin/env python3
"""Offload measured: one stage with recomputation trains without offload, with states, and with states and gradients on
disk; peak memory (resident, and cached pages of the files it uses) and time of a step, as a Markdown table.

    bench/offload.py build/resbm [--tokens 16384] [--steps 2] [--only none,states,states+gradients] [--small]

The corpus is random bytes: nothing is learned, everything is computed. docs/offload.md quotes the result."""
import argparse
import ctypes
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

VARIANTS = {
    "none": [],
    "states": ["optim.offload=disk"],
    "states+gradients": ["optim.offload=disk", "optim.offload_parts=states+gradients"],
}
LARGE = dict(d=1280, layers=21, heads=20, ffn=3456, context=1024, segments=7)  # 413 M parameters
SMALL = dict(d=256, layers=8, heads=4, ffn=704, context=128, segments=4)

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def cached_bytes(path):
    """Bytes of a file that are in the page cache."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return 0
    try:
        size = os.fstat(fd).st_size
        if not size:
            return 0
        at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if at == ctypes.c_void_p(-1).value:
            return 0
        pages = ctypes.create_string_buffer((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
        bad = libc.mincore(at, size, pages)
        libc.munmap(at, size)
        return 0 if bad else sum(b & 1 for b in pages.raw) * mmap.PAGESIZE
    except OSError:
        return 0
    finally:
        os.close(fd)


def children(pid):
    try:
        return [int(p) for p in open(f"/proc/{pid}/task/{pid}/children").read().split()]
    except OSError:
        return []


def resident(pid):
    """Anonymous and shared memory of a process: its mapped files are counted as cached pages."""
    try:
        with open(f"/proc/{pid}/status") as f:
            rows = dict(line.split(":", 1) for line in f)
        return sum(int(rows[k].split()[0]) * 1024 for k in ("RssAnon", "RssShmem") if k in rows)
    except (OSError, ValueError):
        return 0


def cpu_seconds(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0


def files_of(pid, folder):
    """The nameless file a stage holds open, and what lies in the run's folder."""
    found = []
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            if link.endswith("(deleted)") and link.startswith("/"):
                found.append(f"/proc/{pid}/fd/{fd}")
    except OSError:
        pass
    for where, _, names in os.walk(folder):
        found += [os.path.join(where, n) for n in names]
    return found


def watch(process, folder):
    """Peaks until the process has ended: resident, cached, both at one time, and processor time of the stage."""
    peak = dict(resident=0, cached=0, both=0, cpu=0)
    while process.poll() is None:
        for pid in children(process.pid):
            r, c = resident(pid), sum(cached_bytes(f) for f in files_of(pid, folder))
            for key, now in (("resident", r), ("cached", c), ("both", r + c), ("cpu", cpu_seconds(pid))):
                peak[key] = max(peak[key], now)
        time.sleep(0.25)
    return peak


def make_corpus(program, folder, small):
    text = os.path.join(folder, "text")
    with open(text, "wb") as f:
        f.write(random.Random(1).randbytes(1 << (20 if small else 22)))
    subprocess.run([program, "data", "--out", os.path.join(folder, "corpus"), text], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_config(folder, shape, tokens, steps):
    batch = max(1, tokens // shape["context"])
    keys = ", ".join(f"{k}: {v}" for k, v in shape.items())
    path = os.path.join(folder, "run.yaml")
    with open(path, "w") as f:
        f.write(f"""model:    {{{keys}, vocab: 256}}
boundary: {{kind: residual, ratio: 128}}
data:     {{train: "{folder}/corpus/train-*.bin", tokenizer: bytes}}
optim:    {{kind: adamw, lr: 0.0003, warmup: 0, schedule: constant}}
train:    {{steps: {steps}, batch: {batch}, microbatches: {batch}, eval_every: 0, checkpoint_every: 0, recompute: true}}
pipeline: {{stages: 1, deadline: 3000s, startup_deadline: 600s}}
""")
    return path


def run(program, config, out, keys):
    shutil.rmtree(out, ignore_errors=True)
    log = open(out + ".log", "w")
    p = subprocess.Popen([program, "train", config, "--out", out, "-q", *keys], stdout=log, stderr=log)
    peak = watch(p, out)
    if p.returncode:
        sys.exit(f"{' '.join(keys) or 'none'}: {open(out + '.log').read()[-2000:]}")
    steps = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    summary = json.load(open(os.path.join(out, "summary.json")))
    shutil.rmtree(out, ignore_errors=True)
    return dict(peak=peak, times=[s["step_s"] for s in steps], losses=[s["loss"] for s in steps],
                memory=summary["memory"][0], params=summary["params"])


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("program")
    a.add_argument("--tokens", type=int, default=16384, help="of a step, in microbatches of one sequence")
    a.add_argument("--context", type=int, help="tokens of a microbatch (default: 1024, and 128 with --small)")
    a.add_argument("--model", default="", help="keys of the model instead: d=640,layers=8,heads=10,ffn=1728,segments=4")
    a.add_argument("--steps", type=int, default=2)
    a.add_argument("--small", action="store_true", help="a model of a few millions, to try the script")
    a.add_argument("--only", default=",".join(VARIANTS))
    a.add_argument("--folder", help="where to work (default: a temporary one)")
    o = a.parse_args()
    program, shape = os.path.abspath(o.program), dict(SMALL if o.small else LARGE)
    shape.update((k, int(v)) for k, v in (pair.split("=") for pair in o.model.split(",") if pair))
    shape["context"] = o.context or shape["context"]
    folder = os.path.abspath(o.folder) if o.folder else tempfile.mkdtemp(prefix="resbm-offload-")
    os.makedirs(folder, exist_ok=True)
    make_corpus(program, folder, o.small)
    config = write_config(folder, shape, o.tokens, o.steps)
    first = None
    columns = ("offload", "peak GB", "of these cached pages", "activations", "without them", "of none", "step s", "of none",
               "processor s a step", "disk read a step", "written", "waited for it s", "loss")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)
    for name in o.only.split(","):
        r = run(program, config, os.path.join(folder, "run"), VARIANTS[name])
        acts = r["memory"]["activations"]
        state = r["peak"]["both"] - acts
        step = min(r["times"])
        first = first or (state, step)
        m = r["memory"]
        row = (name, f"{r['peak']['both'] / 1e9:.2f}", f"{r['peak']['cached'] / 1e9:.3f}", f"{acts / 1e9:.2f}",
               f"{state / 1e9:.2f}", f"{state / first[0]:.3f}", f"{step:.1f}", f"{step / first[1]:.2f}",
               f"{r['peak']['cpu'] / o.steps:.1f}", f"{m['disk_read'] / o.steps / 1e9:.2f}", f"{m['disk_written'] / o.steps / 1e9:.2f}",
               f"{m['disk_wait_s'] / o.steps:.2f}", f"{r['losses'][-1]:.6f}")
        print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{r['params'] / 1e6:.0f} M parameters, one stage, recomputation, {o.tokens} tokens a step in microbatches of "
          f"{shape['context']}, the fastest of {o.steps} steps, {os.cpu_count()} processors.")
    if not o.folder:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
