"""The C program's training step on a :class:`~resbm.torch.Llama`: its optimizers, rates and clipping."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .llama import Llama
from .optim import uses_muon
from .run_config import RunConfig
from .shards import Shards


def rate_factor(config: RunConfig, step: int) -> float:
    """Factor of the learning rates at a step (from 0): rb_lr_factor."""
    o, steps = config.optim, int(config.train["steps"])
    warmup, floor = int(o["warmup"]), float(o["min_lr"])
    if step < warmup:
        return (step + 1) / warmup
    if o["schedule"] == "wsd":
        stretch = float(o["decay"]) * steps
        return 1 - (1 - floor) * _progress(step - (steps - stretch), stretch)
    if o["schedule"] == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * _progress(step - warmup, steps - warmup)))
    return 1.0


def _progress(done: float, length: float) -> float:
    if length <= 0:
        return 1.0 if done >= 0 else 0.0
    return min(1.0, max(0.0, done / length))


def muon_names(model: Llama) -> set[str]:
    """The tensors that have Muon in the run: src/optim/groups.c. An auxiliary head is AdamW's whole."""
    if str(model.config.optim.get("kind", "muon")) != "muon":
        return set()
    return {name for name, right in uses_muon(model).items() if right and ".aux." not in name}


class ExactMuon(torch.optim.Muon):
    """torch.optim.Muon with its iteration in f32, as the C program has it, instead of bfloat16."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; the closure is for torch's interface."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - group["momentum"])
        x = p.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer  # type: ignore[union-attr]
        x = _orthogonal(x.float(), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.shape
        match = group["adjust_lr_fn"] == "match_rms_adamw"
        scale = 0.2 * math.sqrt(max(rows, columns)) if match else math.sqrt(max(1.0, rows / columns))
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(x.to(p.dtype), alpha=-group["lr"] * scale)


def _orthogonal(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class RunOptimizer:
    """torch.optim.AdamW, beside torch.optim.Muon where the run has it, as optim.* of the run's configuration says.

    :meth:`step` clips, sets the rates of the present step, updates, and lets the model settle. States come from the
    model's checkpoint and go with :meth:`Llama.save_run`.

    Args:
        model: from a run.
        exact: Muon's iteration in f32, as in the C program; False takes torch.optim.Muon itself, which iterates in
            bfloat16: its updates differ by about a hundredth.
    """

    def __init__(self, model: Llama, exact: bool = True) -> None:
        self.model, c = model, model.config
        self.updates = 0
        o = c.optim
        muon = str(o.get("kind", "muon")) == "muon"
        groups: dict[tuple[bool, bool, float], list[str]] = {}
        self._named = dict(model.named_parameters())
        self._muon = muon_names(model)
        for name, p in self._named.items():
            groups.setdefault((name in self._muon, p.dim() >= 2, self._scale(name, p)), []).append(name)
        decay = float(o["weight_decay"])
        adamw: list[dict[str, Any]] = []
        orthogonal: list[dict[str, Any]] = []
        for (is_muon, decays, scale), names in groups.items():
            rate = float(o["lr"] if is_muon or not muon else o["adamw_lr"])
            rate *= scale
            group = dict(
                params=[self._named[n] for n in names], lr=rate, peak=rate, weight_decay=decay if decays else 0.0
            )
            (orthogonal if is_muon else adamw).append(group)
        self.adamw = torch.optim.AdamW(adamw, betas=(float(o["beta1"]), float(o["beta2"])), eps=float(o["eps"]))
        self.muon: torch.optim.Optimizer | None = None
        if orthogonal:
            self.muon = (ExactMuon if exact else torch.optim.Muon)(
                orthogonal, momentum=float(o["momentum"]), nesterov=bool(o["nesterov"]), ns_steps=int(o["ns_steps"]),
                adjust_lr_fn="original" if o["scaling"] == "original" else "match_rms_adamw",
            )  # fmt: skip
        if model.source is not None and model.source.states:
            self._load()

    def _segment(self, name: str) -> int:
        """Of the segment whose rate a tensor has: an encoder's is the one before it, a decoder's the one behind."""
        from .checkpoint import part_of

        part = part_of(name, self.model.config)
        number = int(part.split(".")[0].split("-")[1])
        return number + 1 if part.endswith(".decoder") else number

    def _scale(self, name: str, p: Tensor) -> float:
        """Of a tensor's learning rate: rb_tensor_lr."""
        o = self.model.config.optim
        end = p.dim() == 2 and "embed_tokens" not in name and (".encoder." in name or ".decoder." in name)
        scale = float(o.get("boundary_lr_scale", 1)) if end else 1.0
        behind = len(self.model.config.segments) - 1 - self._segment(name)
        return scale * float(o.get("segment_lr_scale", 1)) ** behind

    @property
    def _all(self) -> list[torch.optim.Optimizer]:
        return [self.adamw] if self.muon is None else [self.muon, self.adamw]

    def zero_grad(self) -> None:
        """Before a step's microbatches."""
        for o in self._all:
            o.zero_grad()

    def step(self) -> Tensor:
        """One update. Returns the norm of the gradient before clipping."""
        norm = self._clip()
        factor = rate_factor(self.model.config, self.model.position.step)
        for o in self._all:
            for group in o.param_groups:
                group["lr"] = group["peak"] * factor
            o.step()
        self.updates += 1
        self.model.settle()
        return norm

    def _clip(self) -> Tensor:
        c = self.model.config
        limit, parts = float(c.optim["clip"]), list(self._named.items())
        norm = nn.utils.get_total_norm([p.grad for _, p in parts if p.grad is not None])
        if limit <= 0:
            return norm
        if c.optim.get("clip_scope", "global") == "global":
            nn.utils.clip_grads_with_norm_([p for _, p in parts], limit, norm)
            return norm
        for s in range(len(c.segments)):
            nn.utils.clip_grad_norm_([p for n, p in parts if self._segment(n) == s], limit)
        return norm

    # -- states -----------------------------------------------------------------------------------------------

    def _states_of(self, name: str) -> tuple[torch.optim.Optimizer, dict[str, str]]:
        """The optimizer of a tensor, and {its word for a state: the checkpoint's name}."""
        if self.muon is not None and name in self._muon:
            return self.muon, {"momentum_buffer": f"momentum.{name}"}
        return self.adamw, {"exp_avg": f"exp_avg.{name}", "exp_avg_sq": f"exp_avg_sq.{name}"}

    def _load(self) -> None:
        source = self.model.source
        assert source is not None
        self.updates = source.updates
        for name, p in self._named.items():
            optimizer, words = self._states_of(name)
            state: dict[str, Any] = {word: source.tensor(key).to(p.device) for word, key in words.items()}
            if optimizer is self.adamw:
                state["step"] = torch.tensor(float(self.updates))
            optimizer.state[p] = state

    def states(self) -> dict[str, Tensor]:
        """Tensors of the states by their names in a checkpoint; zeros where a tensor has had no update."""
        out: dict[str, Tensor] = {}
        for name, p in self._named.items():
            optimizer, words = self._states_of(name)
            for word, key in words.items():
                out[key] = (
                    optimizer.state[p].get(word, torch.zeros_like(p)) if p in optimizer.state else torch.zeros_like(p)
                )
        return out


def train_step(model: Llama, optimizer: RunOptimizer, data: Shards) -> float:
    """One step as the run's configuration says, with its microbatches. Returns the mean loss."""
    train = model.config.train
    count, size = int(train["microbatches"]), int(train["batch"]) // int(train["microbatches"])
    device = model.model.embed_tokens.weight.device
    optimizer.zero_grad()
    total = 0.0
    for _ in range(count):
        ids, targets = (x.to(device) for x in data.batch(model.position.sequence, size))
        loss = model(ids, targets) / count
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total
