"""A run's whole model in one process: what resbm.torch.Llama and resbm.hf have in common.

Legend: B sequences, T positions, d width, k latent width, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Block, RMSNorm
from .crossing import Position
from .kinds import Boundary, Fixed, Pass, basis, fixed_embedding
from .run_config import RunConfig


class Embedding(nn.Embedding):
    """The model's table; with kind subspace its rows keep a fixed part."""

    def __init__(self, vocab: int, d: int) -> None:
        super().__init__(vocab, d)
        self.register_buffer("fixed", None, persistent=False)


class Stack(nn.Module):
    """Embedding, blocks, final norm. Head and boundaries are not in it: they have names beside it."""

    def __init__(self, c: RunConfig) -> None:
        super().__init__()
        self.run = c
        self.embed_tokens = Embedding(c.vocab, c.d)
        self.layers = nn.ModuleList(
            Block(c.d, c.heads, c.kv_heads, c.ffn, c.eps, c.qk_norm, c.head, c.qkv_bias) for _ in range(c.layers)
        )
        self.norm = RMSNorm(c.d, c.eps)

    def hidden(self, ids: Tensor, run: Pass, boundaries: nn.ModuleDict) -> tuple[Tensor, list[Tensor]]:
        """(stream (B,T,d) before the final norm, auxiliary losses) of ids (B,T)."""
        c, aux = self.run, []
        x = self.embed_tokens(ids)
        cos, sin = run.angles(c.rope, c.head, x)
        for s, count in enumerate(c.segments):
            first = c.first_layer(s)
            for i in range(first, first + count):
                begun = c.inside and s > 0 and i == first  # before the boundary
                x = self._block(i).mlp_half(x) if begun else self.layers[i](x, cos, sin, run.attend(i))
            if s + 1 < len(c.segments):
                if c.inside:
                    x = self._block(first + count).attention_half(x, cos, sin, run.attend(first + count))
                x, a = boundaries[str(s)](x, ids, run)
                aux += [a] if a is not None else []
        return x, aux

    def _block(self, i: int) -> Block:
        return cast(Block, self.layers[i])

    def logits(self, x: Tensor, head: nn.Linear | None) -> Tensor:
        """(B,T,V) of the stream (B,T,d); head None: the table's, tied."""
        return F.linear(self.norm(x), self.embed_tokens.weight if head is None else head.weight)


def boundaries(c: RunConfig, position: Position) -> nn.ModuleDict:
    """All of a run's, by their numbers."""
    return nn.ModuleDict({str(i): Boundary(c, i, position) for i in range(len(c.segments) - 1)})


def head(c: RunConfig) -> nn.Linear | None:
    """None where it is the table."""
    return None if c.tied else nn.Linear(c.d, c.vocab, bias=False)


def halves(boundary: nn.ModuleDict) -> list[Boundary]:
    """Its members, as what they are."""
    return cast("list[Boundary]", list(boundary.values()))


def has_subspace(c: RunConfig) -> bool:
    """Whether boundaries hold a fixed basis, which is in no checkpoint."""
    return c.kind == "subspace" and len(c.segments) > 1


def lay_subspace(model: Stack, boundary: nn.ModuleDict) -> Tensor:
    """Gives all halves what follows from the seed, where the weights are: the basis (k,d), given back, and F (V,d)."""
    device = model.embed_tokens.weight.device
    b = basis(model.run)
    fixed = fixed_embedding(model.run, b).to(device)
    b = b.to(device)
    for half in halves(boundary):
        half.encoder.basis = half.decoder.basis = b
        half.decoder.embed_tokens = Fixed(fixed)
    model.embed_tokens.fixed = fixed
    return b
