"""One rank of tests/test_examples.py: each example's own train() under each schedule in turn.

examples_worker.py OUT STEPS EXAMPLE,EXAMPLE... SCHEDULE...
"""

import importlib.util
import json
import os
import sys

import torch
import torch.distributed as dist


def load(path):
    spec = importlib.util.spec_from_file_location("example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    out, steps, paths, *names = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    said = {}
    for path in paths.split(","):
        example, said = load(path), {}
        print("example", os.path.basename(path), flush=True)
        for name in names:
            stages = example.train(name, int(steps))
            said[name] = {k: [t.forward, t.backward] for s in stages for k, t in getattr(s, "traffic", {}).items()}
    with open(os.path.join(out, f"{dist.get_rank()}.json"), "w") as f:
        json.dump(said, f)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
