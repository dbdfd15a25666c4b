"""C against plain PyTorch, bit for bit, and both against the project's golden bytes."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resbm.torch import reference, triton_codec
from resbm.torch.codec import BACKWARD, FORWARD, NAMES, Codec, CodecError

SCALES = ("none", "step", "token", "group", *(f"group{g}" for g in (32, 16, 8, 4, 2)))
SHAPES = [(1, 1, 1), (3, 5, 7), (2, 9, 2), (2, 21, 16), (1, 70, 33)]
SOURCE = Path(os.environ.get("RB_SOURCE_DIR", Path(__file__).parents[2]))


def values(shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=g) * 3
    flat = x.view(-1)
    flat[::13] *= 40
    special = [0.0, -0.0, 1e-40, float("nan"), float("inf"), -float("inf"), 3.4e38, 2.0**-101, 0.5, 2.5]
    if flat.numel() > 300:
        for i, v in enumerate(special):
            flat[(5 + 37 * i) % flat.numel()] = v
    return x


KINDS = [(name, direction, False) for name in NAMES for direction in (FORWARD, BACKWARD)]
KINDS += [("int8", FORWARD, True), ("int4", FORWARD, True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name,direction,learned", KINDS)
def test_c_and_python_agree_bit_for_bit(name, direction, shape, learned):
    codec = Codec(name, direction, boundary=3, seed=0xFEDCBA9876543210)
    steps = torch.rand(shape[2]) + 0.05 if learned else None
    x = values(shape)
    data = codec.pack(x, step=17, sequence=(1 << 32) - 2, steps=steps)
    key = dict(seed=codec.seed, step=17, sequence=(1 << 32) - 2, boundary=3, direction=direction)
    stochastic = direction == BACKWARD and name in ("int8", "int4")
    plain = reference.pack(x, name, codec.scale(steps), steps=steps, stochastic=stochastic, **key)
    assert torch.equal(data, plain)
    assert data.numel() == codec.packed_bytes(shape, steps)
    back = codec.unpack(data, shape, steps=steps)
    again = reference.unpack(data, shape, name, codec.scale(steps), steps=steps)
    assert torch.equal(back.view(torch.int32), again.view(torch.int32))


@pytest.mark.parametrize("shape", SHAPES[1:4])
@pytest.mark.parametrize("name,direction,learned", KINDS)
def test_triton_and_c_agree_bit_for_bit(name, direction, shape, learned, monkeypatch):
    monkeypatch.setattr(triton_codec, "BLOCK", 64)  # several programs for each sequence
    codec = Codec(name, direction, boundary=3, seed=0xFEDCBA9876543210)
    steps = torch.rand(shape[2]) + 0.05 if learned else None
    x = values(shape, seed=8)
    data = codec.pack(x, step=17, sequence=(1 << 32) - 2, steps=steps)
    assert torch.equal(triton_codec.pack(codec, x, 17, (1 << 32) - 2, steps), data)
    out = torch.empty(shape)
    assert triton_codec.unpack(codec, data, shape, steps, out) is out
    assert torch.equal(out.view(torch.int32), codec.unpack(data, shape, steps=steps).view(torch.int32))
    if learned:
        sums = torch.zeros(shape[2], dtype=torch.int64)
        codec.add_code_sums(sums, data, shape, steps)
        assert torch.equal(sums, triton_codec.code_sums(codec, data, shape))


def test_triton_kernels_compile_and_nothing_in_them_rounds_otherwise(tmp_path):
    env = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"} | dict(TRITON_CACHE_DIR=str(tmp_path))
    script = Path(__file__).with_name("triton_compile.py")
    made = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=300)
    assert made.stdout.count("compiled") == made.stdout.count("True") == 5, made.stdout + made.stderr
    assert "inexact" not in made.stdout, made.stdout


def test_triton_shows_an_unusable_step_as_nan():
    codec, steps, x = Codec("int4"), torch.tensor([0.5, 0.0, float("nan"), 1e31]), torch.ones(1, 2, 4)
    data = triton_codec.pack(codec, x, 0, 0, steps)
    back = triton_codec.unpack(codec, data, (1, 2, 4), torch.ones(4), torch.empty(1, 2, 4))
    assert back[0, 0, 0] == 2 and back[..., 1:].isnan().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", [FORWARD, BACKWARD])
def test_strange_bytes_unpack_alike(name, direction):
    codec = Codec(name, direction)
    shape = (2, 21, 16)
    g = torch.Generator().manual_seed(1)
    data = torch.randint(0, 256, (codec.packed_bytes(shape),), generator=g, dtype=torch.uint8)
    plain = reference.unpack(data, shape, name, codec.scale())
    assert torch.equal(codec.unpack(data, shape).view(torch.int32), plain.view(torch.int32))
    fast = triton_codec.unpack(codec, data, shape, None, torch.empty(shape))
    assert torch.equal(fast.view(torch.int32), plain.view(torch.int32))


def golden():
    data = (SOURCE / "tests/golden/codec.bin").read_bytes()
    (count,) = struct.unpack_from("<I", data)
    at = 4
    for _ in range(count):
        head = struct.unpack_from("<8I3Q", data, at)
        at += struct.calcsize("<8I3Q")
        code, scale, stochastic, b, t, k, boundary, direction, seed, step, sequence = head

        def floats(n):
            nonlocal at
            v = torch.frombuffer(bytearray(data[at : at + 4 * n]), dtype=torch.float32)
            at += 4 * n
            return v

        steps = floats(k) if scale == 1 else None
        x = floats(b * t * k).view(b, t, k)
        (n,) = struct.unpack_from("<I", data, at)
        packed = torch.frombuffer(bytearray(data[at + 4 : at + 4 + n]), dtype=torch.uint8)
        at += 4 + n
        y = floats(b * t * k).view(b, t, k)
        key = dict(seed=seed, step=step, sequence=sequence, boundary=boundary, direction=direction)
        yield code, scale, bool(stochastic), steps, x, packed, y, key


def test_plain_statement_against_the_golden_bytes():
    seen = 0
    for code, scale, stochastic, steps, x, packed, y, key in golden():
        if code >= len(NAMES):
            continue
        name, kind = NAMES[code], SCALES[scale]
        data = reference.pack(x, name, kind, steps=steps, stochastic=stochastic, **key)
        assert torch.equal(data, packed), (name, kind, stochastic, tuple(x.shape))
        back = reference.unpack(packed, tuple(x.shape), name, kind, steps=steps)
        assert torch.equal(back.view(torch.int32), y.contiguous().view(torch.int32)), (name, kind)
        seen += 1
    assert seen >= 60


def test_random_bits_depend_on_step_sequence_and_boundary_alone():
    x = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(3))
    a = Codec("int4", BACKWARD, boundary=1, seed=5)
    whole = a.unpack(a.pack(x, step=2, sequence=10), (4, 8, 16))
    halves = [a.unpack(a.pack(x[i : i + 2], step=2, sequence=10 + i), (2, 8, 16)) for i in (0, 2)]
    assert torch.equal(whole, torch.cat(halves))
    for other in (
        a.pack(x, step=3, sequence=10),
        Codec("int4", BACKWARD, boundary=2, seed=5).pack(x, step=2, sequence=10),
    ):
        assert not torch.equal(a.pack(x, step=2, sequence=10), other)


def test_bf16_and_strided_input():
    x = values((2, 6, 8), seed=4)
    codec = Codec("int8")
    assert torch.equal(codec.pack(x.bfloat16()), codec.pack(x.bfloat16().float()))
    wide = torch.cat((x, x), -1)
    assert torch.equal(codec.pack(wide[..., :8]), codec.pack(x))


def test_host_tensors_are_packed_and_unpacked_where_they_lie(monkeypatch):
    codec, x, out, seen = Codec("int8"), values((2, 6, 8), seed=4), torch.empty(2, 6, 8), []
    pack, unpack = codec._native.pack, codec._native.unpack
    monkeypatch.setattr(codec._native, "pack", lambda *a: (seen.append(a[0]), pack(*a)))
    monkeypatch.setattr(codec._native, "unpack", lambda *a: (seen.extend((a[0], a[3])), unpack(*a)))
    data = codec.pack(x)
    assert codec.unpack(data, (2, 6, 8), out=out) is out
    assert seen == [x.data_ptr(), data.data_ptr(), out.data_ptr()]


def test_learned_steps_are_alike_at_both_ends():
    codec, x = Codec("int4"), values((2, 30, 5), seed=6).clamp(-3, 3)
    ends = [torch.full((5,), 0.3), torch.full((5,), 0.3)]
    for update in range(30):
        data = codec.pack(x, steps=ends[0])
        for steps in ends:
            sums = torch.zeros(5, dtype=torch.int64)
            codec.add_code_sums(sums, data, (2, 30, 5), steps)
            codec.update_steps(steps, sums, 60, update)
        assert torch.equal(*ends)
    error = codec.unpack(codec.pack(x, steps=ends[0]), (2, 30, 5), steps=ends[0]) - x
    assert error.pow(2).mean() < 0.03 * x.pow(2).mean()


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match="int3.*int4"):
        Codec("int3")
    with pytest.raises(CodecError, match="float64.*x.float"):
        Codec("int4").pack(torch.zeros(1, 2, 3, dtype=torch.float64))
    with pytest.raises(CodecError, match="floating-point"):
        Codec("int4").pack(torch.zeros(1, 2, 3, dtype=torch.int64))
    with pytest.raises(CodecError, match=r"\(B,T,k\)"):
        Codec("int4").pack(torch.zeros(2, 3))
    with pytest.raises(CodecError, match="23 bytes.*takes 24"):
        Codec("f32").unpack(torch.zeros(23, dtype=torch.uint8), (1, 2, 3))
    with pytest.raises(CodecError, match="step"):
        Codec("int4").pack(torch.zeros(1, 2, 3), steps=torch.zeros(3))
