"""The peer's pipeline: torch.distributed.pipelining, Schedule1F1B over gloo, one process and thread per stage.

    torch_pipeline.py STAGES D LAYERS HEADS FFN VOCAB CONTEXT BATCH MICROBATCHES STEPS [RANK MASTER:PORT INTERFACE]

Starts its own processes on loopback, or is the one process RANK of a group elsewhere, whose tensors cross INTERFACE.
Prints one JSON object: seconds of each step on the last stage.
"""

import json
import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from torch_llama import Llama, optimizers


def stage(rank, master, interface, stages, d, layers, heads, ffn, vocab, context, batch, microbatches, steps):
    host, port = master.split(":")
    os.environ.update(MASTER_ADDR=host, MASTER_PORT=port, GLOO_SOCKET_IFNAME=interface)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=stages)
    torch.manual_seed(1)
    first, last = rank == 0, rank == stages - 1
    model = Llama(d, layers // stages, heads, ffn, vocab, context, first, last)
    opts = optimizers(model)
    rows = batch // microbatches
    like = torch.zeros(rows, context, dtype=torch.long) if first else torch.zeros(rows, context, d)
    pipe = PipelineStage(model, rank, stages, torch.device("cpu"), input_args=(like,))
    run = Schedule1F1B(pipe, microbatches,
                       loss_fn=lambda y, t: F.cross_entropy(y.reshape(-1, vocab), t.reshape(-1)))
    ids = torch.randint(vocab, (batch, context + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    seconds = []
    for _ in range(steps):
        dist.barrier()
        begin = time.perf_counter()
        for o in opts:
            o.zero_grad()
        if first:
            run.step(inputs)
        elif last:
            run.step(target=targets)
        else:
            run.step()
        for o in opts:
            o.step()
        dist.barrier()
        seconds.append(time.perf_counter() - begin)
    if last:
        print(json.dumps({"step_s": seconds}), flush=True)
    dist.destroy_process_group()


def main():
    numbers = list(map(int, sys.argv[1:11]))
    if len(sys.argv) > 11:
        rank, master, interface = sys.argv[11:]
        return stage(int(rank), master, interface, *numbers)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(stage, args=(f"127.0.0.1:{port}", "lo", *numbers), nprocs=numbers[0])


if __name__ == "__main__":
    main()
