"""The codec's arithmetic said once more in plain PyTorch, any device, any size: what the fast ones are tested against.

Layout, roundings and words are those of src/device/pack_layout.h: n = T*k values of a sequence, idx in [0, n), a unit u
per token, per group of 64 or per coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 64
_M32 = 0xFFFFFFFF
_M64 = (1 << 64) - 1
_TINY, _HUGE_BITS, _NAN16 = 2.0**-100, 0x7F000000, 0x7FC0
QMAX = {"int8": 127, "int4": 7}
_BITS = {"f32": 32, "bf16": 16, "int8": 8, "int4": 4}


def splitmix(z: int) -> int:
    """SplitMix64's finaliser (core/rng.c)."""
    z = (z + 0x9E3779B97F4A7C15) & _M64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _M64
    return z ^ z >> 31


def mix64(a: int, b: int) -> int:
    """Two words into one well-spread key."""
    return splitmix(splitmix(a) ^ b)


def _philox(counter: list[Tensor], key: int) -> list[Tensor]:
    """Philox4x32-10 on 32-bit words kept in i64; products wrap and their bits are right all the same."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _M32, key >> 32
    for _ in range(10):
        p, q = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (q >> 32 & _M32) ^ c1 ^ k0, q & _M32, (p >> 32 & _M32) ^ c3 ^ k1, p & _M32
        k0, k1 = k0 + 0x9E3779B9 & _M32, k1 + 0xBB67AE85 & _M32
    return [c0, c1, c2, c3]


def random_bits(
    b: int, n: int, seed: int, step: int, sequence: int, boundary: int, direction: int, device: torch.device
) -> Tensor:
    """(b, n) the 16 random bits of each value, i64."""
    blocks = (n + 7) // 8
    number = [(sequence + i) & _M64 for i in range(b)]
    low = torch.tensor([s & _M32 for s in number], device=device)[:, None].expand(b, blocks)
    high = torch.tensor([s >> 32 for s in number], device=device)[:, None].expand(b, blocks)
    block = torch.arange(blocks, device=device).expand(b, blocks)
    stream = torch.full((b, blocks), boundary << 1 | direction, device=device)
    words = torch.stack(_philox([block, low, high, stream], mix64(seed, step)), -1)
    return torch.stack((words & 0xFFFF, words >> 16), -1).reshape(b, blocks * 8)[:, :n]


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int32).to(torch.int64) & _M32


def _from_bits(u: Tensor) -> Tensor:
    return torch.where(u >= 1 << 31, u - (1 << 32), u).to(torch.int32).view(torch.float32)


def _words(v: Tensor, size: int) -> Tensor:
    """(b, m) integers as (b, m*size) little-endian bytes."""
    shift = torch.arange(0, 8 * size, 8, device=v.device)
    return (v[..., None] >> shift & 255).to(torch.uint8).flatten(1)


def _integers(data: Tensor, size: int) -> Tensor:
    """The inverse of `_words`."""
    shift = torch.arange(0, 8 * size, 8, device=data.device)
    return (data.view(data.shape[0], -1, size).to(torch.int64) << shift).sum(-1)


def _pack_bf16(x: Tensor, h: Tensor | None) -> Tensor:
    u = _bits(x)
    nearest = u + 0x7FFF + (u >> 16 & 1) >> 16 & 0xFFFF
    nearest = torch.where(x.isnan(), u >> 16 | 0x40, nearest)
    return nearest if h is None else torch.where(x.isfinite(), u + h >> 16 & 0xFFFF, nearest)


def _unit_length(scale: str, k: int) -> int:
    return k if scale == "token" else int(scale.removeprefix("group") or GROUP)


def _unit_words(x: Tensor, length: int, qmax: int) -> Tensor:
    """(b, units) the scales as bf16 words, from (b, n)."""
    b, n = x.shape
    units = (n + length - 1) // length
    padded = torch.nn.functional.pad(_bits(x) & 0x7FFFFFFF, (0, units * length - n))
    top = padded.view(b, units, length).amax(-1)
    word = _bits(_from_bits(top) / qmax) + 0xFFFF >> 16
    word = torch.where(_from_bits(top) < _TINY, 0, word)
    return torch.where(top >= _HUGE_BITS, _NAN16, word)


def _unit_values(word: Tensor) -> Tensor:
    nan = word & 0x7F80 == 0x7F80
    return _from_bits(torch.where(nan, _NAN16, word) << 16)


def _codes(x: Tensor, inverse: Tensor, bad: int, qmax: int, h: Tensor | None) -> Tensor:
    t = (x * inverse).clamp(-qmax, qmax)
    q = t.round() if h is None else torch.floor(t + (h.to(torch.float32) + 0.5) * 2.0**-16)
    return torch.where(x.isfinite(), torch.where(t.isnan(), 0, q), bad).to(torch.int64)


def packed_bytes(code: str, scale: str, b: int, t: int, k: int) -> int:
    """Exact length of a packed (b,t,k). scale: none, token, step, or group (of 64; group32 of 32 ...)."""
    n = t * k
    scales = 0
    if scale not in ("none", "step"):
        length = _unit_length(scale, k)
        scales = 2 * ((n + length - 1) // length)
    return b * (scales + (n * _BITS[code] + 7) // 8)


def pack(
    x: Tensor,
    code: str,
    scale: str = "none",
    *,
    steps: Tensor | None = None,
    stochastic: bool = False,
    seed: int = 0,
    step: int = 0,
    sequence: int = 0,
    boundary: int = 0,
    direction: int = 0,
) -> Tensor:
    """Bytes (u8, one dimension) of x (B,T,k) f32."""
    b, t, k = x.shape
    v = x.reshape(b, t * k)
    h = (
        random_bits(b, t * k, seed, step, sequence, boundary, direction, x.device)
        if stochastic and code != "f32"
        else None
    )
    if code == "f32":
        return _words(_bits(v), 4).flatten()
    if code == "bf16":
        return _words(_pack_bf16(v, h), 2).flatten()
    qmax = QMAX[code]
    if scale == "step":
        assert steps is not None
        inverse = (1 / steps).repeat(t)[None]
        head, bad = torch.empty(b, 0, dtype=torch.uint8, device=x.device), -qmax - 1
    else:
        length = _unit_length(scale, k)
        word = _unit_words(v, length, qmax)
        usable = (word != 0) & (word != _NAN16)
        unit = torch.where(usable, 1 / _unit_values(torch.where(usable, word, 0x3F80)), 0.0)
        inverse = unit.repeat_interleave(length, 1)[:, : t * k]
        head, bad = _words(word, 2), 0
    q = _codes(v, inverse, bad, qmax, h)
    if code == "int4":
        q = torch.nn.functional.pad(q, (0, q.shape[1] % 2)) & 15
        q = q[:, 0::2] | q[:, 1::2] << 4
    return torch.cat((head, (q & 255).to(torch.uint8)), 1).flatten()


def unpack(
    data: Tensor, shape: tuple[int, int, int], code: str, scale: str = "none", *, steps: Tensor | None = None
) -> Tensor:
    """X (B,T,k) f32 from its bytes."""
    b, t, k = shape
    n = t * k
    d = data.view(b, -1)
    if code == "f32":
        return _from_bits(_integers(d, 4)).view(shape)
    if code == "bf16":
        return _from_bits(_integers(d, 2) << 16).view(shape)
    qmax = QMAX[code]
    if scale == "step":
        assert steps is not None
        unit = steps.repeat(t)[None]
    else:
        length = _unit_length(scale, k)
        head = 2 * ((n + length - 1) // length)
        unit = _unit_values(_integers(d[:, :head], 2)).repeat_interleave(length, 1)[:, :n]
        d = d[:, head:]
    q = d.to(torch.int64)
    if code == "int4":
        q = torch.stack((q & 15, q >> 4), -1).flatten(1)[:, :n]
    q = torch.where(q > qmax, q - 2 * (qmax + 1), q)
    x = q.to(torch.float32) * unit
    return torch.where((q < -qmax) | unit.isnan(), float("nan"), x).view(shape)
