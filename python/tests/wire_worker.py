"""One rank of tests/test_wire.py: the example with torch's stage and with ours, bytes of the interface and reported.

wire_worker.py OUT STEPS INTERFACE EXAMPLE...
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from examples_worker import load
from torch.distributed.pipelining import Schedule1F1B


def counters(interface):
    at = Path("/sys/class/net") / interface / "statistics"
    seen = {k: int((at / k).read_text()) for k in ("tx_bytes", "tx_packets")}
    return seen | dict(again=of_tcp("snmp", "Tcp", "RetransSegs"), unordered=of_tcp("netstat", "TcpExt", "TCPOFOQueue"))


def of_tcp(file, group, name):
    """A counter of this namespace: the file has pairs of lines, names and then values."""
    names, values = (
        line.split() for line in (Path("/proc/net") / file).read_text().splitlines() if line.startswith(f"{group}:")
    )
    return int(values[names.index(name)])


def reported(stage):
    return sum(t.forward + t.backward for t in getattr(stage, "traffic", {}).values())


def measure(path, steps, interface):
    example, rank = load(path), dist.get_rank()
    stage = example.make_stage(rank, 2, torch.device("cpu"))
    schedule = Schedule1F1B(stage, example.MICROBATCHES, loss_fn=example.loss_fn)
    optimizer = torch.optim.AdamW(stage.submod.parameters(), lr=1e-3)
    tokens = torch.randint(example.VOCAB, (example.BATCH, example.LENGTH), generator=torch.Generator().manual_seed(1))
    arguments = ((tokens,), {}) if rank == 0 else ((), dict(target=tokens, losses=[]))
    for i in range(steps + 1):  # the first step agrees on shapes
        if i == 1:
            dist.barrier()
            before, sent, start = counters(interface), reported(stage), time.monotonic()
        optimizer.zero_grad()
        schedule.step(*arguments[0], **arguments[1])
        optimizer.step()
    dist.barrier()
    seconds, after = time.monotonic() - start, counters(interface)
    numbers = example.BATCH * example.LENGTH * example.DIM
    return dict(
        interface={k: after[k] - before[k] for k in after}, reported=reported(stage) - sent, seconds=seconds,
        messages=steps * example.MICROBATCHES, float32=4 * numbers * steps,
        tokens=example.BATCH * example.LENGTH * steps,
    )  # fmt: skip


def main():
    out, steps, interface, *examples = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    said = [measure(path, int(steps), interface) for path in examples]
    with open(os.path.join(out, f"{dist.get_rank()}.json"), "w") as f:
        json.dump(said, f)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
