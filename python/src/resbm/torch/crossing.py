"""What a boundary's wire does to latents and gradients of any kind of run, both ends in one process.

Same bits as between two stages of the C program: codec, learned steps, groups, latents that no longer cross
(boundary.anneal_from). Legend: B sequences, T positions, k latent width, d width of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _native
from . import codec as names
from . import reference
from .codec import BACKWARD, FORWARD, Codec
from .pair import CodecPair, Shape, straight_through
from .run_config import RunConfig


class _HostCodec(Codec):
    """The codecs that have host code alone: int2 and int1."""

    def __init__(self, name: str, direction: int, *, boundary: int, seed: int) -> None:
        self.name, self.direction, self.boundary, self.seed = name, direction, boundary, seed
        self._native = _native.Handle(name, direction, seed, boundary)

    @property
    def integers(self) -> bool:
        """They have codes and scales."""
        return True

    def pack(self, x: Tensor, *, step: int = 0, sequence: int = 0, steps: Tensor | None = None) -> Tensor:
        """Bytes (u8, 1-D, on the CPU) of x (B,T,k)."""
        return super().pack(x.cpu(), step=step, sequence=sequence, steps=steps)


def _codec(name: str, direction: int, boundary: int, seed: int) -> Codec:
    make = Codec if name in names.NAMES else _HostCodec
    return make(name, direction, boundary=boundary, seed=seed)


@dataclass
class Position:
    """Where in the run a model is: steps done, number of the next sequence, sequences of this step so far."""

    step: int = 0
    sequence: int = 0
    in_step: int = 0


class Wire(CodecPair):
    """The codecs of boundary `index` of a run."""

    _forward: Codec
    _backward: Codec

    def __init__(self, config: RunConfig, index: int, position: Position) -> None:
        self.config, self.index, self.position = config, index, position
        self.group = int(config.boundary.get("group_bwd", 64))
        self.stochastic = config.word("rounding_bwd", "stochastic") == "stochastic"
        super().__init__(config.k, config.scale)

    def _open(self) -> None:
        self._forward = _codec(self.config.codec("fwd"), FORWARD, self.index, self.config.seed)
        self._backward = _codec(self.config.codec("bwd"), BACKWARD, self.index, self.config.seed)
        plain = self.group == 64 and self.stochastic
        if self._backward.integers and not plain and self._backward.name not in reference.QMAX:
            raise ValueError(
                f"boundary.codec_bwd {self._backward.name} with group_bwd {self.group} and rounding_bwd "
                f"{self.config.word('rounding_bwd')}: in PyTorch int2 and int1 go with group_bwd 64 and stochastic only"
            )

    def live(self, training: bool) -> int:
        """Latents that cross in the present step, or, outside training, that crossed in the step before."""
        return self.config.live(self.position.step - (not training))

    def forward(self, z: Tensor, steps: Tensor | None, count: bool) -> Tensor:
        """q (B,T,k) f32 of latents z (B,T,k) as the receiver gets them. count: the learned steps will follow."""
        live = self.live(count)
        x, s = z[..., :live], steps[:live] if steps is not None and self.learns else None
        shape: Shape = (x.shape[0], x.shape[1], live)
        data = self._forward.pack(x, steps=s)
        if count and s is not None:
            self.count(data, shape, s)
        q = self._forward.unpack(data, shape, steps=s).to(z.device)
        return F.pad(q, (0, z.shape[2] - live))

    def backward(self, g: Tensor, step: int, sequence: int) -> Tensor:
        """The gradient (B,T,k) f32 as the sender gets it."""
        live = self.config.live(step)
        x = g[..., :live].float().contiguous()
        if self._backward.integers and not (self.group == 64 and self.stochastic):
            q = self._by_groups(x, step, sequence)
        else:
            data = self._backward.pack(x, step=step, sequence=sequence)
            q = self._backward.unpack(data, (x.shape[0], x.shape[1], live))
        return F.pad(q.to(g.device), (0, g.shape[2] - live))

    def _by_groups(self, x: Tensor, step: int, sequence: int) -> Tensor:
        """Groups of another length are tokens of that length: the same units, the same random bits."""
        b, n = x.shape[0], x.shape[1] * x.shape[2]
        units = (n + self.group - 1) // self.group
        v = F.pad(x.reshape(b, n), (0, units * self.group - n)).view(b, units, self.group)
        key: dict[str, Any] = dict(
            stochastic=self.stochastic, seed=self.config.seed, step=step, sequence=sequence, boundary=self.index,
            direction=BACKWARD,
        )  # fmt: skip
        data = reference.pack(v, self._backward.name, "token", **key)
        q = reference.unpack(data, (b, units, self.group), self._backward.name, "token")
        return q.reshape(b, -1)[:, :n].reshape(x.shape)

    def end_step(self, *steps: Tensor | None) -> None:
        """The learned steps of both ends follow what crossed in the step that is over."""
        self.follow(self.position.step, self.live(True), *steps)


class _Bf16(torch.autograd.Function):
    """Rounded to bf16 both ways."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Tensor:
        g: Tensor = grads[0]
        return g.to(torch.bfloat16).to(g.dtype)


def cross(z: Tensor, steps: Tensor | None, wire: Wire, count: bool) -> tuple[Tensor, Tensor]:
    """(q with the packed gradient behind it, q as values alone) of latents z (B,T,k)."""
    q = wire.forward(z.detach(), steps, count)
    at = wire.position
    back = partial(wire.backward, step=at.step, sequence=at.sequence)
    return straight_through(z, q, back), q


def cross_identity(x: Tensor) -> Tensor:
    """Identity coordinates (B,T,w), which cross in bf16."""
    out: Tensor = _Bf16.apply(x)
    return out


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and places (B,T,k) of each token's k largest coordinates, largest first, the first of equals first."""
    place = torch.sort(x.abs(), dim=-1, descending=True, stable=True).indices[..., :k]
    return x.gather(-1, place), place


class _TopK(torch.autograd.Function):
    """The k largest coordinates of x (B,T,d), and of the gradient with what is left from the step before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Tensor | None, residue: Tensor | None, wire: Wire, count: bool) -> Tensor:
        at = wire.position
        ctx.wire, ctx.step, ctx.sequence, ctx.row, ctx.residue = wire, at.step, at.sequence, at.in_step, residue
        z, place = largest(x, wire.config.k)
        q = wire.forward(z, steps, count)
        return torch.zeros_like(x).scatter_(-1, place, q.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        a: Tensor = grads[0].float()
        b, t, d = a.shape
        rows = slice(ctx.row * t, (ctx.row + b) * t)
        if ctx.residue is not None:
            a = a + ctx.residue[rows].view(b, t, d)
        z, place = largest(a, ctx.wire.config.k)
        if ctx.residue is not None:
            ctx.residue[rows] = a.scatter(-1, place, 0.0).view(b * t, d)
        g = ctx.wire.backward(z, ctx.step, ctx.sequence)
        return torch.zeros_like(a).scatter_(-1, place, g).to(grads[0].dtype), None, None, None, None


def cross_largest(x: Tensor, steps: Tensor | None, residue: Tensor | None, wire: Wire, count: bool) -> Tensor:
    """y (B,T,d) of x (B,T,d); residue (rows,d) is error feedback, changed by the backward pass."""
    out: Tensor = _TopK.apply(x, steps, residue, wire, count)
    return out
