"""The bottleneck whole in one process."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from resbm.torch import CodecError, ResidualBottleneck


def data(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_names_and_shapes_are_those_of_the_c_program():
    b = nn.ModuleDict({"boundary": nn.ModuleDict({"0": ResidualBottleneck(32, 4)})})
    assert {n: tuple(t.shape) for n, t in b.state_dict().items()} == {
        "boundary.0.encoder.norm.weight": (32,),
        "boundary.0.encoder.fc1.weight": (64, 32),
        "boundary.0.encoder.fc2.weight": (8, 64),
        "boundary.0.encoder.steps": (8,),
        "boundary.0.decoder.fc1.weight": (64, 8),
        "boundary.0.decoder.fc2.weight": (32, 64),
        "boundary.0.decoder.steps": (8,),
    }


@pytest.mark.parametrize("identity", ["truncate", "none"])
@pytest.mark.parametrize("hidden", [0, 12])
@pytest.mark.parametrize("tokens", [None, "embedding", "trunk"])
def test_gradcheck_without_packing(identity, hidden, tokens):
    torch.manual_seed(0)
    b = ResidualBottleneck(
        8, 4, identity, hidden, tokens, codec=None, vocab=11, trunk=dict(blocks=1, width=4, heads=2, ffn=4)
    ).double()
    x, ids = data(2, 3, 8).double().requires_grad_(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    names = [n for n, _ in b.named_parameters()]
    if tokens == "trunk":
        nn.init.normal_(b.decoder.fc2.weight if hidden else b.decoder.fc1.weight, std=0.1)

    def run(x, *weights):
        return torch.func.functional_call(b, dict(zip(names, weights)), (x, ids))

    assert torch.autograd.gradcheck(run, (x, *b.parameters()))


def test_straight_through_and_packed_gradient():
    b = ResidualBottleneck(16, 4, codec="int8", codec_backward="int4", scale="token", index=2, seed=7)
    z = data(2, 5, 4).requires_grad_()
    q = b.link.cross(z, None, None, b.encoder.norm.weight)
    from resbm.torch import BACKWARD, Codec

    f = Codec("int8", boundary=2, seed=7)
    assert torch.equal(q, f.unpack(f.pack(z), (2, 5, 4)))
    g = data(2, 5, 4, seed=1)
    q.backward(g)
    c = Codec("int4", BACKWARD, boundary=2, seed=7)
    assert torch.equal(z.grad, c.unpack(c.pack(g, step=0, sequence=0), (2, 5, 4)))


def train(b, steps, microbatches=2, recompute=False):
    torch.manual_seed(3)
    opt = torch.optim.SGD(b.parameters(), lr=0.1)
    seen = []
    for step in range(steps):
        opt.zero_grad()
        for m in range(microbatches):
            x = data(2, 6, 16, seed=10 * step + m)
            y = checkpoint(b, x, use_reentrant=False) if recompute else b(x)
            loss = (y - x).pow(2).mean()
            loss.backward()
        seen.append(loss.item())
        opt.step()
    return seen


def test_learned_steps_follow_and_positions_move_on():
    b = ResidualBottleneck(16, 4)
    start = copy.deepcopy(b)
    losses = train(b, 12)
    assert b.link.step == 11 and b.link.sequence == 12 * 2 * 2
    assert not torch.equal(b.encoder.steps, start.encoder.steps)
    assert torch.equal(b.encoder.steps, b.decoder.steps)
    assert losses[-1] < losses[0]
    assert train(start, 12) == losses


def test_activation_checkpointing_gives_the_same_bits():
    a = ResidualBottleneck(16, 4)
    b = copy.deepcopy(a)
    assert train(a, 5) == train(b, 5, recompute=True)
    assert torch.equal(a.encoder.steps, b.encoder.steps)


def test_evaluation_leaves_no_trace():
    b = ResidualBottleneck(16, 4)
    train(b, 2)
    state = (b.link.step, b.link.sequence, b.encoder.steps.clone())
    with torch.no_grad():
        b(data(2, 6, 16))
    assert state[:2] == (b.link.step, b.link.sequence) and torch.equal(state[2], b.encoder.steps)


def test_autocast_and_bf16():
    b = ResidualBottleneck(16, 4)
    x = data(2, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y = b(x)
        y.float().pow(2).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in b.parameters())
    assert b.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_compile_breaks_the_graph_at_the_wire_only():
    b = ResidualBottleneck(16, 4)
    c = torch.compile(b, backend="eager")
    x = data(2, 6, 16)
    assert torch.equal(c(x), copy.deepcopy(b)(x))


def test_same_seed_same_weights():
    b = ResidualBottleneck(16, 4)
    one, two = b.copy(3), b.copy(3)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters()))
    assert not torch.equal(b.copy(2).encoder.fc1.weight, one.encoder.fc1.weight)
    assert one.link.index == 3


def test_a_sequential_can_be_cut():
    first = ResidualBottleneck(16, 4).cut(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), 0, 2)
    x = data(1, 3, 16)
    assert torch.equal(first(x), first.boundary["0"].encoder(torch.tanh(first[0](x))))
    assert "boundary.0.encoder.fc1.weight" in first.state_dict()


def test_wrong_use_is_told():
    with pytest.raises(ValueError, match="ratio 7 does not divide d_model 32; nearest: 4 or 8"):
        ResidualBottleneck(32, 7)
    with pytest.raises(ValueError, match="vocab"):
        ResidualBottleneck(32, 4, tokens="embedding")
    with pytest.raises(ValueError, match="offset: a token path"):
        ResidualBottleneck(32, 4, tokens="embedding", vocab=9, offset=True)
    with pytest.raises(ValueError, match="token ids"):
        ResidualBottleneck(32, 4, tokens="embedding", vocab=9)(data(1, 2, 32))
    with pytest.raises(CodecError, match="float64"):
        ResidualBottleneck(32, 4).double()(data(1, 2, 32).double())
    b = ResidualBottleneck(32, 4)

    class Two(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match=r"output is a tuple.*one tensor \(B,T,32\)"):
        b.cut(Two(), 0, 2)(data(1, 2, 32))
    with pytest.raises(ValueError, match=r"takes latents \(B,T,8\)"):
        b.cut(nn.Identity(), 1, 2)(data(1, 2, 32))
    with pytest.raises(ValueError, match="cut before"):
        m = b.cut(nn.Linear(32, 32), 0, 2)
        b.cut(m, 0, 2)
