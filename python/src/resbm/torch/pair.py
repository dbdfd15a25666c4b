"""The two codecs of a boundary, the learned steps that follow what crossed, and the crossing in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .codec import Codec

Shape = tuple[int, int, int]


class CodecPair:
    """What holds a boundary's codecs of both directions, which :meth:`_open` makes.

    They stand for handles of the C library: a copy or a pickle of the holder leaves them out and opens its own.

    Args:
        k: latent width.
        scale: "step" or "token", for integer latents.
    """

    _forward: Codec | None
    _backward: Codec | None

    def __init__(self, k: int, scale: str) -> None:
        self.k, self.scale = k, scale
        self._sums: Tensor | None = None  # (k) squares of the codes of this step
        self._counted = 0  # tokens whose codes are in the sums
        self._open()

    def _open(self) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_forward", "_backward")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @property
    def learns(self) -> bool:
        """Whether latents are packed with learned steps."""
        return self._forward is not None and self._forward.learns and self.scale == "step"

    def count(self, data: Tensor, shape: Shape, steps: Tensor | None) -> None:
        """Add the codes of a message of latents (B,T,n), n <= k, to the sums that the learned steps will follow."""
        if not self.learns or steps is None:
            return
        assert self._forward is not None
        if self._sums is None:
            self._sums = torch.zeros(self.k, dtype=torch.int64, device=data.device)
        self._forward.add_code_sums(self._sums[: shape[2]], data, shape, steps)
        self._counted += shape[0] * shape[1]

    def follow(self, update: int, live: int, *steps: Tensor | None) -> None:
        """A step is over: the first `live` learned steps of the ends that are here follow; update: steps before it."""
        if self._counted and self._sums is not None and self._forward is not None:
            for s in steps:
                if s is not None:
                    self._forward.update_steps(s[:live], self._sums[:live], self._counted, update)
            self._sums.zero_()
        self._counted = 0


class _Cross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, q: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back, ctx.dtype = back, z.dtype
        return q.to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return ctx.back(grads[0]).to(ctx.dtype), None, None


def straight_through(z: Tensor, q: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """q (B,T,k) in z's dtype, whose gradient, rounded by `back`, becomes the gradient of z (B,T,k)."""
    out: Tensor = _Cross.apply(z, q, back)
    return out
