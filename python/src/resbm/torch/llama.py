"""The C program's model in PyTorch: a run's checkpoint gives the same loss and gradients here, and goes back.

    model = Llama.from_run("runs/demo")
    loss = model(ids, targets)          # boundaries, codecs and auxiliary losses as in the run
    loss.backward()
    model.save_run("runs/demo-2", optimizer)

Legend: B sequences, T positions, d width, V vocabulary.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checkpoint
from .blocks import Block, RMSNorm
from .crossing import Position
from .kinds import Boundary, Fixed, Pass, basis, fixed_embedding, orthonormal
from .run_config import RunConfig

if TYPE_CHECKING:
    from .run_optimizer import RunOptimizer


class Embedding(nn.Embedding):
    """The model's table; with kind subspace its rows keep a fixed part."""

    def __init__(self, vocab: int, d: int) -> None:
        super().__init__(vocab, d)
        self.register_buffer("fixed", None, persistent=False)


class Stack(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, c: RunConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(c.vocab, c.d)
        self.layers = nn.ModuleList(
            Block(c.d, c.heads, c.kv_heads, c.ffn, c.eps, c.qk_norm, c.head, c.qkv_bias) for _ in range(c.layers)
        )
        self.norm = RMSNorm(c.d, c.eps)


class Llama(nn.Module):
    """A run's whole model: segments, and the boundaries between them with their codecs.

    Called on ids (B,T) it gives logits (B,T,V); with targets (B,T) the mean loss over the tokens, whose gradient
    holds the auxiliary losses too, as the C program's. In training the learned steps and the position in the run
    (which keys the random bits of packed gradients) move on by themselves once an optimizer has changed the weights.

    Args:
        config: of the run, or its YAML.
    """

    def __init__(self, config: RunConfig | str) -> None:
        super().__init__()
        c = self.config = RunConfig(config) if isinstance(config, str) else config
        self.position = Position()
        self.source: checkpoint.Checkpoint | None = None
        self.model = Stack(c)
        self.lm_head = None if c.tied else nn.Linear(c.d, c.vocab, bias=False)
        self.boundary = nn.ModuleDict({str(i): Boundary(c, i, self.position) for i in range(len(c.segments) - 1)})
        self._initial_weights()
        if c.kind == "subspace" and len(c.segments) > 1:
            self._keep_to_subspace()
        self._seen = self._stamp()

    def _initial_weights(self) -> None:
        """Sizes of the C program's initial weights; a boundary's halves make their own."""
        c = self.config
        for name, p in self.named_parameters():
            if p.dim() == 2 and not name.startswith("boundary."):
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=c.std / math.sqrt(2 * c.layers) if writes else c.std)

    @classmethod
    def from_run(cls, path: str | os.PathLike[str]) -> Llama:
        """The model of a run's newest whole checkpoint, or of one ``step-N`` folder, where the run stands.

        Raises:
            ValueError: the checkpoint is damaged, or its tensors are not those of its configuration.
        """
        source = checkpoint.Checkpoint(path)
        model = cls(source.config)
        model.source = source
        wanted = model.state_dict()
        if set(wanted) != set(source.names):
            odd = sorted(set(wanted) ^ set(source.names))
            raise ValueError(f"{source.folder}: its tensors are not this model's; the first that differs: {odd[0]}")
        model.load_state_dict({name: source.tensor(name) for name in source.names})
        model.position.step, model.position.sequence = source.step, source.cursor
        model._seen = model._stamp()
        return model

    def save_run(self, directory: str | os.PathLike[str], optimizer: RunOptimizer | None = None) -> Path:
        """A checkpoint ``directory/step-N`` that ``resbm train --resume`` goes on from.

        Args:
            directory: of a run; ``config.yaml`` is put there where there is none.
            optimizer: whose states go with it. Without one the C program begins with fresh optimizer states.

        Returns:
            The folder.
        """
        self.settle()
        was: dict[str, Any] = {"epoch": 0, "counters": {}} if self.source is None else self.source.manifest
        at = self.position
        counters = dict(was["counters"])
        done = at.step if self.source is None else at.step - self.source.step
        counters["updates"] = (counters.get("updates") or at.step - done) + done
        counters["tokens"] = counters.get("tokens", 0) + done * self.config.context * int(self.config.train["batch"])
        states: dict[str, Tensor] = {}
        if optimizer is None:
            counters["optimizer_from"] = counters["updates"]
        else:
            states = optimizer.states()
            counters["optimizer_from"] = counters["updates"] - optimizer.updates
        return checkpoint.write(
            directory, self.config, self.state_dict(), states, step=at.step, cursor=at.sequence,
            epoch=int(was["epoch"]), counters=counters,
        )  # fmt: skip

    # -- forward ----------------------------------------------------------------------------------------------

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B,T,V) of ids (B,T); with targets (B,T) the mean loss."""
        self.settle()
        training = targets is not None and torch.is_grad_enabled()
        run = Pass(torch.arange(ids.shape[1], device=ids.device), count=training, targets=targets)
        x, aux = self.hidden(ids, run)
        logits = self.logits(x)
        if targets is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        if training:
            weight = self.config.aux_weight(self.position.step)
            for a in aux if weight else []:
                loss = loss + weight * (a - a.detach())
            self.position.sequence += ids.shape[0]
            self.position.in_step += ids.shape[0]
        return loss

    def hidden(self, ids: Tensor, run: Pass) -> tuple[Tensor, list[Tensor]]:
        """(stream (B,T,d) before the final norm, auxiliary losses) of ids (B,T)."""
        c, aux = self.config, []
        x = self.model.embed_tokens(ids)
        cos, sin = run.angles(c.rope, c.head, x)
        for s, count in enumerate(c.segments):
            first = c.first_layer(s)
            for i in range(first, first + count):
                x = self.model.layers[i](x, cos, sin, run.attend(i))
            if s + 1 < len(c.segments):
                x, a = self.boundary[str(s)](x, ids, run)
                aux += [a] if a is not None else []
        return x, aux

    def logits(self, x: Tensor) -> Tensor:
        """(B,T,V) of the stream (B,T,d)."""
        h = self.model.norm(x)
        return F.linear(h, self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight)

    # -- between steps ----------------------------------------------------------------------------------------

    def _stamp(self) -> int:
        return sum(p._version for p in self.parameters())

    @torch.no_grad()
    def settle(self) -> None:
        """If an optimizer has changed the weights since the last pass, the step before is over: constraints hold again,
        learned steps follow, the position moves on. Called by itself before every pass."""
        if self._stamp() == self._seen:
            return
        self._constrain()
        if self.position.in_step:
            for b in cast("list[Boundary]", list(self.boundary.values())):
                b.wire.end_step(b.encoder.steps, b.decoder.steps)
            self.position.step += 1
            self.position.in_step = 0
        self._seen = self._stamp()

    def _writers(self) -> list[nn.Parameter]:
        """What writes to the stream before the last boundary, with kind subspace: columns are kept in it."""
        layers = list(self.model.layers)[: self.config.first_layer(len(self.config.segments) - 1)]
        blocks = cast("list[Block]", layers)
        writers = [w for b in blocks for w in (b.self_attn.o_proj.weight, b.mlp.down_proj.weight)]
        return cast("list[nn.Parameter]", writers)

    def _keep_to_subspace(self) -> None:
        b = basis(self.config)
        fixed = fixed_embedding(self.config, b)
        self.model.embed_tokens.register_buffer("fixed", fixed, persistent=False)
        for half in cast("list[Boundary]", list(self.boundary.values())):
            half.encoder.register_buffer("basis", b, persistent=False)
            half.decoder.register_buffer("basis", b, persistent=False)
            half.decoder.embed_tokens = Fixed(fixed)
        for w in self._writers():
            w.register_hook(lambda g: self._basis().T @ (self._basis() @ g))
        self.model.embed_tokens.weight.register_hook(lambda g: (g @ self._basis().T) @ self._basis())

    def _basis(self) -> Tensor:
        return cast(Tensor, cast(Boundary, self.boundary["0"]).encoder.basis)

    def _constrain(self) -> None:
        for half in cast("list[Boundary]", list(self.boundary.values())):
            for r in (half.encoder.rotation, half.decoder.rotation):
                if r is not None:
                    r.weight.copy_(orthonormal(r.weight))
        if self.config.kind != "subspace" or len(self.config.segments) < 2:
            return
        b = self._basis()
        for w in self._writers():
            w.copy_(b.T @ (b @ w))
        e = self.model.embed_tokens
        e.weight.copy_(cast(Tensor, e.fixed) + (e.weight @ b.T) @ b)
