#!/usr/bin/env python3
"""The arithmetic of src/device/pack_layout.h said once more, value by value, and the golden file made with it.

    python3 tests/golden/make_codec.py            writes tests/golden/codec.bin (needs numpy)

File, little-endian: u32 cases; per case u32 code, scale, stochastic, B, T, k, boundary, direction; u64 seed, step,
sequence; f32 steps[k] (scale step only); f32 x[B*T*k]; u32 bytes; the packed bytes; f32 unpacked[B*T*k].
"""
import math
import pathlib
import struct

import numpy as np

F32, BF16, INT8, INT4, INT2, INT1 = range(6)
NONE, STEP, TOKEN, GROUP, GROUP32, GROUP16, GROUP8, GROUP4, GROUP2 = range(9)
BITS = {INT8: 8, INT4: 4, INT2: 2, INT1: 1}
MOST = {INT8: 127, INT4: 7, INT2: 1.5, INT1: 0.5}
f32 = np.float32
M64 = (1 << 64) - 1


def bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


def unbits(u):
    return np.frombuffer(struct.pack("<I", u), "<f4")[0]


def splitmix(z):
    z = (z + 0x9E3779B97F4A7C15) & M64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def philox(counter, key):
    c, k = list(counter), [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def random16(a, b, idx):
    seq = (a["sequence"] + b) & M64
    key = splitmix(splitmix(a["seed"]) ^ a["step"])
    words = philox([idx // 8, seq & 0xFFFFFFFF, seq >> 32, a["boundary"] << 1 | a["direction"]], key)
    return words[idx % 8 // 2] >> (16 * (idx % 2)) & 0xFFFF


def bf16_nearest(x):
    u = bits(x)
    if u & 0x7FFFFFFF > 0x7F800000:
        return u >> 16 | 0x40
    return (u + 0x7FFF + (u >> 16 & 1)) >> 16 & 0xFFFF


def group_of(a, k):
    return k if a["scale"] == TOKEN else 64 >> (a["scale"] - GROUP) if a["scale"] >= GROUP else 0


def unit_of(values, most):
    top = max(bits(v) & 0x7FFFFFFF for v in values)
    if top >= bits(2.0**127):
        return 0x7FC0
    if top < bits(2.0**-100):
        return 0
    return min((bits(unbits(top) / f32(most)) + 0xFFFF) >> 16, 0x7FC0)


def code_of(a, x, unit, most, b, idx):
    if not np.isfinite(x):
        return -most - 1 if a["scale"] == STEP else 0
    inverse = f32(1) / unit if unit > 0 else f32(0)  # a zero or NaN unit: all codes 0
    with np.errstate(over="ignore"):
        t = min(max(x * inverse, f32(-most)), f32(most))
    if not a["stochastic"]:
        return math.floor(t) if most < 2 else int(np.rint(t))
    r = f32((random16(a, b, idx) + 0.5) / 65536)
    return int(math.floor(f32(t) - f32(0.5 if most < 2 else 0) + r))


def pack_sequence(a, x, b, T, k, steps):
    n, most = T * k, MOST.get(a["code"])
    if a["code"] == F32:
        return x.astype("<f4").tobytes()
    if a["code"] == BF16:
        up = lambda i, v: (bits(v) + random16(a, b, i)) >> 16 & 0xFFFF
        words = [up(i, v) if a["stochastic"] and np.isfinite(v) else bf16_nearest(v) for i, v in enumerate(x)]
        return struct.pack(f"<{n}H", *words)
    length = group_of(a, k)
    scales = [unit_of(x[i : i + length], most) for i in range(0, n, length)] if length else []
    unit = lambda i: unbits(scales[i // length] << 16) if length else steps[i % k]
    codes = [code_of(a, v, unit(i), most, b, i) for i, v in enumerate(x)]
    width = BITS[a["code"]]
    whole = sum((c & (1 << width) - 1) << width * i for i, c in enumerate(codes))
    body = whole.to_bytes((n * width + 7) // 8, "little")
    return struct.pack(f"<{len(scales)}H", *scales) + body


def unpack_sequence(a, data, T, k, steps):
    n, nan = T * k, unbits(0x7FC00000)
    if a["code"] == F32:
        return np.frombuffer(data, "<f4")
    if a["code"] == BF16:
        return np.array([unbits(w << 16) for w in struct.unpack(f"<{n}H", data)], f32)
    length, width, most = group_of(a, k), BITS[a["code"]], MOST[a["code"]]
    units = -(-n // length) if length else 0
    scales = [unbits(w << 16) for w in struct.unpack(f"<{units}H", data[: 2 * units])]
    whole = int.from_bytes(data[2 * units :], "little")
    out = []
    for i in range(n):
        q = whole >> width * i & (1 << width) - 1
        q = q - (1 << width) if q >> width - 1 else q
        u = scales[i // length] if length else steps[i % k]
        value = f32(q) if most > 2 else f32(q + 0.5)
        out.append(nan if value < -most or not np.isfinite(u) else value * u)
    return np.array(out, f32)


def case(rng, code, scale, stochastic, B, T, k):
    a = dict(code=code, scale=scale, stochastic=stochastic, boundary=3, direction=int(stochastic),
             seed=0x1234567890ABCDEF, step=17, sequence=(1 << 32) - 2)
    x = rng.standard_normal(B * T * k).astype(f32) * f32(3)
    x[:: 13] *= f32(40)
    special = [0.0, -0.0, 1e-40, math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 2.0**-101, 0.5, 1.5, 2.5]
    for i, v in enumerate(special):
        if not np.isfinite(v) and scale == STEP and code in (INT2, INT1):
            continue  # refused
        if T * k > 64 and i < 3 or T * k > 300:
            x[(5 + 37 * i) % x.size] = f32(v)
    steps = (0.05 + rng.random(k)).astype(f32)
    data, y = b"", []
    for b in range(B):
        data += (part := pack_sequence(a, x[b * T * k : (b + 1) * T * k], b, T, k, steps))
        y.append(unpack_sequence(a, part, T, k, steps))
    head = struct.pack("<8I3Q", code, scale, stochastic, B, T, k, a["boundary"], a["direction"], a["seed"], a["step"],
                       a["sequence"])
    kept = steps.astype("<f4").tobytes() if scale == STEP else b""
    return head + kept + x.astype("<f4").tobytes() + struct.pack("<I", len(data)) + data + np.concatenate(y).astype("<f4").tobytes()


def main():
    rng = np.random.default_rng(20)
    kinds = [(F32, NONE), (BF16, NONE)] + [(c, s) for c in (INT8, INT4) for s in (STEP, TOKEN, GROUP)]
    kinds += [(c, s) for c in (INT2, INT1) for s in (STEP, TOKEN, GROUP)]
    kinds += [(INT4, GROUP8), (INT2, GROUP16), (INT8, GROUP2), (INT1, GROUP4), (INT4, GROUP32)]
    shapes = [(1, 1, 1), (3, 5, 7), (2, 9, 2), (2, 21, 16)]
    cases = [case(rng, c, s, r, *shape) for c, s in kinds for r in (0, 1) for shape in shapes]
    out = pathlib.Path(__file__).with_name("codec.bin")
    out.write_bytes(struct.pack("<I", len(cases)) + b"".join(cases))
    print(f"{out}: {len(cases)} cases, {out.stat().st_size} bytes")


main()
