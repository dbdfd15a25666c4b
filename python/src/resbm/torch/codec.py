"""The transport codec on tensors: CPU tensors go through libresbm without copies, CUDA tensors through Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _native
from .._native import CodecError
from . import reference

NAMES = ("f32", "bf16", "int8", "int4")
FORWARD, BACKWARD = 0, 1

__all__ = ["BACKWARD", "FORWARD", "NAMES", "Codec", "CodecError"]


class Codec:
    """One named codec in one direction.

    Forward rounds to nearest with one scale per token, or with learned steps (k) where they are given (they cost no
    bytes). Backward rounds stochastically with one scale per 64 values; its random bits depend on seed, boundary, step
    and the number of the sequence, never on the rank or the microbatch.

    Args:
        name: f32, bf16, int8 or int4.
        direction: FORWARD or BACKWARD.
        boundary: number of the boundary, from 0.
        seed: of the run.
    """

    def __init__(self, name: str, direction: int = FORWARD, *, boundary: int = 0, seed: int = 0) -> None:
        if name not in NAMES:
            raise ValueError(f"codec {name!r}: there are {', '.join(NAMES)}")
        self.name, self.direction, self.boundary, self.seed = name, direction, boundary, seed
        self._native = _native.Handle(name, direction, seed, boundary)

    @property
    def integers(self) -> bool:
        """Whether it has codes and scales (int8, int4)."""
        return self.name in reference.QMAX

    @property
    def learns(self) -> bool:
        """Whether it can use learned steps."""
        return self.integers and self.direction == FORWARD

    def scale(self, steps: Tensor | None = None) -> str:
        """Name of the scale in the layout: none, step, token or group."""
        if not self.integers:
            return "none"
        return "group" if self.direction else "token" if steps is None else "step"

    def packed_bytes(self, shape: tuple[int, int, int], steps: Tensor | None = None) -> int:
        """Exact length in bytes of a packed (B,T,k)."""
        return reference.packed_bytes(self.name, self.scale(steps), *shape)

    def pack(self, x: Tensor, *, step: int = 0, sequence: int = 0, steps: Tensor | None = None) -> Tensor:
        """Bytes (u8, 1-D, on x's device) of x (B,T,k).

        Args:
            x: f32, bf16 or f16; numbers that are not finite unpack to NaN.
            step: number of the training step; keys the random bits.
            sequence: number of x's first sequence in the run's order; keys the random bits.
            steps: (k) learned steps.
        """
        x = _values(x)
        if x.is_cuda:
            from . import triton_codec

            return triton_codec.pack(self, x, step, sequence, steps)
        shape = _shape(x)
        self._set(steps)
        out = torch.empty(self._native.packed_bytes(*shape), dtype=torch.uint8)
        self._native.pack(x.data_ptr(), shape, step, sequence, out.data_ptr(), out.numel())
        return out

    def unpack(
        self,
        data: Tensor,
        shape: tuple[int, int, int],
        *,
        steps: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """(B,T,k) f32 from bytes (u8, 1-D); into `out` (f32, contiguous) where it is given."""
        x = torch.empty(shape, dtype=torch.float32, device=data.device) if out is None else out
        if x.dtype != torch.float32 or not x.is_contiguous() or x.numel() != shape[0] * shape[1] * shape[2]:
            raise CodecError(f"unpack: out is {tuple(x.shape)} {x.dtype}, it must be a contiguous f32 {shape}")
        if data.is_cuda:
            from . import triton_codec

            return triton_codec.unpack(self, data, shape, steps, x)
        data = data.contiguous()
        self._set(steps)
        self._native.unpack(data.data_ptr(), data.numel(), shape, x.data_ptr())
        return x

    def add_code_sums(self, sums: Tensor, data: Tensor, shape: tuple[int, int, int], steps: Tensor) -> None:
        """Sums (k) i64, on data's device, += squares of the codes per coordinate; what both ends see alike."""
        if data.is_cuda:
            from . import triton_codec

            sums += triton_codec.code_sums(self, data, shape)
            return
        data = data.contiguous()
        self._set(steps)
        self._native.code_sums(data.data_ptr(), data.numel(), shape, sums.data_ptr())

    def update_steps(self, steps: Tensor, sums: Tensor, tokens: int, updates: int) -> None:
        """New learned steps (k), in place, from sums over `tokens` tokens; updates: how many came before."""
        host, sums = steps.detach().to("cpu", torch.float32).contiguous(), sums.cpu()
        self._native.steps_update(host.data_ptr(), sums.data_ptr(), host.numel(), tokens, updates)
        with torch.no_grad():
            steps.copy_(host)

    def _set(self, steps: Tensor | None) -> None:
        if not self.learns:
            return
        if steps is None:
            self._native.steps(0, 0)
            return
        host = steps.detach().to("cpu", torch.float32).contiguous()
        self._native.steps(host.data_ptr(), host.numel())


def _values(x: Tensor) -> Tensor:
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        hint = "convert it first: x.float()" if x.is_floating_point() else "it must be a floating-point tensor"
        raise CodecError(f"the codec takes f32, bf16 or f16, not {str(x.dtype).removeprefix('torch.')}; {hint}")
    return x.detach().to(torch.float32).contiguous()


def _shape(x: Tensor) -> tuple[int, int, int]:
    if x.dim() != 3:
        raise CodecError(f"the codec takes (B,T,k), not a tensor of {x.dim()} dimensions {tuple(x.shape)}")
    return x.shape[0], x.shape[1], x.shape[2]
