"""One rank of tests/test_stage.py: every schedule in turn, losses and gradients to a file.

pipeline_worker.py OUT SCHEDULE[,SCHEDULE...] TOKENS traced|cut
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import pipeline, schedules

from resbm.torch import ResidualBottleneck, Stage, build_stage

CPU = torch.device("cpu")

D, T, V, BATCH, MICROBATCHES, STEPS = 16, 6, 13, 8, 4, 3
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")
LOOPED = ("Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble")


class Part(nn.Module):
    """An embedding on the first stage, a linear layer on each, logits on the last."""

    def __init__(self, stage, stages):
        super().__init__()
        torch.manual_seed(100 + stage)
        self.embed = nn.Embedding(V, D) if stage == 0 else None
        self.fc = nn.Linear(D, D)
        self.head = nn.Linear(D, V) if stage == stages - 1 else None

    def forward(self, x):
        x = self.embed(x) if self.embed is not None else x
        x = x + torch.tanh(self.fc(x))
        return self.head(x) if self.head is not None else x


class Joined(nn.Module):
    """All parts with their bottlenecks, for the tracer."""

    def __init__(self, stages):
        super().__init__()
        self.parts = nn.ModuleList(Part(i, stages) for i in range(stages))
        self.cuts = nn.ModuleList(bottleneck(None).copy(i) for i in range(stages - 1))

    def forward(self, x):
        for i, part in enumerate(self.parts):
            x = part(x)
            if i < len(self.cuts):
                x = self.cuts[i](x)
        return x


def loss_fn(y, t):
    return nn.functional.cross_entropy(y.flatten(0, 1), t.flatten())


def batch(step):
    g = torch.Generator().manual_seed(step)
    return torch.randint(V, (BATCH, T), generator=g), torch.randint(V, (BATCH, T), generator=g)


def bottleneck(tokens):
    return ResidualBottleneck(D, 4, tokens=tokens, vocab=V if tokens else None, seed=5)


def stages_of(schedule, rank, ranks):
    if schedule in V_SHAPED:
        return [rank, 2 * ranks - 1 - rank]
    return [rank, rank + ranks] if schedule in LOOPED else [rank]


def evaluates(schedule):
    """torch 2.13 cannot eval() a schedule that hands a gradient over inside a rank."""
    return schedule not in V_SHAPED


def whole(num_stages, tokens):
    """The same model, data and rounding in one process: losses of the steps, and parameters by name after them."""
    parts = [Part(i, num_stages) for i in range(num_stages)]
    cuts = [bottleneck(tokens).copy(i) for i in range(num_stages - 1)]
    params = [p for m in (*parts, *cuts) for p in m.parameters()]
    opt = torch.optim.SGD(params, lr=0.1)
    losses = []
    for step in range(STEPS):
        x, y = batch(step)
        opt.zero_grad()
        for xm, ym in zip(x.chunk(MICROBATCHES), y.chunk(MICROBATCHES)):
            h = xm
            for i, part in enumerate(parts):
                h = part(h)
                if i < num_stages - 1:
                    h = cuts[i](h, xm if tokens else None)
            loss = loss_fn(h, ym)
            loss.backward()
            losses.append(loss.item())
        for p in params:
            p.grad /= MICROBATCHES
        opt.step()
    for c in cuts:
        c.link.end_step(c.encoder.steps, c.decoder.steps)
    state = {f"{i}.{n}": t for i, m in enumerate(parts) for n, t in m.state_dict().items()}
    state |= {f"boundary.{i}.{n}": t for i, m in enumerate(cuts) for n, t in m.state_dict().items()}
    return losses, state


def cut_by_hand(indices, num_stages, tokens):
    """(stages, their parameters and buffers by name)."""
    parts = {i: bottleneck(tokens).cut(Part(i, num_stages), i, num_stages) for i in indices}
    state = {}
    for i, m in parts.items():
        state |= {n if n.startswith("boundary.") else f"{i}.{n}": t for n, t in m.state_dict(keep_vars=True).items()}
    return [Stage(m, i, num_stages, CPU) for i, m in parts.items()], state


def traced(indices, num_stages):
    """The same of a traced model; learned steps live in the model."""
    model = Joined(num_stages)
    pipe = pipeline(model, mb_args=(batch(0)[0][: BATCH // MICROBATCHES],))
    made, state = [build_stage(pipe, model, i, CPU) for i in indices], {}
    for stage in made:
        for name, p in stage.submod.named_parameters():
            state[name.removeprefix("parts.").replace("cuts.", "boundary.")] = p
    for i, cut in enumerate(model.cuts):
        state |= {f"boundary.{i}.encoder.steps": cut.encoder.steps} if i in indices else {}
        state |= {f"boundary.{i}.decoder.steps": cut.decoder.steps} if i + 1 in indices else {}
    return made, state


def pipelined(schedule, rank, ranks, tokens, tracer):
    indices = stages_of(schedule, rank, ranks)
    num_stages = ranks * len(indices)
    made, state = traced(indices, num_stages) if tracer else cut_by_hand(indices, num_stages, tokens)
    kind = getattr(schedules, "Schedule" + schedule)
    single = issubclass(kind, schedules.PipelineScheduleSingle)
    run = kind(made[0] if single else made, MICROBATCHES, loss_fn=loss_fn)
    opt = torch.optim.SGD([p for s in made for p in s.submod.parameters()], lr=0.1)
    seen = []
    for step in range(STEPS):
        x, y = batch(step)
        opt.zero_grad()
        losses = []
        args = (x,) if 0 in indices else ()
        run.step(*args, **(dict(target=y, losses=losses) if num_stages - 1 in indices else {}))
        seen += [v.item() for v in losses]
        opt.step()
        if evaluates(schedule) and step == 0:  # an evaluation between two steps leaves no trace
            run.eval(*args, **(dict(target=y, losses=[]) if num_stages - 1 in indices else {}))
    traffic = {n: (t.forward, t.backward, t.messages, t.per_microbatch) for s in made for n, t in s.traffic.items()}
    return seen, {n: t.detach() for n, t in state.items()}, traffic


def main():
    out, names, tokens = sys.argv[1], sys.argv[2].split(","), None if sys.argv[3] == "none" else sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    results = {name: pipelined(name, rank, ranks, tokens, sys.argv[4] == "traced") for name in names}
    torch.save(results, os.path.join(out, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
