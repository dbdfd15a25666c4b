#!/usr/bin/env python3
"""Writes ops.golden: inputs, outputs and gradients of single operations from PyTorch, by name.

src/device/op_golden_test.c reads it. A record is: u32 length of the name, the name, u32 count, count float32, all
little-endian. Names are operation.operand. Needs torch of tests/requirements-torch.txt."""
import math
import pathlib
import struct

import torch
import torch.nn.functional as F

torch.manual_seed(20240611)
torch.set_num_threads(1)
records = []


def put(name, t):
    data = t.detach().to(torch.float32).contiguous().flatten().tolist()
    records.append(struct.pack("<I", len(name)) + name.encode() + struct.pack("<I", len(data)) +
                   struct.pack(f"<{len(data)}f", *data))


def leaf(*shape):
    return torch.randn(*shape).requires_grad_()


def gradients(op, out, **inputs):
    """Stores inputs, the output, a random gradient of it, and what that gives for each input."""
    g = torch.randn_like(out)
    grads = torch.autograd.grad(out, list(inputs.values()), g)
    put(f"{op}.out", out)
    put(f"{op}.dout", g)
    for (name, x), dx in zip(inputs.items(), grads):
        put(f"{op}.{name}", x)
        put(f"{op}.d{name}", dx)


def gemm():
    a, b = leaf(9, 13), leaf(11, 13)
    gradients("gemm", F.linear(a, b), a=a, b=b)


def rmsnorm():
    x, w = leaf(10, 24), leaf(24)
    gradients("rmsnorm", F.rms_norm(x, (24,), w, 1e-5), x=x, w=w)


def rotate_half(x):
    """As in transformers' modeling_llama."""
    return torch.cat((-x[..., x.shape[-1] // 2:], x[..., :x.shape[-1] // 2]), dim=-1)


def rope():
    x = leaf(2, 5, 3, 8)
    inverse = 1.0 / 10000 ** (torch.arange(0, 8, 2).float() / 8)
    angles = torch.outer(torch.arange(2, 7).float(), inverse)
    cos, sin = (torch.cat((f(angles), f(angles)), -1)[None, :, None, :] for f in (torch.cos, torch.sin))
    put("rope.cos", angles.cos())
    put("rope.sin", angles.sin())
    gradients("rope", x * cos + rotate_half(x) * sin, x=x)


def attention(name, groups):
    q, k, v = leaf(2, 19, 4, 8), leaf(2, 19, groups, 8), leaf(2, 19, groups, 8)
    heads = [t.transpose(1, 2).repeat_interleave(4 // t.shape[2], 1) for t in (q, k, v)]
    out = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)
    scores = heads[0] @ heads[1].transpose(2, 3) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(19, 19, dtype=torch.bool).triu(1), -math.inf)
    put(f"{name}.lse", torch.logsumexp(scores, -1))
    gradients(name, out, q=q, k=k, v=v)


def swiglu():
    gate, up = leaf(6, 17), leaf(6, 17)
    gradients("swiglu", F.silu(gate) * up, gate=gate, up=up)


def silu():
    x = (3 * torch.randn(5, 21)).requires_grad_()
    gradients("silu", F.silu(x), x=x)


def embedding():
    table, ids = leaf(7, 6), torch.tensor([3, 0, 6, 3, 3, 1, 0, 5])
    put("embedding.ids", ids)
    gradients("embedding", F.embedding(ids, table), table=table)


def xent():
    logits, targets = (2 * torch.randn(9, 33)).requires_grad_(), torch.randint(0, 33, (9,))
    targets[4] = -100
    loss = F.cross_entropy(logits, targets, reduction="none", ignore_index=-100)
    put("xent.targets", targets)
    put("xent.logits", logits)
    put("xent.loss", loss)
    put("xent.dlogits", torch.autograd.grad(loss.sum() / 8, logits)[0])


def adamw():
    p = torch.nn.Parameter(torch.randn(40))
    optimizer = torch.optim.AdamW([p], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, foreach=False)
    put("adamw.start", p)
    for step in range(4):
        p.grad = torch.randn(40) * (10.0 ** -step)
        put(f"adamw.grad{step}", p.grad)
        optimizer.step()
        put(f"adamw.p{step}", p)
    put("adamw.m", optimizer.state[p]["exp_avg"])
    put("adamw.v", optimizer.state[p]["exp_avg_sq"])


def muon_momentum():
    """The two lines of torch.optim.Muon before its Newton-Schulz steps."""
    buf = torch.zeros(5, 8)
    for step in range(3):
        grad = torch.randn(5, 8)
        buf.lerp_(grad, 1 - 0.95)
        put(f"muon.grad{step}", grad)
        put(f"muon.buf{step}", buf)
        put(f"muon.update{step}", grad.lerp(buf, 0.95))


for make in (gemm, rmsnorm, rope, swiglu, silu, embedding, xent, adamw, muon_momentum):
    make()
attention("attention", 4)
attention("grouped", 2)
with open(pathlib.Path(__file__).with_name("ops.golden"), "wb") as f:
    f.write(b"".join(records))
