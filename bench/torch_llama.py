"""The peer: the same Llama in plain PyTorch, eager mode, trained with torch.optim.Muon and AdamW.

    torch_llama.py D LAYERS HEADS FFN VOCAB CONTEXT BATCH THREADS STEPS

Prints one JSON object: seconds of each step (forward, backward, optimizer), of forward and backward alone, peak RSS.
"""

import json
import resource
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-5)


def rotate(x, cos, sin):  # (B,H,T,D)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Block(nn.Module):
    def __init__(self, d, heads, ffn, kv_heads=None):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.n1, self.n2 = RMSNorm(d), RMSNorm(d)
        self.q, self.o = (nn.Linear(d, d, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(d, d // heads * self.kv_heads, bias=False) for _ in range(2))
        self.gate, self.up = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False)
        self.down = nn.Linear(ffn, d, bias=False)

    def forward(self, x, cos, sin):
        B, T, d = x.shape
        h = self.n1(x)
        q = self.q(h).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = (p(h).view(B, T, self.kv_heads, -1).transpose(1, 2) for p in (self.k, self.v))
        grouped = {"enable_gqa": True} if self.kv_heads < self.heads else {}
        a = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True, **grouped)
        x = x + self.o(a.transpose(1, 2).reshape(B, T, d))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Llama(nn.Module):
    def __init__(self, d, layers, heads, ffn, vocab, context, first=True, last=True, kv_heads=None):
        super().__init__()
        self.embed = nn.Embedding(vocab, d) if first else None
        self.blocks = nn.ModuleList(Block(d, heads, ffn, kv_heads) for _ in range(layers))
        self.norm = RMSNorm(d) if last else None
        self.head = nn.Linear(d, vocab, bias=False) if last else None
        D = d // heads
        angle = torch.outer(torch.arange(context), 500000.0 ** (-torch.arange(0, D, 2) / D))
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, x):
        if self.embed is not None:
            x = self.embed(x)
        for b in self.blocks:
            x = b(x, self.cos, self.sin)
        return self.head(self.norm(x)) if self.head is not None else x


def optimizers(model):
    """Muon for the blocks' matrices, AdamW for the rest, as resbm deals them out."""
    muon = [p for n, p in model.named_parameters() if p.dim() == 2 and n.startswith("blocks")]
    rest = [p for n, p in model.named_parameters() if not (p.dim() == 2 and n.startswith("blocks"))]
    return [torch.optim.Muon(muon, lr=0.02, weight_decay=0.0), torch.optim.AdamW(rest, lr=0.002, weight_decay=0.0)]


def main():
    d, layers, heads, ffn, vocab, context, batch, threads, steps = map(int, sys.argv[1:10])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Llama(d, layers, heads, ffn, vocab, context)
    opts = optimizers(model)
    ids = torch.randint(vocab, (batch, context + 1))
    whole, pass_only = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        for o in opts:
            o.zero_grad()
        loss = F.cross_entropy(model(ids[:, :-1]).view(-1, vocab), ids[:, 1:].reshape(-1))
        loss.backward()
        loss.item()
        pass_only.append(time.perf_counter() - begin)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        whole.append(time.perf_counter() - begin)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"step_s": whole, "pass_s": pass_only, "rss": rss}))


if __name__ == "__main__":
    main()
