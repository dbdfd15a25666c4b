"""A transformer cut by hand for torch.distributed.pipelining, as PyTorch's introduction to it does.

torchrun --nproc-per-node 2 pipeline.py [SCHEDULE] [STEPS]
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

DIM, LAYERS, HEADS, VOCAB = (
    int(os.environ.get(*v)) for v in (("DIM", "512"), ("LAYERS", "8"), ("HEADS", "8"), ("VOCAB", "10000"))
)
BATCH, LENGTH, MICROBATCHES = (
    int(os.environ.get(*v)) for v in (("BATCH", "32"), ("LENGTH", "500"), ("MICROBATCHES", "8"))
)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleDict(
            {
                str(i): nn.TransformerEncoderLayer(DIM, HEADS, 4 * DIM, dropout=0.0, batch_first=True, norm_first=True)
                for i in range(LAYERS)
            }
        )
        self.norm = nn.LayerNorm(DIM)
        self.output = nn.Linear(DIM, VOCAB)

    def forward(self, tokens):
        h = self.tok_embeddings(tokens) if self.tok_embeddings is not None else tokens
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        for layer in self.layers.values():
            h = layer(h, mask, is_causal=True)
        h = self.norm(h) if self.norm is not None else h
        return self.output(h) if self.output is not None else h


def make_stage(index, stages, device):
    torch.manual_seed(0)
    model = Transformer()
    for i in range(LAYERS):
        if i * stages // LAYERS != index:
            del model.layers[str(i)]
    if index > 0:
        model.tok_embeddings = None
    if index < stages - 1:
        model.norm = model.output = None
    model.to(device)
    return PipelineStage(model, index, stages, device)


def loss_fn(output, target):
    return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def train(name, steps):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    kind = get_schedule_class(name)
    mine = [rank] if issubclass(kind, PipelineScheduleSingle) else [rank, rank + ranks]
    if name in ("ZBVZeroBubble", "DualPipeV"):  # a V: the last stage is on the first rank
        mine = [rank, 2 * ranks - 1 - rank]
    last = len(mine) * ranks - 1
    stages = [make_stage(i, last + 1, device) for i in mine]
    schedule = kind(stages if len(mine) > 1 else stages[0], MICROBATCHES, loss_fn=loss_fn)
    optimizer = torch.optim.AdamW([p for s in stages for p in s.submod.parameters()], lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        tokens = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator).to(device)
        inputs = (tokens,) if 0 in mine else ()
        outputs = dict(target=tokens, losses=[]) if last in mine else {}
        optimizer.zero_grad()
        schedule.step(*inputs, **outputs)
        optimizer.step()
        if outputs:
            print(f"{name} step {step} loss {torch.stack(outputs['losses']).mean().item():.4f}", flush=True)
    return stages


if __name__ == "__main__":
    dist.init_process_group()
    train(sys.argv[1] if len(sys.argv) > 1 else "1F1B", int(sys.argv[2]) if len(sys.argv) > 2 else 10)
    dist.destroy_process_group()
