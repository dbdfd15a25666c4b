"""What torch itself refuses under a schedule, by name: the table of docs/pytorch.md, row by row.

Both stages are on one rank, so nothing crosses and a refusal cannot hang. A plain PipelineStage must meet the same
refusal: what works with it works with Stage.
"""

import pytest
import torch
import torch.distributed as dist
from test_stage import SCHEDULES
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules
from torch.utils.checkpoint import checkpoint

from resbm.torch import ResidualBottleneck, Stage

D, T, B, MICROBATCHES = 16, 6, 8, 4
SEVERAL = SCHEDULES[2:]  # those that take several stages of one rank
ZERO_BUBBLE = ("InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")
COMPILED = r"schedule is not supported with stage modules that have used torch\.compile"
REENTRANT = r"use_reentrant=True.*incompatible with \.grad\(\)"
LOCAL_EVAL = "can't steal_bwd_input if this stage doesn't have backward"
FEATURES = ("plain", "autocast", "compile", "compile a part", "module.compile()", "checkpoint", "reentrant", "eval")


def refusal(schedule, feature):
    """What torch 2.13 says, None where it works."""
    if feature in ("compile", "compile a part") and schedule in ZERO_BUBBLE:
        return COMPILED
    return {"reentrant": REENTRANT, "eval": LOCAL_EVAL}.get(feature)


class Part(nn.Module):
    def __init__(self, feature):
        super().__init__()
        self.fc, self.out, self.feature = nn.Linear(D, D), nn.Linear(D, D), feature

    def inner(self, x):
        return self.out(torch.tanh(self.fc(x)))

    def forward(self, x):
        if self.feature in ("checkpoint", "reentrant"):
            return checkpoint(self.inner, x, use_reentrant=self.feature == "reentrant")
        return self.inner(x).float()


@pytest.fixture(scope="module", autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def step(schedule, feature, packed):
    """Losses of a step, and gradients by name."""
    torch.manual_seed(2)
    parts = [Part(feature) for _ in range(2)]
    if packed:
        bottleneck = ResidualBottleneck(D, 4, codec="int8", seed=3)
        parts = [bottleneck.cut(p, i, 2) for i, p in enumerate(parts)]
    named = {f"{i}.{n}": p for i, m in enumerate(parts) for n, p in m.named_parameters()}
    if feature == "compile":
        parts = [torch.compile(p, backend="eager") for p in parts]
    for p in parts:
        if feature == "compile a part":
            p.fc = torch.compile(p.fc, backend="eager")
        if feature == "module.compile()":
            p.compile(backend="eager")
    made = [(Stage if packed else PipelineStage)(p, i, 2, torch.device("cpu")) for i, p in enumerate(parts)]
    run = getattr(schedules, "Schedule" + schedule)(made, MICROBATCHES, loss_fn=lambda y, t: (y - t).pow(2).mean())
    x, losses = torch.randn(B, T, D).requires_grad_(feature == "reentrant"), []
    with torch.autocast("cpu", torch.bfloat16, enabled=feature == "autocast"):
        (run.eval if feature == "eval" else run.step)(x, target=torch.ones(B, T, D), losses=losses)
    return torch.stack(losses), {n: p.grad for n, p in named.items()}


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("schedule", SEVERAL)
def test_refused_or_right(schedule, feature):
    said = refusal(schedule, feature)
    if said:
        for packed in (False, True):
            with pytest.raises((RuntimeError, AssertionError), match=said):
                step(schedule, feature, packed)
        return
    losses, grads = step(schedule, feature, True)
    plain_losses, plain = step(schedule, "plain", True)
    near = dict(rtol=0.1, atol=0.05) if feature == "autocast" else dict(rtol=1e-5, atol=1e-7)
    assert torch.allclose(losses, plain_losses, **near)
    assert all(g is not None and torch.allclose(g, plain[n], **near) for n, g in grads.items())


@pytest.mark.parametrize("kind", [PipelineStage, Stage])
@pytest.mark.parametrize("schedule", SCHEDULES[:2])
def test_schedules_of_one_stage_a_rank_refuse_reentrant_checkpointing(schedule, kind):
    """Already while torch infers the shape of a stage's input gradient: the only stage here, with such an input."""
    made = kind(Part("reentrant"), 0, 1, torch.device("cpu"))
    run = getattr(schedules, "Schedule" + schedule)(made, MICROBATCHES, loss_fn=lambda y, t: (y - t).pow(2).mean())
    with pytest.raises(RuntimeError, match=REENTRANT):
        run.step(torch.randn(B, T, D).requires_grad_(), target=torch.ones(B, T, D))
