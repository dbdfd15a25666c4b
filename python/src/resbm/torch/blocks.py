"""Llama's parts as the C program computes them (src/nn/): RMSNorm, rotary embedding, one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Attention in place of the causal one over the tokens at hand: (B,H,T,D), (B,G,T,D) twice -> (B,H,T,D).
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * w over the last dimension."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


def rope_table(t: int, head: int, theta: float, like: Tensor, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (t, head/2) of the rotary angles, in like's dtype; angles in double."""
    inverse = theta ** (-torch.arange(0, head, 2, dtype=torch.float64, device=like.device) / head)
    angle = torch.outer(torch.arange(offset, offset + t, dtype=torch.float64, device=like.device), inverse)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B,H,T,D) with the pairs (i, i+D/2) rotated."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    """Causal attention with grouped key/value heads, names as Hugging Face's."""

    def __init__(
        self, d: int, heads: int, kv_heads: int, head: int, eps: float, qk_norm: bool, bias: bool = False
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head = heads, kv_heads, head
        self.q_proj = nn.Linear(d, heads * head, bias=bias)
        self.k_proj = nn.Linear(d, kv_heads * head, bias=bias)
        self.v_proj = nn.Linear(d, kv_heads * head, bias=bias)
        self.o_proj = nn.Linear(heads * head, d, bias=False)
        self.q_norm = RMSNorm(head, eps) if qk_norm else None
        self.k_norm = RMSNorm(head, eps) if qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend | None = None) -> Tensor:
        """(B,T,d) of x (B,T,d)."""
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head)
        k = self.k_proj(x).view(b, t, self.kv_heads, self.head)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.head).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q.transpose(1, 2), cos, sin), rotate(k.transpose(1, 2), cos, sin)
        if attend is not None:
            return cast(Tensor, self.o_proj(attend(q, k, v).transpose(1, 2).reshape(b, t, -1)))
        grouped = self.kv_heads != self.heads
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return cast(Tensor, self.o_proj(a.transpose(1, 2).reshape(b, t, -1)))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, d: int, ffn: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d, ffn, bias=False)
        self.up_proj = nn.Linear(d, ffn, bias=False)
        self.down_proj = nn.Linear(ffn, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B,T,d) of x (B,T,d)."""
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then + mlp(norm(.))."""

    def __init__(
        self,
        d: int,
        heads: int,
        kv_heads: int,
        ffn: int,
        eps: float,
        qk_norm: bool = False,
        head: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(d, eps)
        self.self_attn = Attention(d, heads, kv_heads, head or d // heads, eps, qk_norm, bias)
        self.post_attention_layernorm = RMSNorm(d, eps)
        self.mlp = MLP(d, ffn)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend | None = None) -> Tensor:
        """(B,T,d) of x (B,T,d); cos, sin (T,D/2), or (B,1,T,D/2) where positions differ between sequences."""
        return self.mlp_half(self.attention_half(x, cos, sin, attend))

    def attention_half(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend | None = None) -> Tensor:
        """x + attention(norm(x))."""
        return cast(Tensor, x + self.self_attn(self.input_layernorm(x), cos, sin, attend))

    def mlp_half(self, x: Tensor) -> Tensor:
        """x + mlp(norm(x)) of the first half's output."""
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))
