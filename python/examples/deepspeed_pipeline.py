"""The bottleneck in DeepSpeed's PipelineModule: two layers more in the list, where the stages meet.

torchrun --nproc-per-node 2 deepspeed_pipeline.py      (run with deepspeed 0.19.8 on CPUs, over gloo)

DeepSpeed sends what a stage gives forward and the gradient of what it took back, whatever these mean; here they are
containers of packed bytes. Run it in f32: a loop that casts what it sends would change them.
"""

import os
import sys

os.environ.setdefault("LOCAL_RANK", os.environ.get("RANK", "0"))
import deepspeed
import torch
from deepspeed.pipe import PipelineModule
from torch import nn

from resbm.torch import ReceiveEnd, ResidualBottleneck, SendEnd

D, T, B, VOCAB, STEPS = 64, 16, 4, 32, 15


def loss_fn(output, target):
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        tokens = torch.randint(VOCAB, (B, T), generator=generator)
        yield tokens, tokens


def main():
    if not torch.cuda.is_available():  # an extension for collectives in shared memory, minutes to compile, not needed
        sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    deepspeed.init_distributed("nccl" if torch.cuda.is_available() else "gloo")
    ends = ResidualBottleneck(D, ratio=8).copy(0), ResidualBottleneck(D, ratio=8).copy(0)
    layers = [
        nn.Embedding(VOCAB, D), nn.Linear(D, D), SendEnd(ends[0], length=T),
        ReceiveEnd(ends[1], length=T), nn.Linear(D, D), nn.Linear(D, VOCAB),
    ]  # fmt: skip
    model = PipelineModule(layers, num_stages=2, loss_fn=loss_fn, partition_method="uniform")
    settings = dict(
        train_batch_size=2 * B, train_micro_batch_size_per_gpu=B, gradient_accumulation_steps=2, steps_per_print=1000
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    data = batches()
    for step in range(STEPS):
        print(f"step {step} loss {float(engine.train_batch(data)):.4f}", flush=True)
    for m in model.modules():
        if isinstance(m, (SendEnd, ReceiveEnd)):
            print(f"{type(m).__name__}: {m.traffic}", flush=True)


if __name__ == "__main__":
    main()
