"""Two stages in a send/receive loop written by hand: `torchrun --nproc-per-node 2 raw_loop.py`.

The loop is the ordinary one. `attach` makes each stage's outer tensors containers of packed bytes; `shape` and the
line that calls `attach` are all that differ from a loop that sends activations (B,T,d).
"""

import torch
import torch.distributed as dist
from torch import nn

from resbm.torch import ResidualBottleneck, attach, optimizers

D, T, B, VOCAB, STEPS, MICROBATCHES = 64, 16, 4, 32, 20, 2


def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(rank)
    mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 2 * D), nn.GELU(), nn.Linear(2 * D, D))
    model = nn.Sequential(nn.Embedding(VOCAB, D), mlp) if rank == 0 else nn.Sequential(mlp, nn.Linear(D, VOCAB))
    attach(model, ResidualBottleneck(D, ratio=8), rank, 2, length=T)
    shape = (B, model.boundary["0"].width)  # without resbm: (B, T, D)
    optimizer = optimizers(model, write=print if rank == 0 else None)
    data = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        optimizer.zero_grad()
        total = 0.0
        for _ in range(MICROBATCHES):
            tokens = torch.randint(VOCAB, (B, T), generator=data)
            if rank == 0:
                out = model(tokens)
                dist.send(out.detach(), 1)
                grad = torch.empty(shape)
                dist.recv(grad, 1)
                out.backward(grad)
            else:
                arrived = torch.empty(shape)
                dist.recv(arrived, 0)
                arrived.requires_grad_()
                loss = nn.functional.cross_entropy(model(arrived).flatten(0, 1), tokens.flatten()) / MICROBATCHES
                loss.backward()
                dist.send(arrived.grad, 0)
                total += loss.item()
        optimizer.step()
        if rank == 1:
            print(f"step {step} loss {total:.4f}")
    sent = model.boundary["0"].traffic
    print(f"rank {rank}: {sent.forward} bytes forward, {sent.backward} bytes backward, {sent.wire_ratio:.1f} x fewer")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
