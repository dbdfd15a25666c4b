"""Which parameter gets Muon, which AdamW, and that both move."""

import pytest
import torch
from torch import nn

from resbm.torch import ResidualBottleneck, optimizers


def model():
    torch.manual_seed(0)
    m = nn.ModuleDict()
    m["embed"] = nn.Embedding(11, 16)
    m["fc"] = nn.Linear(16, 16)
    m["norm"] = nn.LayerNorm(16)
    m["lm_head"] = nn.Linear(16, 11, bias=False)
    m["boundary"] = nn.ModuleDict({"0": ResidualBottleneck(16, 4, tokens="embedding", vocab=11)})
    m["narrow"] = ResidualBottleneck(16, 16, hidden=0)  # one latent: matrices of one row or column
    m["frozen"] = nn.Linear(16, 16).requires_grad_(False)
    return m


def test_matrices_get_muon_and_the_rest_adamw_and_it_is_printed(capsys):
    m = model()
    opt = optimizers(m, weight_decay=0.1)
    muon = {n for n, _, kind in opt.assigned if kind == "Muon"}
    assert muon == {"fc.weight"} | {f"boundary.0.{e}.fc{i}.weight" for e in ("encoder", "decoder") for i in (1, 2)}
    assert {n for n, *_ in opt.assigned} == {n for n, p in m.named_parameters() if p.requires_grad}
    said = capsys.readouterr().out
    assert said.startswith("Muon: 5 tensors, ") and "AdamW: 10 tensors" in said
    for name, _, kind in opt.assigned:
        assert any(line.split()[0] == name and line.endswith(kind) for line in said.splitlines()[2:]), name
    assert [type(o) for o in opt] == [torch.optim.Muon, torch.optim.AdamW]
    assert {g["weight_decay"] for g in opt.param_groups if g["params"][0].dim() < 2} == {0.0}


def test_everything_moves_and_states_go_and_come():
    m = model()
    before = {n: p.clone() for n, p in m.named_parameters()}
    opt = optimizers(m, write=None)
    for p in m.parameters():
        p.grad = torch.ones_like(p) + torch.rand_like(p)
    opt.step()
    assert all(torch.equal(p, before[n]) != p.requires_grad for n, p in m.named_parameters())
    other = optimizers(m, write=None)
    other.load_state_dict(opt.state_dict())
    assert torch.equal(*(o[0].state[m["fc"].weight]["momentum_buffer"] for o in (opt, other)))
    opt.zero_grad()
    assert all(p.grad is None for p in m.parameters() if p.requires_grad)


def test_patterns_overrule_and_contradictions_are_told():
    m = model()
    opt = optimizers(m, adamw=["boundary.*"], muon=["lm_head.*"], write=None)
    kind = {n: k for n, _, k in opt.assigned}
    assert kind["boundary.0.encoder.fc1.weight"] == "AdamW" and kind["lm_head.weight"] == "Muon"
    with pytest.raises(ValueError, match=r"norm.weight has 1 dimensions; Muon takes matrices"):
        optimizers(m, muon=["norm.weight"])
    with pytest.raises(ValueError, match=r"fits a pattern of muon and one of adamw"):
        optimizers(m, muon=["fc.*"], adamw=["fc.weight"])
    with pytest.raises(ValueError, match="none of the models"):
        optimizers(m["frozen"])
    two = optimizers(nn.Linear(4, 4), nn.Linear(4, 4), write=None)
    assert [n for n, *_ in two.assigned] == ["weight", "bias", "1:weight", "1:bias"]
