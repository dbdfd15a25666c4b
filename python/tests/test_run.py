"""The same model in both worlds: checkpoints of the C program in PyTorch, and back."""

import json

import pytest
import torch
from run_program import PROGRAM, make_corpus, program, train

from resbm.torch import Llama, ResidualBottleneck, RunOptimizer, Shards, train_step
from resbm.torch.checkpoint import Checkpoint
from resbm.torch.kinds import Pass

ADAMW = ["optim.kind=adamw", "optim.lr=0.002", "optim.clip=0"]
EXACT = ["boundary.codec_fwd=f32", "boundary.codec_bwd=f32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("run"))


def data(model):
    return Shards(model.config.data["train"], model.config.context, model.config.seed)


def step_two(folder, out, overrides):
    """(loss here, loss there, relative difference of the whole gradient) of the second step."""
    rows = train(folder, out, *ADAMW, *overrides)
    model = Llama.from_run(out / "step-1")
    count, total, shards = int(model.config.train["microbatches"]), 0.0, data(model)
    for _ in range(count):
        loss = model(*shards.batch(model.position.sequence, 4 // count)) / count
        loss.backward()
        total += loss.item()
    one, two = Checkpoint(out / "step-1"), Checkpoint(out / "step-2")
    apart = size = worst = 0.0
    for name, p in model.named_parameters():
        g = (two.tensor(f"exp_avg.{name}") - 0.9 * one.tensor(f"exp_avg.{name}")) / 0.1
        mine = torch.zeros_like(p) if p.grad is None else p.grad
        d = (mine - g).square().sum().item()
        apart, size = apart + d, size + g.square().sum().item()
        worst = max(worst, (d / max(g.square().sum().item(), 1e-16)) ** 0.5)
    return total, rows[1]["loss"], (apart / size) ** 0.5, worst


KINDS = {
    "residual": [],
    "trunk": ["boundary.tokens=trunk", "model.qk_norm=true", "model.kv_heads=2"],
    "wide-trunk": ["boundary.tokens=trunk", "boundary.trunk_width=64", "boundary.identity=rotate", "boundary.hidden=0"],
    "embedding": ["boundary.tokens=embedding", "boundary.identity=none", "boundary.aux=latent", "train.aux_until=1"],
    "linear": ["boundary.kind=linear", "boundary.aux=stream", "train.aux_until=1"],
    "subspace": ["boundary.kind=subspace", "model.segments=[1,2]"],
    "topk": ["boundary.kind=topk", "boundary.feedback=gradient"],
    "inside": ["model.cut=inside", "boundary.tokens=trunk", "boundary.aux=stream", "train.aux_until=1"],
    "inside-subspace": ["model.cut=inside", "boundary.kind=subspace"],
    "anneal": ["boundary.anneal_from=1", "train.steps=8", "train.anneal_until=1"],
    "tied": ["model.tied=true", "model.segments=1"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients(folder, tmp_path, kind):
    here, there, whole, worst = step_two(folder, tmp_path / "run", [*KINDS[kind], *EXACT])
    assert here == pytest.approx(there, rel=1e-5)
    assert whole < 1e-5 and worst < 1e-4


def test_loss_and_gradients_of_the_cuda_device(folder, tmp_path):
    """Its sources run on the host; all kinds on a card: RESBM_TEST_SETTINGS (run_program.py)."""
    if not (PROGRAM.parent / "resbm-cuda-emulated.so").exists():
        pytest.skip("this build has no resbm-cuda-emulated.so")
    device = ["pipeline.device=cuda:emulated", "pipeline.math=f32", "model.d=32", "model.layers=2", "model.segments=2"]
    here, there, whole, worst = step_two(folder, tmp_path / "run", [*KINDS["trunk"], *EXACT, *device])
    assert here == pytest.approx(there, rel=1e-5)
    assert whole < 1e-5 and worst < 1e-4


@pytest.mark.parametrize("tokens", ["none", "offset", "embedding", "trunk"])
def test_a_bottleneck_takes_the_weights_of_the_c_programs(folder, tmp_path, tokens):
    offset, tokens = tokens == "offset", "none" if tokens == "offset" else tokens
    train(
        folder,
        tmp_path / "run",
        f"boundary.tokens={tokens}",
        "boundary.identity=truncate",
        f"boundary.offset={'auto' if offset else 'none'}",
    )
    model, source = Llama.from_run(tmp_path / "run"), Checkpoint(tmp_path / "run")
    path = None if tokens == "none" else tokens
    b = ResidualBottleneck(64, 8, tokens=path, offset=offset, vocab=256, index=1, seed=3)
    b.load_state_dict({n: source.tensor(f"boundary.1.{n}") for n in b.state_dict()})
    assert {f"boundary.1.{n}" for n in b.state_dict()} == {n for n in source.names if n.startswith("boundary.1.")}
    ids, x = torch.arange(40).view(2, 20) * 7 % 256, torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y, _ = model.boundary["1"](x, ids, Pass(torch.arange(20)))
        assert torch.allclose(b(x, ids), y, atol=1e-5)


PACKED = {
    "int4": ["boundary.identity=split", "boundary.identity_width=1", "boundary.ratio=4"],
    "groups": [
        "boundary.identity=full",
        "boundary.group_bwd=16",
        "boundary.rounding_bwd=nearest",
        "boundary.scale_fwd=token",
    ],
    "int2": ["boundary.codec_fwd=int2", "boundary.codec_bwd=int2"],
    "int1": ["boundary.kind=linear", "boundary.codec_fwd=int1", "boundary.codec_bwd=int8"],
    "bf16": ["boundary.kind=none"],
    "topk-int8": ["boundary.kind=topk"],
}  # fmt: skip


@pytest.mark.parametrize("codec", PACKED)
def test_loss_and_gradients_packed(folder, tmp_path, codec):
    """Numbers next to a threshold of the codec may fall on either side: a level more or less, here and there."""
    here, there, whole, _ = step_two(folder, tmp_path / "run", PACKED[codec])
    assert here == pytest.approx(there, rel=1e-3)
    assert whole < 2e-2


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_ten_steps(folder, tmp_path, kind):
    out, rate = tmp_path / "run", "optim.lr=0.002" if kind == "adamw" else "optim.lr=0.02"
    rows = train(
        folder, out, f"optim.kind={kind}", rate, "optim.weight_decay=0.1", "train.steps=11", "boundary.tokens=trunk"
    )
    model = Llama.from_run(out / "step-1")
    optimizer, shards = RunOptimizer(model), data(model)
    losses = [train_step(model, optimizer, shards) for _ in range(10)]
    assert losses == pytest.approx([r["loss"] for r in rows[1:]], abs=1e-3)
    assert losses[-1] < losses[0] - 0.5
    assert (model.position.step, model.position.sequence) == (11, 44)


def test_ten_steps_of_torch_muon(folder, tmp_path):
    """Its bfloat16 iteration gives other updates, but not another training."""
    rows = train(folder, tmp_path / "run", "train.steps=11", "optim.scaling=match_rms", "optim.lr=0.002")
    model = Llama.from_run(tmp_path / "run/step-1")
    optimizer, shards = RunOptimizer(model, exact=False), data(model)
    losses = [train_step(model, optimizer, shards) for _ in range(10)]
    assert losses == pytest.approx([r["loss"] for r in rows[1:]], abs=2e-2)


def resume(folder, out, *overrides):
    program("train", "-q", out / "config.yaml", "--out", out, "--resume", *overrides)
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_what_goes_back_is_what_came(folder, tmp_path):
    straight = train(folder, tmp_path / "run", "train.steps=6", "boundary.tokens=trunk")
    model = Llama.from_run(tmp_path / "run/step-3")
    back = model.save_run(tmp_path / "back", RunOptimizer(model))
    one, two = Checkpoint(tmp_path / "run/step-3"), Checkpoint(back)
    assert set(one.names) == set(two.names) and set(one.states) == set(two.states) and one.states
    assert all(torch.equal(one.tensor(n), two.tensor(n)) for n in [*one.names, *one.states])
    assert resume(folder, tmp_path / "back") == [r["loss"] for r in straight[3:]]  # bit for bit


@pytest.mark.parametrize("kind, cut", [("adamw", "between"), ("muon", "inside")])
def test_the_c_program_goes_on_from_pytorch(folder, tmp_path, kind, cut):
    straight = train(
        folder, tmp_path / "run", "train.steps=6", f"optim.kind={kind}", "optim.lr=0.002", f"model.cut={cut}"
    )
    model = Llama.from_run(tmp_path / "run/step-2")
    optimizer, shards = RunOptimizer(model), data(model)
    here = [train_step(model, optimizer, shards) for _ in range(2)]
    assert model.save_run(tmp_path / "back", optimizer).name == "step-4"
    assert here + resume(folder, tmp_path / "back") == pytest.approx([r["loss"] for r in straight[2:]], abs=1e-3)
    assert "loss" in program("eval", tmp_path / "back")


def test_without_optimizer_states(folder, tmp_path):
    train(folder, tmp_path / "run", *ADAMW, "train.steps=4")
    Llama.from_run(tmp_path / "run/step-2").save_run(tmp_path / "back")
    assert Checkpoint(tmp_path / "back").states == []
    resume(folder, tmp_path / "back")
    last = Checkpoint(tmp_path / "back")
    assert (last.step, last.updates) == (4, 2)
    first = Checkpoint(tmp_path / "back/step-3")
    model = Llama.from_run(tmp_path / "run/step-2")
    for _ in range(2):
        (model(*data(model).batch(model.position.sequence, 2)) / 2).backward()
    name = "model.layers.1.mlp.up_proj.weight"  # its first moment is a tenth of the first gradient: it began at zero
    mine = dict(model.named_parameters())[name].grad
    assert torch.allclose(first.tensor(f"exp_avg.{name}"), 0.1 * mine, rtol=1e-2, atol=1e-6)


def test_evaluation_is_the_same(folder, tmp_path):
    rows = train(folder, tmp_path / "run", "train.eval_every=2")
    model = Llama.from_run(tmp_path / "run")
    shards = Shards(model.config.data["val"], model.config.context, model.config.seed)
    with torch.no_grad():
        losses = [model(ids, targets).item() for ids, targets in shards.evaluation(5, 4)]
    assert sum(losses) / 8 == pytest.approx(rows[1]["val_loss"], rel=1e-5)
    assert model.position.in_step == 0


def test_damage_is_found(folder, tmp_path):
    train(folder, tmp_path / "run")
    newest = tmp_path / "run/step-2/segment-0.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    model = Llama.from_run(tmp_path / "run")
    assert model.position.step == 1 and "segment-0.safetensors" in model.source.skipped[0]
    with pytest.raises(ValueError, match="damaged"):
        Llama.from_run(tmp_path / "run/step-2")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        Llama.from_run(tmp_path)
