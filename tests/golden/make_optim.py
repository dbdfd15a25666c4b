#!/usr/bin/env python3
"""Writes optim.golden beside this file: weights after ten steps of AdamW and Muon by PyTorch.
src/optim/optim_test.c does the same steps in C and compares.

    python3 tests/golden/make_optim.py          needs torch (2.13.0 made the checked-in file)

Weights and gradients are made on both sides from names (make_model.py's `weight`); gradient of step i is that of
"<tensor>.g<i>". Cases:
    adamw           torch.optim.AdamW; the vector without decay
    muon            Muon stated in plain f32 below: Nesterov, scaling original, decay
    match_rms       the same with scaling match_rms, without decay
    plain           the same without Nesterov
    torch           torch.optim.Muon itself: its Newton-Schulz runs in bfloat16
"""
import math
import pathlib
import struct

import torch

from make_model import weight

SHAPES = {"tall": (24, 8), "wide": (8, 20), "square": (12, 12), "pair": (2, 64), "vector": (33,)}
STEPS = 10
ADAMW = dict(lr=0.01, betas=(0.9, 0.95), eps=1e-8)
MUON = dict(lr=0.02, momentum=0.95)


def tensor(name, shape):
    return weight(name, shape).float()


def newton_schulz(x, steps=5, a=3.4445, b=-4.7750, c=2.0315):
    tall = x.size(0) > x.size(1)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon_step(w, buf, g, lr, momentum, nesterov=True, decay=0.0, match_rms=False):
    rows, columns = w.shape
    scale = 0.2 * math.sqrt(max(w.shape)) if match_rms else math.sqrt(max(1, rows / columns))
    buf.lerp_(g, 1 - momentum)
    update = newton_schulz(g.lerp(buf, momentum) if nesterov else buf)
    w.mul_(1 - lr * decay).add_(update, alpha=-lr * scale)


def muon_f32(name, shape, lr, momentum, nesterov=True, decay=0.0, match_rms=False):
    w, buf = tensor(name, shape), torch.zeros(shape)
    for step in range(STEPS):
        muon_step(w, buf, tensor(f"{name}.g{step}", shape), lr, momentum, nesterov, decay, match_rms)
    return w


def by_optimizer(make, name, shape):
    p = torch.nn.Parameter(tensor(name, shape))
    opt = make([p])
    for step in range(STEPS):
        p.grad = tensor(f"{name}.g{step}", shape)
        opt.step()
    return p.detach()


def cases():
    for name, shape in SHAPES.items():
        decay = 0.1 if len(shape) == 2 else 0.0
        yield f"adamw.{name}", by_optimizer(lambda p: torch.optim.AdamW(p, weight_decay=decay, **ADAMW), name, shape)
        if len(shape) != 2:
            continue
        yield f"muon.{name}", muon_f32(name, shape, decay=0.1, **MUON)
        yield f"match_rms.{name}", muon_f32(name, shape, match_rms=True, **MUON)
        yield f"plain.{name}", muon_f32(name, shape, nesterov=False, **MUON)
        yield f"torch.{name}", by_optimizer(lambda p: torch.optim.Muon(p, weight_decay=0.1, **MUON), name, shape)


def main():
    out = bytearray()
    for name, values in cases():
        flat = values.flatten().tolist()
        out += struct.pack("<I", len(name)) + name.encode()
        out += struct.pack("<I", len(flat)) + struct.pack(f"<{len(flat)}f", *flat)
    pathlib.Path(__file__).with_name("optim.golden").write_bytes(out)


if __name__ == "__main__":
    main()
