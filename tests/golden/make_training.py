#!/usr/bin/env python3
"""Writes training.golden beside this file: losses and gradient norms of ten training steps of a small whole model, by
PyTorch in float64. src/optim/training_golden_test.c takes the same steps in C and compares.

    python3 tests/golden/make_training.py       needs torch (2.13.0 made the checked-in file)

Three segments, two boundaries, grouped-query attention; every step adds up two microbatches, clips the global norm
at 1 and follows a wsd schedule. Records: config, tokens (steps, microbatches, B, T+1), then loss.<case> and norm.<case>
(before clipping) for the cases
    adamw   torch.optim.AdamW for every tensor
    muon    make_optim.py's plain Muon for the matrices of blocks and boundaries, torch.optim.AdamW for the rest
    torch   the same with torch.optim.Muon itself: its Newton-Schulz runs in bfloat16
    adamw_delayed, muon_delayed
            the first two with each update used one step later (optim.delay: 1): gradients are of a copy of the weights
            that lacks the newest update
"""
import torch
import torch.nn.functional as F

from make_model import BASE, Params, config_record, model, weight, write_records
from make_optim import muon_step

CONFIG = dict(BASE, layers=3, segments=3, kv_heads=2)
STEPS, MICROBATCHES = 10, 2
CLIP, DECAY = 1.0, 0.1
WARMUP, SHARE, FLOOR = 3, 0.4, 0.1
ADAMW_LR, MUON_LR, MUON_ADAMW_LR = 0.004, 0.02, 0.002


class PlainMuon(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay, momentum=0.95):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buf = self.state[p].setdefault("buf", torch.zeros_like(p))
                muon_step(p, buf, p.grad, group["lr"], group["momentum"], decay=group["weight_decay"])


def adamw(params, lr):
    groups = [dict(params=[p for p in params if p.dim() == 2], weight_decay=DECAY),
              dict(params=[p for p in params if p.dim() != 2], weight_decay=0.0)]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8)


def optimizers(case, p):
    if case == "adamw":
        return [adamw(p.values(), ADAMW_LR)]
    make = PlainMuon if case == "muon" else torch.optim.Muon
    matrices = [w for n, w in p.items() if w.dim() == 2 and n.startswith(("model.layers.", "boundary."))]
    taken = {id(w) for w in matrices}
    return [make(matrices, lr=MUON_LR, weight_decay=DECAY, momentum=0.95),
            adamw([w for w in p.values() if id(w) not in taken], MUON_ADAMW_LR)]


def wsd(step):
    if step < WARMUP:
        return (step + 1) / WARMUP
    decay_from = STEPS - SHARE * STEPS
    return 1 - (1 - FLOOR) * max(0, step - decay_from) / (SHARE * STEPS)


def train(case, tokens, delayed=False):
    p = Params()
    model(p, tokens[0, 0, :, :-1], CONFIG)  # makes the parameters
    used = Params({n: w.detach().clone().requires_grad_() for n, w in p.items()}) if delayed else p
    opts = optimizers(case, p)
    schedules = [torch.optim.lr_scheduler.LambdaLR(opt, wsd) for opt in opts]
    losses, norms = [], []
    for step in range(STEPS):
        total = 0.0
        for batch in tokens[step]:
            logits = model(used, batch[:, :-1], CONFIG).reshape(-1, CONFIG["vocab"])
            loss = F.cross_entropy(logits, batch[:, 1:].reshape(-1)) / MICROBATCHES
            loss.backward()
            total += loss.item()
        losses.append(total)
        for n, w in used.items() if delayed else ():
            p[n].grad, w.grad = w.grad, None
            w.data.copy_(p[n].data)
        norms.append(torch.nn.utils.clip_grad_norm_(p.values(), CLIP).item())
        for opt, schedule in zip(opts, schedules):
            opt.step()
            opt.zero_grad()
            schedule.step()
    return losses, norms


def main():
    shape = (STEPS, MICROBATCHES, CONFIG["B"], CONFIG["T"] + 1)
    tokens = (weight("training tokens", shape) * 1e6).long().abs() % CONFIG["vocab"]
    records = [config_record(CONFIG), ("tokens", tokens.flatten().tolist())]
    for case in ("adamw", "muon", "torch"):
        losses, norms = train(case, tokens)
        records += [(f"loss.{case}", losses), (f"norm.{case}", norms)]
    for case in ("adamw", "muon"):
        losses, norms = train(case, tokens, delayed=True)
        records += [(f"loss.{case}_delayed", losses), (f"norm.{case}_delayed", norms)]
    write_records("training.golden", records)


if __name__ == "__main__":
    main()
