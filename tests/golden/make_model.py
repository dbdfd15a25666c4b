#!/usr/bin/env python3
"""Writes model_<name>.golden beside this file: loss and every parameter gradient of small models, by PyTorch in
float64. src/model/golden_test.c computes the same in C and compares by name.

    python3 tests/golden/make_model.py          needs torch (2.13.0 made the checked-in files)

Weights are not stored: both sides make them from a name by integers (see `weight`). File: records of
u32 length, name, u32 count, count little-endian f32; the first record is "config".
"""
import math
import pathlib
import struct

import torch
import torch.nn.functional as F

MASK = (1 << 64) - 1


def weight(name, shape):
    """FNV-1a of the name seeds a 64-bit LCG; the top 24 bits of each state make a number in [-1/4, 1/4) (norms: around 1)."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & MASK
    values = []
    for _ in range(math.prod(shape)):
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        values.append(((state >> 40) / 2**24 - 0.5) / 2)
    w = torch.tensor(values, dtype=torch.float64).reshape(shape)
    return w + 1 if "norm" in name else w


class Params(dict):
    def get(self, name, *shape):
        if name not in self:
            self[name] = weight(name, shape).requires_grad_()
        return self[name]


def rms_norm(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def rope(x, theta):
    B, T, H, D = x.shape
    inv = 1.0 / theta ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
    angle = torch.arange(T, dtype=torch.float64)[:, None] * inv
    cos = torch.cat((angle.cos(), angle.cos()), -1)[:, None]
    sin = torch.cat((angle.sin(), angle.sin()), -1)[:, None]
    rotated = torch.cat((-x[..., D // 2:], x[..., : D // 2]), -1)
    return x * cos + rotated * sin


def block(p, prefix, x, c):
    B, T, d = x.shape
    H, G, D = c["heads"], c["kv_heads"], c["d"] // c["heads"]
    n = rms_norm(x, p.get(prefix + "input_layernorm.weight", d), c["eps"])
    q = (n @ p.get(prefix + "self_attn.q_proj.weight", H * D, d).T).view(B, T, H, D)
    k = (n @ p.get(prefix + "self_attn.k_proj.weight", G * D, d).T).view(B, T, G, D)
    v = (n @ p.get(prefix + "self_attn.v_proj.weight", G * D, d).T).view(B, T, G, D)
    if c["qk_norm"]:
        q = rms_norm(q, p.get(prefix + "self_attn.q_norm.weight", D), c["eps"])
        k = rms_norm(k, p.get(prefix + "self_attn.k_norm.weight", D), c["eps"])
    q, k = rope(q, c["theta"]).transpose(1, 2), rope(k, c["theta"]).transpose(1, 2)
    k, v = (t.repeat_interleave(H // G, 1) for t in (k, v.transpose(1, 2)))
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + a.transpose(1, 2).reshape(B, T, H * D) @ p.get(prefix + "self_attn.o_proj.weight", d, H * D).T
    n = rms_norm(x, p.get(prefix + "post_attention_layernorm.weight", d), c["eps"])
    gate = n @ p.get(prefix + "mlp.gate_proj.weight", c["ffn"], d).T
    up = n @ p.get(prefix + "mlp.up_proj.weight", c["ffn"], d).T
    return x + (F.silu(gate) * up) @ p.get(prefix + "mlp.down_proj.weight", d, c["ffn"]).T


def boundary(p, i, x, c):
    """Residual bottleneck, identity truncate, codec f32."""
    d, k, m = c["d"], c["k"], c["hidden"]
    e, r = f"boundary.{i}.encoder.", f"boundary.{i}.decoder."
    n = rms_norm(x, p.get(e + "norm.weight", d), c["eps"])
    z = F.silu(n @ p.get(e + "fc1.weight", m, d).T) @ p.get(e + "fc2.weight", k, m).T + x[..., :k]
    y = F.silu(z @ p.get(r + "fc1.weight", m, k).T) @ p.get(r + "fc2.weight", d, m).T
    return y + F.pad(z, (0, d - k))


def model(p, tokens, c):
    per_segment = c["layers"] // c["segments"]
    x = p.get("model.embed_tokens.weight", c["vocab"], c["d"])[tokens]
    for layer in range(c["layers"]):
        x = block(p, f"model.layers.{layer}.", x, c)
        if (layer + 1) % per_segment == 0 and layer + 1 < c["layers"]:
            x = boundary(p, layer // per_segment, x, c)
    x = rms_norm(x, p.get("model.norm.weight", c["d"]), c["eps"])
    head = "model.embed_tokens.weight" if c["tied"] else "lm_head.weight"
    return x @ p.get(head, c["vocab"], c["d"]).T


def config_record(c):
    keys = "B T d layers heads kv_heads ffn vocab segments k hidden qk_norm tied theta eps".split()
    return "config", [float(c[key]) for key in keys]


def write_records(file, records):
    with open(pathlib.Path(__file__).with_name(file), "wb") as f:
        for key, values in records:
            f.write(struct.pack("<I", len(key)) + key.encode())
            f.write(struct.pack(f"<I{len(values)}f", len(values), *values))


def write(name, c):
    tokens = (weight("tokens", (c["B"], c["T"] + 1)) * 1e6).long().abs() % c["vocab"]
    p = Params()
    logits = model(p, tokens[:, :-1], c)
    loss = F.cross_entropy(logits.reshape(-1, c["vocab"]), tokens[:, 1:].reshape(-1))
    loss.backward()
    records = [config_record(c), ("tokens", tokens.flatten().tolist()), ("loss", [loss.item()])]
    records += [(key, value.grad.flatten().tolist()) for key, value in p.items()]
    write_records(f"model_{name}.golden", records)


BASE = dict(B=2, T=12, d=32, layers=2, heads=4, kv_heads=4, ffn=40, vocab=29, segments=1, k=8, hidden=16,
            qk_norm=False, tied=False, theta=10000.0, eps=2.0**-16)

if __name__ == "__main__":
    write("plain", dict(BASE, layers=1))
    write("gqa_qknorm_tied", dict(BASE, layers=1, kv_heads=2, qk_norm=True, tied=True))
    write("three_segments", dict(BASE, layers=3, segments=3, kv_heads=2))
