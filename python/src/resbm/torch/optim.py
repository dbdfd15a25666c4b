"""Muon for the matrices, AdamW for everything else, in one call; what got which is printed.

The same split as the C program's (src/optim/groups.c): Muon takes the two-dimensional weights inside blocks and
bottlenecks; embeddings, the output head, norms, biases and matrices of one row or column go to AdamW.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: Last parts of the names that output heads usually have.
HEADS = ("lm_head", "head", "output", "embed_out", "classifier", "score")

__all__ = ["HEADS", "Optimizers", "optimizers", "uses_muon"]


class Optimizers(list[Optimizer]):
    """Several optimizers that step as one; iterate over it to give each a learning-rate scheduler."""

    #: Of each parameter, in the model's order: name, shape, "Muon" or "AdamW".
    assigned: list[tuple[str, tuple[int, ...], str]]

    def step(self) -> None:
        """One update of everything."""
        for o in self:
            o.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Before a step's microbatches."""
        for o in self:
            o.zero_grad(set_to_none)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all of them."""
        return [g for o in self for g in o.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """{class: its state_dict}."""
        return {type(o).__name__: o.state_dict() for o in self}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave; KeyError where it is of another choice of optimizers."""
        for o in self:
            o.load_state_dict(state[type(o).__name__])

    def __str__(self) -> str:
        """The table that is printed."""
        lines = []
        for o in self:
            kind = type(o).__name__
            mine = [shape for _, shape, rule in self.assigned if rule == kind]
            n = sum(torch.Size(s).numel() for s in mine)
            lines.append(f"{kind}: {len(mine)} tensors, {n} parameters, lr {o.param_groups[0]['lr']:g}")
        lines += [f"  {name:<52} {' x '.join(map(str, shape)):>15}  {kind}" for name, shape, kind in self.assigned]
        return "\n".join(lines)


def uses_muon(model: nn.Module) -> dict[str, bool]:
    """Of each trained parameter of `model`, by its name: whether Muon is right for it."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    right = {}
    for name, p in _trained(model):
        owner = name.rpartition(".")[0].rpartition(".")[2]
        right[name] = p.dim() == 2 and min(p.shape) >= 2 and id(p) not in tables and owner not in HEADS
    return right


def optimizers(
    *models: nn.Module,
    lr: float = 0.01,
    adamw_lr: float = 0.002,
    weight_decay: float = 0.0,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    muon: Iterable[str] = (),
    adamw: Iterable[str] = (),
    write: Callable[[str], object] | None = print,
) -> Optimizers:
    """torch.optim.Muon and torch.optim.AdamW over the parameters of `models` (the stages of this rank).

    Args:
        models: a name that several have is told apart by the model's number.
        lr, momentum, nesterov, ns_steps: of Muon, whose rate is scaled by sqrt(max(1, rows/columns)).
        adamw_lr, betas, eps: of AdamW.
        weight_decay: decoupled, for tensors of two dimensions and more; norms and biases have none.
        muon, adamw: patterns (fnmatch) of names that are to get the one or the other against the rule.
        write: takes the table of what got which; None for silence.
    """
    named, muon, adamw = _named(models), tuple(muon), tuple(adamw)
    chosen = {}
    for name, (p, right) in named.items():
        forced = _forced(name, muon, adamw)
        chosen[name] = right if forced is None else forced
        if chosen[name] and p.dim() != 2:
            raise ValueError(f"{name} has {p.dim()} dimensions; Muon takes matrices only")
    made = Optimizers()
    groups = _groups([p for n, (p, _) in named.items() if chosen[n]], weight_decay)
    if groups:
        made.append(torch.optim.Muon(groups, lr=lr, momentum=momentum, nesterov=nesterov, ns_steps=ns_steps))
    groups = _groups([p for n, (p, _) in named.items() if not chosen[n]], weight_decay)
    if groups:
        made.append(torch.optim.AdamW(groups, lr=adamw_lr, betas=betas, eps=eps))
    made.assigned = [(n, tuple(p.shape), "Muon" if chosen[n] else "AdamW") for n, (p, _) in named.items()]
    if write is not None:
        write(str(made))
    return made


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)


def _named(models: tuple[nn.Module, ...]) -> dict[str, tuple[Tensor, bool]]:
    named: dict[str, tuple[Tensor, bool]] = {}
    for i, model in enumerate(models):
        right = uses_muon(model)
        for name, p in _trained(model):
            named[name if name not in named else f"{i}:{name}"] = (p, right[name])
    if not named:
        raise ValueError("optimizers: none of the models has a parameter to train")
    return named


def _forced(name: str, muon: Iterable[str], adamw: Iterable[str]) -> bool | None:
    """True for Muon, False for AdamW, None where no pattern says."""
    asked = {
        kind for kind, patterns in ((True, muon), (False, adamw)) if any(fnmatch.fnmatch(name, q) for q in patterns)
    }
    if len(asked) > 1:
        raise ValueError(f"{name} fits a pattern of muon and one of adamw")
    return asked.pop() if asked else None


def _groups(parameters: list[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    matrices, rest = [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
    groups = [dict(params=matrices, weight_decay=weight_decay), dict(params=rest, weight_decay=0.0)]
    return [g for g in groups if g["params"]]
