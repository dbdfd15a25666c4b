"""Loops other than torch.distributed.pipelining's: hooks, containers, plain functions."""

import copy
from pathlib import Path

import pytest
import torch
from launch import run
from torch import nn
from torch.utils.checkpoint import checkpoint

from resbm.torch import CodecError, ReceiveEnd, ResidualBottleneck, SendEnd, attach, functions

D, T, B = 16, 6, 2


def data(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def train_whole(b, parts, steps):
    """Both halves in one process, the reference."""
    opt = torch.optim.SGD([*b.parameters(), *parts.parameters()], lr=0.1)
    losses = []
    for step in range(steps):
        opt.zero_grad()
        for m in range(2):
            loss = parts[1](b(parts[0](data(10 * step + m, B, T, D)))).pow(2).mean()
            loss.backward()
            losses.append(loss.item())
        opt.step()
    return losses


def train_ends(send, receive, parts, steps, recompute):
    """A raw loop: what it would send and receive is the container and the container's gradient, copied."""
    opt = torch.optim.SGD([*send.parameters(), *receive.parameters(), *parts.parameters()], lr=0.1)
    losses = []

    def rest(c):
        return parts[1](receive(c))

    for step in range(steps):
        opt.zero_grad()
        for m in range(2):
            out = send(parts[0](data(10 * step + m, B, T, D)))
            arrived = out.detach().clone().requires_grad_()
            y = checkpoint(rest, arrived, use_reentrant=False) if recompute else rest(arrived)
            loss = y.pow(2).mean()
            loss.backward()
            out.backward(arrived.grad.clone())
            losses.append(loss.item())
        opt.step()
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("codec", ["int4", "int8", "bf16"])
def test_containers_give_the_bits_of_one_process(dtype, recompute, codec):
    torch.manual_seed(1)
    b, parts = ResidualBottleneck(D, 4, codec=codec), nn.ModuleList([nn.Linear(D, D), nn.Linear(D, D)])
    other, copies = copy.deepcopy(b), copy.deepcopy(parts)
    send, receive = SendEnd(other, T, dtype), ReceiveEnd(other, T, dtype)
    assert train_ends(send, receive, copies, 10, recompute) == train_whole(b, parts, 10)
    if codec != "bf16":
        assert torch.equal(send.encoder.steps, b.encoder.steps) and torch.equal(receive.decoder.steps, b.decoder.steps)
        assert not torch.equal(b.encoder.steps, ResidualBottleneck(D, 4, codec=codec).encoder.steps)
    used = send.payload_bytes
    assert used["container"] - max(used["forward"], used["backward"]) in range(dtype.itemsize)
    assert send.traffic.forward == receive.traffic.backward == 10 * 2 * B * used["container"]


def test_containers_are_refused_when_they_were_touched():
    b = ResidualBottleneck(D, 4)
    send, receive = SendEnd(b, T), ReceiveEnd(b, T)
    with pytest.raises(ValueError, match=r"a container is \(B,4\).*nothing may cast"):
        receive(send(data(0, B, T, D)).bfloat16())
    with pytest.raises(ValueError, match=r"\(2, 5, 16\), not \(B,6,16\)"):
        send(data(0, B, 5, D))
    with pytest.raises(TypeError, match="container is a float tensor"):
        SendEnd(b, T, torch.int32)
    with pytest.raises(ValueError, match=r"resbm.torch.Stage"):
        SendEnd(ResidualBottleneck(D, 4, tokens="embedding", vocab=9), T)
    with pytest.raises(ValueError, match="cut before"):
        attach(attach(nn.Linear(D, D), b, 0, 2, T), b, 0, 2, T)


def test_a_raw_send_and_receive_loop_in_two_processes():
    """The example as it stands: both ends lower the loss, and it says the bytes it moved."""
    script = Path(__file__).parents[1] / "examples/raw_loop.py"
    done = run(script, 2)
    assert all(code == 0 for code, _ in done), "\n".join(out for _, out in done)
    losses = [float(line.split()[-1]) for line in done[1][1].splitlines() if line.startswith("step")]
    assert len(losses) >= 20 and losses[-1] < 0.7 * losses[0], losses
    assert "bytes forward" in done[0][1] and "bytes backward" in done[1][1]


@pytest.mark.parametrize("container", [None, torch.float16, torch.float32])
def test_plain_functions(container):
    b = ResidualBottleneck(D, 4, codec="int4", codec_backward="int8")
    encode, decode, pack, unpack, end_step = functions(b, T, container)
    x = data(3, B, T, D)
    z = encode(x)
    payload, meta = pack(z, False)
    assert meta["bytes"] == B * T * 4 // 2 and meta["payload_bytes"] == payload.numel() * payload.element_size()
    q = unpack(payload, meta, False)
    assert torch.equal(decode(q), copy.deepcopy(b).eval()(x))
    g, gmeta = pack(torch.randn_like(z), True)
    assert gmeta["bytes"] == B * (T * 4 + 2) and unpack(g, gmeta, True).shape == z.shape
    if container is not None:  # one size for both directions
        assert payload.dtype == g.dtype == container and payload.shape == g.shape
        assert meta["payload_bytes"] >= meta["bytes"]
        with pytest.raises(CodecError, match="something cast it"):
            unpack(payload.double(), meta)
    with pytest.raises(CodecError, match="unpack it as such"):
        unpack(payload, meta, True)
    with pytest.raises(CodecError, match=r"pack takes"):
        pack(z[..., :3])
    before = b.encoder.steps.clone()
    end_step()
    assert not torch.equal(before, b.encoder.steps) and torch.equal(b.encoder.steps, b.decoder.steps)
    assert b.link.step == 1


def test_deepspeeds_pipeline_module():
    """The example as it stands."""
    script = Path(__file__).parents[1] / "examples/deepspeed_pipeline.py"
    done = run(script, 2, DS_ACCELERATOR="cpu", timeout=400)
    assert all(code == 0 for code, _ in done), "\n".join(out for _, out in done)
    losses = [float(line.split()[-1]) for line in done[1][1].splitlines() if line.startswith("step")]
    assert len(losses) == 15 and losses[-1] < 0.3 * losses[0], losses
    moved = 15 * 2 * 4 * 68  # steps, microbatches, containers of 68 bytes: 64 of codes and room for 4 of scales
    assert f"forward={moved}, backward=0" in done[0][1] and f"forward=0, backward={moved}" in done[1][1]
