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
from .blocks import Block
from .crossing import Position
from .kinds import Boundary, Pass, orthonormal
from .run_config import RunConfig
from .stack import Stack, boundaries, halves, has_subspace, head, lay_subspace

if TYPE_CHECKING:
    from .run_optimizer import RunOptimizer


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
        self.model, self.lm_head, self.boundary = Stack(c), head(c), boundaries(c, self.position)
        self._initial_weights()
        if has_subspace(c):
            lay_subspace(self.model, self.boundary)
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
        x, aux = self.model.hidden(ids, run, self.boundary)
        logits = self.model.logits(x, self.lm_head)
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
            for b in halves(self.boundary):
                b.wire.end_step(b.encoder.steps, b.decoder.steps)
            self.position.step += 1
            self.position.in_step = 0
        self._seen = self._stamp()

    def _writers(self) -> list[nn.Parameter]:
        """What writes to the stream before the last boundary, with kind subspace: columns are kept in it."""
        end = self.config.first_layer(len(self.config.segments) - 1)
        blocks = cast("list[Block]", list(self.model.layers))
        writers = [w for b in blocks[:end] for w in (b.self_attn.o_proj.weight, b.mlp.down_proj.weight)]
        if self.config.inside:
            writers.append(blocks[end].self_attn.o_proj.weight)
        return cast("list[nn.Parameter]", writers)

    def _keep_to_subspace(self) -> None:
        """Gradients of what writes to the stream are projected on it."""
        for w in self._writers():
            w.register_hook(lambda g: self._basis().T @ (self._basis() @ g))
        self.model.embed_tokens.weight.register_hook(lambda g: (g @ self._basis().T) @ self._basis())

    def _basis(self) -> Tensor:
        return cast(Tensor, cast(Boundary, self.boundary["0"]).encoder.basis)

    def _constrain(self) -> None:
        for half in halves(self.boundary):
            for r in (half.encoder.rotation, half.decoder.rotation):
                if r is not None:
                    r.weight.copy_(orthonormal(r.weight))
        if not has_subspace(self.config):
            return
        b = self._basis()
        for w in self._writers():
            w.copy_(b.T @ (b @ w))
        e = self.model.embed_tokens
        e.weight.copy_(cast(Tensor, e.fixed) + (e.weight @ b.T) @ b)
