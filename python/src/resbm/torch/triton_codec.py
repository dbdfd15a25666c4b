"""The codec as Triton kernels for CUDA tensors: the same bytes as libresbm's, bit for bit.

Layout and arithmetic are those of src/device/pack_layout.h; resbm/torch/reference.py says them in plain PyTorch. One
launch finds the scales (a program per row of a few), one packs (a program per block of bytes), one unpacks. Divisions
are IEEE (div_rn), rounding to nearest adds and subtracts 1.5 * 2^23, random bits come from Philox4x32-10 by position;
so a kernel's bits do not depend on block sizes. Nothing here waits for the device.

Tested in Triton's interpreter (TRITON_INTERPRET=1, where it takes CPU tensors) against libresbm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference

if TYPE_CHECKING:
    from .codec import Codec

Shape = tuple[int, int, int]

BLOCK = 256  # bytes, or values, of one program
_UNITS = 16  # scales of one program
_MOST = 256  # values of a unit looked at together
_NAN16 = tl.constexpr(0x7FC0)
_NAN32 = tl.constexpr(0x7FC00000)
_INF32 = tl.constexpr(0x7F800000)
_HUGE32 = tl.constexpr(0x7F000000)  # 2^127
_TINY32 = tl.constexpr(0x0D800000)  # 2^-100, smallest largest value and learned step
_TOP32 = tl.constexpr(0x71800000)  # 2^100, largest learned step
_ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds half to even


@triton.jit
def _units_kernel(x, out, n, row_bytes, length, units, QMAX: tl.constexpr, UNITS: tl.constexpr, MOST: tl.constexpr):
    """The scales of sequence program_id(0): largest |x| of `length` values each, as bf16 words."""
    b = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    top = tl.zeros((UNITS,), tl.int32)
    for at in range(0, length, MOST):
        within = at + tl.arange(0, MOST)
        idx = unit[:, None] * length + within[None, :]
        here = (unit[:, None] < units) & (within[None, :] < length) & (idx < n)
        bits = tl.load(x + b * n + idx, mask=here, other=0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        top = tl.maximum(top, tl.max(bits, 1))
    ratio = tl.div_rn(top.to(tl.float32, bitcast=True), tl.full((UNITS,), QMAX, tl.float32))
    word = (ratio.to(tl.int32, bitcast=True) + 0xFFFF) >> 16
    word = tl.where(word < 0x7F80, word, _NAN16)
    word = tl.where(top < _TINY32, 0, word)
    word = tl.where(top >= _HUGE32, _NAN16, word)
    to = out + b * row_bytes + 2 * unit
    tl.store(to, (word & 255).to(tl.uint8), mask=unit < units)
    tl.store(to + 1, (word >> 8).to(tl.uint8), mask=unit < units)


@triton.jit
def _philox(block, low, high, stream, k0, k1):
    """Four words (u32) of the counter; tl.philox_impl with scalars made tensors of `block`'s shape."""
    zero = block & 0
    return tl.philox_impl(block, zero + low, zero + high, zero + stream, k0, k1, 10)


@triton.jit
def _code(x, unit, h, STEP: tl.constexpr, QMAX: tl.constexpr, STOCHASTIC: tl.constexpr):
    """Codes (i32) of values x whose units are `unit` (f32; steps, or scales: 0 and NaN among them); h: random bits."""
    size = unit.to(tl.int32, bitcast=True)
    if STEP:
        usable = (size >= _TINY32) & (size <= _TOP32)
    else:
        usable = (size > 0) & (size < _INF32)
    one = tl.full(unit.shape, 1.0, tl.float32)
    inverse = tl.where(usable, tl.div_rn(one, tl.where(usable, unit, one)), 0.0)
    finite = (x.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < _INF32
    t = tl.where(finite, x, 0.0) * inverse
    t = tl.minimum(tl.maximum(t, -QMAX * 1.0), QMAX * 1.0)
    if STOCHASTIC:
        q = tl.floor(t + (h.to(tl.int32).to(tl.float32) + 0.5) * 0.0000152587890625)
    else:
        q = (t + _ROUND) - _ROUND
    if STEP:
        return tl.where(finite & usable, q.to(tl.int32), -QMAX - 1)  # an unusable step is seen as NaN by the receiver
    return tl.where(finite, q.to(tl.int32), 0)


@triton.jit
def _unit_at(scales, steps, idx, here, length, k, STEP: tl.constexpr):
    """Units (f32) of the values idx: from the sequence's scales at `scales`, or the learned steps."""
    if STEP:
        return tl.load(steps + idx % k, mask=here, other=1.0)
    at = scales + 2 * (idx // length)
    low, high = tl.load(at, mask=here, other=0), tl.load(at + 1, mask=here, other=0)
    word = low.to(tl.int32) | high.to(tl.int32) << 8
    word = tl.where((word & 0x7F80) == 0x7F80, _NAN16, word)
    return (word << 16).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["stream", "key0", "key1", "low", "high"])
def _pack_kernel(
    x, out, steps, n, k, row_bytes, scale_bytes, length, stream, key0, key1, low, high,
    BITS: tl.constexpr, QMAX: tl.constexpr, STEP: tl.constexpr, STOCHASTIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Codes of sequence program_id(0): BLOCK bytes, one or two values each."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row = out + b * row_bytes
    even = j * 2 if BITS == 4 else j
    here = even < n
    h = j.to(tl.uint32)
    if STOCHASTIC:
        first = low.to(tl.uint32)
        number = first + b.to(tl.uint32)
        carry = (number < first).to(tl.uint32)
        pair = (even // 2).to(tl.uint32)  # two values share a word, four words a counter
        w0, w1, w2, w3 = _philox(
            pair // 4, number, high.to(tl.uint32) + carry, stream.to(tl.uint32), key0.to(tl.uint32), key1.to(tl.uint32)
        )
        which = pair % 4
        h = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
    v = tl.load(x + b * n + even, mask=here, other=0.0)
    u = _unit_at(row, steps, even, here, length, k, STEP)
    if BITS == 4:
        odd, also = even + 1, even + 1 < n
        v1 = tl.load(x + b * n + odd, mask=also, other=0.0)
        u1 = _unit_at(row, steps, odd, also, length, k, STEP)
        q = _code(v, u, h & 0xFFFF, STEP, QMAX, STOCHASTIC) & 15
        q1 = tl.where(also, _code(v1, u1, h >> 16, STEP, QMAX, STOCHASTIC) & 15, 0)
        byte = q | q1 << 4
    else:
        half = tl.where(even % 2 == 0, h & 0xFFFF, h >> 16)
        byte = _code(v, u, half, STEP, QMAX, STOCHASTIC) & 255
    tl.store(row + scale_bytes + j, byte.to(tl.uint8), mask=here)


@triton.jit
def _unpack_kernel(
    data, x, steps, n, k, row_bytes, scale_bytes, length,
    BITS: tl.constexpr, QMAX: tl.constexpr, STEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK values of sequence program_id(0); bytes are not trusted: what is not finite becomes the one NaN."""
    b = tl.program_id(0).to(tl.int64)
    idx = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    here, row = idx < n, data + b * row_bytes
    if BITS == 4:
        byte = tl.load(row + scale_bytes + idx // 2, mask=here, other=0).to(tl.int32)
        q = tl.where(idx % 2 == 0, byte & 15, byte >> 4)
    else:
        q = tl.load(row + scale_bytes + idx, mask=here, other=0).to(tl.int32)
    q = tl.where(q > QMAX, q - 2 * (QMAX + 1), q)
    unit = _unit_at(row, steps, idx, here, length, k, STEP)
    bad = (q < -QMAX) | ((unit.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >= _INF32)
    value = (q.to(tl.float32) * unit).to(tl.int32, bitcast=True)
    tl.store(x + b * n + idx, tl.where(bad, _NAN32, value).to(tl.float32, bitcast=True), mask=here)


@triton.jit
def _to_bf16_kernel(x, out, count, BLOCK: tl.constexpr):
    """Bf16 words of f32 numbers, rounded to nearest even; a NaN stays one."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(x + i, mask=i < count, other=0.0).to(tl.uint32, bitcast=True)
    word = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    word = tl.where((u & 0x7FFFFFFF) > _INF32, (u >> 16) | 0x40, word)
    tl.store(out + i, word.to(tl.int16), mask=i < count)


def _row(codec: Codec, scale: str, t: int, k: int) -> tuple[int, int, int]:
    """Bytes of a sequence, bytes of its scales, values that share one."""
    length = k if scale == "token" else reference.GROUP
    scales = 0 if scale in ("none", "step") else 2 * ((t * k + length - 1) // length)
    return reference.packed_bytes(codec.name, scale, 1, t, k), scales, length


def _i32(word: int) -> int:
    """Its low 32 bits, signed: always the same type of argument, so that one compiled kernel serves all."""
    return (word + (1 << 31) & 0xFFFFFFFF) - (1 << 31)


def _constants(codec: Codec) -> dict[str, Any]:
    return dict(BITS=8 if codec.name == "int8" else 4, QMAX=reference.QMAX[codec.name], BLOCK=BLOCK)


def pack(codec: Codec, x: Tensor, step: int, sequence: int, steps: Tensor | None) -> Tensor:
    """Bytes (u8, 1-D) of x (B,T,k) f32, contiguous; arguments as of :meth:`Codec.pack`."""
    b, t, k = x.shape
    n = t * k
    if codec.name == "f32":
        return x.flatten().view(torch.uint8).clone()
    if codec.name == "bf16":
        halves = torch.empty(b * n, dtype=torch.int16, device=x.device)
        _to_bf16_kernel[(triton.cdiv(b * n, BLOCK),)](x, halves, b * n, BLOCK=BLOCK)
        return halves.view(torch.uint8)
    scale, learned = codec.scale(steps), _learned(codec, steps, x)
    row, scales, length = _row(codec, scale, t, k)
    out = torch.empty(b * row, dtype=torch.uint8, device=x.device)
    made = _constants(codec)
    if scales:
        grid = (b, triton.cdiv(scales // 2, _UNITS))
        _units_kernel[grid](x, out, n, row, length, scales // 2, made["QMAX"], UNITS=_UNITS, MOST=_MOST)
    key = reference.mix64(codec.seed & (1 << 64) - 1, step)
    words = (key, key >> 32, sequence, sequence >> 32)
    _pack_kernel[(b, triton.cdiv(row - scales, BLOCK))](
        x, out, learned, n, k, row, scales, length, codec.boundary << 1 | codec.direction, *map(_i32, words),
        STEP=scale == "step", STOCHASTIC=codec.direction == 1, **made,
    )  # fmt: skip
    return out


def unpack(codec: Codec, data: Tensor, shape: Shape, steps: Tensor | None, x: Tensor) -> Tensor:
    """X (B,T,k) f32, contiguous, filled from `data` (u8, 1-D)."""
    b, t, k = shape
    n = t * k
    data = data.contiguous()
    if codec.name == "f32":
        x.view(-1).view(torch.uint8).copy_(data)
        return x
    if codec.name == "bf16":
        x.view(-1).view(torch.int32).copy_(data.view(torch.int16).to(torch.int32) << 16)
        return x
    scale, learned = codec.scale(steps), _learned(codec, steps, x)
    row, scales, length = _row(codec, scale, t, k)
    _unpack_kernel[(b, triton.cdiv(n, BLOCK))](
        data, x, learned, n, k, row, scales, length, STEP=scale == "step", **_constants(codec)
    )
    return x


def code_sums(codec: Codec, data: Tensor, shape: Shape) -> Tensor:
    """(k) i64 sums of squares of each coordinate's codes, of bytes packed with learned steps, on their device."""
    b, t, k = shape
    q = data.view(b, -1).to(torch.int64)
    if codec.name == "int4":
        q = torch.stack((q & 15, q >> 4), -1).flatten(1)[:, : t * k]
    qmax = reference.QMAX[codec.name]
    q = torch.where(q > qmax, q - 2 * (qmax + 1), q)
    return q.square().view(b * t, k).sum(0)


def _learned(codec: Codec, steps: Tensor | None, like: Tensor) -> Tensor:
    """The steps as the kernels take them; where there are none, any tensor that will not be read."""
    if steps is None or not codec.learns:
        return like
    return steps.detach().to(like.device, torch.float32).contiguous()
