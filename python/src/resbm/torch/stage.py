"""A pipeline stage that sends packed bytes, in place of torch.distributed.pipelining's.

The runtime asks a stage for point-to-point operations and waits for them before it computes; `PackedStage` answers with
operations on packed bytes and unpacks when the computation begins. It knows no schedule. Hand-overs between two stages
of one rank go through the same rounding, so a result does not depend on where stages run.

    forward_one_chunk            unpack what came -> decoder, blocks, encoder (the module) -> pack
    get_fwd_send_ops             the packed latents
    get_bwd_recv_ops             room for the packed gradient, unpacked by backward_one_chunk
    get_bwd_send_ops             the packed gradient of what came
    set_local_fwd_input, _bwd_   round what another stage of this rank hands over
    perform_reduce_grad          all microbatches are done: learned steps follow, the position moves on
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import Pipe, PipelineStage

from .. import __version__
from . import _pipelining
from .bottleneck import ResidualBottleneck, _ends
from .handshake import Board, Word, compare
from .link import Link, Traffic
from .pair import Shape

_pipelining.check()
from torch.distributed.pipelining.stage import (  # noqa: E402
    _PipelineStage,
    _PipelineStageBase,
)

#: Raised when what stages send each other changes.
PROTOCOL = 1
#: Where a stage's output carries its token ids for a stage of the same rank.
_IDS = "resbm_token_ids"


class _End:
    """One end of a boundary as a stage sees it: its wire, its learned steps, what goes out and comes in."""

    def __init__(self, link: Link, steps: Tensor | None, width: int) -> None:
        self.link, self.steps, self.width = link, steps, width
        self.shape: Shape = (0, 0, 0)
        self.incoming: dict[int, Tensor] = {}
        self.outgoing: dict[int, Tensor] = {}
        self.traffic = Traffic()

    def count(self, direction: str, payload: Tensor) -> None:
        self.traffic.add(direction, payload.numel(), 2 * self.shape[0] * self.shape[1] * self.width)


class PackedStage(_PipelineStageBase):
    """What hand-cut and traced stages have in common; see the module's text. Mixed in before torch's class."""

    before: _End | None
    behind: _End | None

    def _open_ends(self, before: ResidualBottleneck | None, behind: ResidualBottleneck | None) -> None:
        if not self.is_first and before is None:
            raise ValueError(_no_half(self.stage_index, "decoder", self.stage_index - 1))
        if not self.is_last and behind is None:
            raise ValueError(_no_half(self.stage_index, "encoder", self.stage_index))
        self.before = None if before is None or self.is_first else _end(before, "decoder")
        self.behind = None if behind is None or self.is_last else _end(behind, "encoder")
        self._settings_agreed = self._agreed = self._shapes_agreed = False
        self._local_ids: dict[int, Tensor] = {}
        self._board = Board(self.group, self.stage_index)
        for end, side in ((self.before, "decoder"), (self.behind, "encoder")):
            if end is not None:
                self._board.publish(f"{end.link.index}/{side}", self._word(end))

    # -- agreement --------------------------------------------------------------------------------------------

    def _word(self, end: _End) -> Word:
        release = torch.__version__.split("+")[0]
        said = dict(protocol=PROTOCOL, resbm=__version__, torch=release, width=end.width, stages=self.num_stages)
        return said | end.link.describe()

    def _who(self, stage: int) -> str:
        return f"stage {stage} (rank {self.stage_index_to_group_rank.get(stage, '?')})"

    def _neighbours(self) -> list[tuple[_End, int, str]]:
        """Of each end: itself, the stage beyond it, that stage's side of the boundary."""
        both = ((self.before, self.stage_index - 1, "encoder"), (self.behind, self.stage_index + 1, "decoder"))
        return [(end, other, side) for end, other, side in both if end is not None]

    def _agree_settings(self) -> None:
        """With both neighbours. Torch's warm-up would wait for one that is not there for the group's whole timeout."""
        if self._settings_agreed:
            return
        for end, other, side in self._neighbours():
            who, them = self._who(self.stage_index), self._who(other)
            theirs = self._board.read(f"{end.link.index}/{side}", who, f"{them} to say how it packs")
            compare(who, self._word(end), them, theirs)
        self._settings_agreed = True

    def _agree_microbatches(self, microbatches: int) -> None:
        """With both neighbours, before torch infers shapes from what they send."""
        self._board.publish_for_all("microbatches", dict(microbatches=microbatches))
        for _, other, _ in self._neighbours():
            who, them = self._who(self.stage_index), self._who(other)
            theirs = self._board.read(f"microbatches/{other}", who, f"{them} to begin a step")
            compare(who, dict(microbatches=microbatches), them, theirs)
        self._agreed = True

    def _take_shapes(self, microbatches: int) -> None:
        for end, metas in ((self.before, self._stage_meta.inputs), (self.behind, self._stage_meta.outputs)):
            if end is not None:
                end.shape = _latent_shape(self._who(self.stage_index), end, metas)
        if self.behind is not None:
            self._board.publish(f"{self.behind.link.index}/shape", self._sizes(self.behind, microbatches))
        if self.before is not None:
            i, who, them = self.before.link.index, self._who(self.stage_index), self._who(self.stage_index - 1)
            theirs = self._board.read(f"{i}/shape", who, f"{them} to say what it sends")
            mine = self._sizes(self.before, microbatches)
            self._board.publish(f"{i}/reply", mine)
            compare(who, mine, them, theirs)

    @staticmethod
    def _sizes(end: _End, microbatches: int) -> Word:
        return dict(shape=list(end.shape), microbatches=microbatches)

    def _hear_reply(self) -> None:
        """Before the first message: has the receiver the same shape in mind?"""
        if self._shapes_agreed or self.behind is None:
            return
        who, them = self._who(self.stage_index), self._who(self.stage_index + 1)
        theirs = self._board.read(f"{self.behind.link.index}/reply", who, f"{them} to say what it receives")
        compare(who, self._sizes(self.behind, self._microbatches), them, theirs)
        self._shapes_agreed = True

    def _get_init_p2p_neighbors_ops(self) -> list[dist.P2POp]:
        """The warm-up of traced stages. Torch also sends to this very rank where it holds a neighbour; gloo cannot."""
        self._agree_settings()
        return [op for op in super()._get_init_p2p_neighbors_ops() if op.group_peer != self.group_rank]

    def _prepare_forward_infra(
        self, num_microbatches: int, args: Any, kwargs: dict[str, Any] | None = None, has_backward: bool = False
    ) -> Any:
        self._agree_settings()
        if not self._agreed:
            self._agree_microbatches(num_microbatches)
        self._microbatches = num_microbatches
        result = super()._prepare_forward_infra(num_microbatches, args, kwargs, has_backward)  # type: ignore[safe-super]
        if not self._shapes_agreed:
            self._take_shapes(num_microbatches)
        return result

    # -- forward ----------------------------------------------------------------------------------------------

    def _training(self) -> bool:
        return bool(self.has_backward) and torch.is_grad_enabled()

    def forward_one_chunk(
        self, fwd_chunk_id: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None,
        save_forward_output: bool = True,
    ) -> Any:  # fmt: skip
        """Unpack, compute, pack one microbatch."""
        ids = self._unpack_input(fwd_chunk_id, args)
        output = super().forward_one_chunk(fwd_chunk_id, args, kwargs, save_forward_output)
        if self.behind is not None:
            z = _one_tensor(self._who(self.stage_index), output)
            setattr(z, _IDS, ids)
            self.behind.outgoing[fwd_chunk_id] = self.behind.link.pack_forward(
                z, self.behind.steps, ids, self._training()
            )
        return output

    def _unpack_input(self, chunk: int, args: tuple[Any, ...]) -> Tensor | None:
        """Fills the input buffer from what came; gives the microbatch's token ids."""
        end = self.before
        if end is None:
            first = args[0] if args else None
            return first if isinstance(first, Tensor) and not first.is_floating_point() else None
        payload = end.incoming.pop(chunk, None)
        if payload is not None:
            (info,) = self.args_recv_info[chunk]
            end.link.unpack_forward(payload, end.shape, end.steps, info.buffer.detach(), self._training())
        elif end.link.vocab:
            end.link.tokens = self._local_ids.pop(chunk)
        return end.link.tokens

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """Room for the packed latents."""
        if self.before is None:
            return []
        end = self.before
        payload = torch.empty(end.link.forward_bytes(end.shape), dtype=torch.uint8, device=self.device)
        end.incoming[fwd_chunk_id] = payload
        return [dist.P2POp(dist.irecv, payload, self._resolve_peer_global_rank(self.stage_index - 1), self.group)]

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        """The packed latents."""
        if self.behind is None:
            return []
        self._hear_reply()
        payload = self.behind.outgoing[fwd_chunk_id]
        self.behind.count("forward", payload)
        return [dist.P2POp(dist.isend, payload, self._resolve_peer_global_rank(self.stage_index + 1), self.group)]

    def set_local_fwd_input(self, prev_stage_outputs: Any, mb_index: int) -> None:
        """Take latents from a stage of this rank, rounded as if they had crossed."""
        assert self.before is not None
        end, z = self.before, _one_tensor(self._who(self.stage_index - 1), prev_stage_outputs)
        ids = None
        if end.link.vocab:
            ids = self._local_ids[mb_index] = cast(Tensor, getattr(z, _IDS))
        payload = end.link.pack_forward(z, end.steps, ids)
        q = end.link.unpack_forward(payload, end.shape, end.steps, count=self._training())
        super().set_local_fwd_input(q, mb_index)

    # -- backward ---------------------------------------------------------------------------------------------

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> None:
        """Unpack the gradient that came, then compute."""
        end = self.behind
        payload = None if end is None else end.incoming.pop(bwd_chunk_id, None)
        if end is not None and payload is not None:
            (info,) = self.grad_recv_info[bwd_chunk_id]
            end.link.unpack_backward(payload, end.shape, info.buffer)
        super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)

    def _sequence(self, end: _End, chunk: int) -> int:
        return end.link.sequence + chunk * end.shape[0]

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """Room for the packed gradient."""
        end = self.behind
        if end is None or not self.has_backward:
            return []
        payload = torch.empty(end.link.backward_bytes(end.shape), dtype=torch.uint8, device=self.device)
        end.incoming[bwd_chunk_id] = payload
        return [dist.P2POp(dist.irecv, payload, self._resolve_peer_global_rank(self.stage_index + 1), self.group)]

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        """The packed gradient of what came."""
        end = self.before
        if end is None or not self.has_backward:
            return []
        payload = self._pack_gradient(end, self.bwd_cache.pop(bwd_chunk_id), bwd_chunk_id)
        end.outgoing[bwd_chunk_id] = payload  # kept until it has left
        end.count("backward", payload)
        return [dist.P2POp(dist.isend, payload, self._resolve_peer_global_rank(self.stage_index - 1), self.group)]

    def _pack_gradient(self, end: _End, grads: Sequence[Tensor | None], chunk: int) -> Tensor:
        (g,) = grads
        if g is None:
            g = torch.zeros(end.shape, device=self.device)
        return end.link.pack_backward(g, self._sequence(end, chunk))

    def set_local_bwd_input(self, next_stage_bwd_outputs: tuple[Tensor | None, ...], mb_index: int) -> None:
        """Take a gradient from a stage of this rank, rounded as if it had crossed."""
        assert self.behind is not None
        end = self.behind
        payload = self._pack_gradient(end, next_stage_bwd_outputs, mb_index)
        super().set_local_bwd_input((end.link.unpack_backward(payload, end.shape),), mb_index)

    # -- a step's ends ----------------------------------------------------------------------------------------

    def clear_runtime_states(self) -> None:
        """Before a step."""
        super().clear_runtime_states()
        for end in (self.before, self.behind):
            if end is not None:
                end.incoming.clear()
                end.outgoing.clear()
        self._local_ids.clear()

    def perform_reduce_grad(self, grad_scale_factor: int) -> None:
        """All microbatches are done."""
        super().perform_reduce_grad(grad_scale_factor)
        if not self.has_backward:
            return  # torch calls this at the end of an evaluation too
        for end in (self.before, self.behind):
            if end is not None:
                end.link.end_step(end.steps, sequences=self._microbatches * end.shape[0])

    def set_position(self, step: int, sequence: int) -> None:
        """Where a resumed run goes on: steps done, and number of the next sequence."""
        for end in (self.before, self.behind):
            if end is not None:
                end.link.step, end.link.sequence = step, sequence

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Bytes sent so far by this stage, by link: "0->1" holds its activations, "1->0" its gradients."""
        i = self.stage_index
        ends = {f"{i}->{i + 1}": self.behind, f"{i}->{i - 1}": self.before}
        return {name: end.traffic for name, end in ends.items() if end is not None}

    def log_traffic(self, writer: Any, step: int) -> None:
        """Bytes of each link and of one microbatch to a TensorBoard SummaryWriter (or what has its add_scalar)."""
        for name, t in self.traffic.items():
            writer.add_scalar(f"resbm/{name}/bytes", t.forward + t.backward, step)
            for direction, n in t.per_microbatch.items():
                writer.add_scalar(f"resbm/{name}/{direction}_bytes_per_microbatch", n, step)


class Stage(PackedStage, PipelineStage):
    """`torch.distributed.pipelining.PipelineStage` with packed messages; the same arguments.

    The submodule has been cut by :meth:`ResidualBottleneck.cut`, so that it takes and gives latents (B,T,k).
    """

    def __init__(self, submodule: nn.Module, stage_index: int, num_stages: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(submodule, stage_index, num_stages, *args, **kwargs)
        cut = _cut_module(submodule)
        before, behind = (None, None) if cut is None else _ends(cut)
        self._open_ends(before, behind)

    def _warmup_forward_vote(self, has_backward: bool, *args: Any, **kwargs: Any) -> Tensor:
        """The warm-up of hand-cut stages."""
        self._agree_settings()
        return cast(Tensor, super()._warmup_forward_vote(has_backward, *args, **kwargs))

    def _compute_outputs(self, *args: Tensor, module: nn.Module, **kwargs: Any) -> Any:
        """Torch runs the module once to learn shapes: token ids of any value will do."""
        if self.before is not None and self.before.link.vocab:
            self.before.link.tokens = torch.zeros(args[0].shape[:2], dtype=torch.int64, device=args[0].device)
        return super()._compute_outputs(*args, module=module, **kwargs)


class TracedStage(PackedStage, _PipelineStage):
    """The same for a stage that the tracer front end made; see :func:`build_stage`."""

    def __init__(
        self, module: nn.Module, stage_index: int, info: Any, device: torch.device,
        group: dist.ProcessGroup | None, before: ResidualBottleneck | None, behind: ResidualBottleneck | None,
    ) -> None:  # fmt: skip
        super().__init__(module, stage_index, info, device, group)
        self._open_ends(before, behind)
        for end in (self.before, self.behind):  # the model's whole bottleneck may serve two stages of this rank
            if end is not None:
                end.link = copy.deepcopy(end.link)


def build_stage(
    pipe: Pipe, model: nn.Module, stage_index: int, device: torch.device, group: dist.ProcessGroup | None = None
) -> TracedStage:
    """Stage `stage_index` of a traced model, in place of ``pipe.build_stage``.

    Args:
        pipe: what ``torch.distributed.pipelining.pipeline`` made of `model`.
        model: whose ResidualBottlenecks, in their order, are where it was split. Their learned steps go on living
            in it; the trained weights are the traced stage's.
        stage_index, device, group: as for ``pipe.build_stage``.
    """
    cuts = [m for m in model.modules() if isinstance(m, ResidualBottleneck)]
    if len(cuts) != pipe.num_stages - 1:
        raise ValueError(
            f"the traced pipeline has {pipe.num_stages} stages, the model {len(cuts)} bottlenecks: there must be one "
            "between two stages, and no other split"
        )
    if any(b.vocab for b in cuts):
        raise ValueError(
            "the tracer front end cannot carry a token path; cut the model by hand (ResidualBottleneck.cut)"
        )
    for i, b in enumerate(cuts):
        if b.link.index != i:
            raise ValueError(f"bottleneck {i} of the model has index {b.link.index}: give index={i}")
    stage = pipe.build_stage(stage_index, device, group)
    before = cuts[stage_index - 1] if stage_index else None
    behind = cuts[stage_index] if stage_index < len(cuts) else None
    return TracedStage(stage.submod, stage_index, pipe.info(), device, group, before, behind)


def _end(half: ResidualBottleneck, side: str) -> _End:
    if half.link.codec is None or half.link.codec_backward is None:
        raise ValueError(f"boundary {half.link.index}: codec None sends no bytes; for a stage take f32")
    module = half.encoder if side == "encoder" else half.decoder
    return _End(half.link, None if module is None else module.steps, half.d_model)


def _cut_module(module: nn.Module) -> nn.Module | None:
    """The module that `cut` changed, below what DDP, FSDP or compile put around it."""
    for m in module.modules():
        boundary = getattr(m, "boundary", None)
        if isinstance(boundary, nn.ModuleDict) and all(isinstance(b, ResidualBottleneck) for b in boundary.values()):
            return m
    return None


def _no_half(stage: int, side: str, boundary: int) -> str:
    return (
        f"stage {stage} has no {side} of boundary {boundary}: "
        "model = ResidualBottleneck(d_model, ratio).cut(model, stage_index, num_stages) puts it there"
    )


def _one_tensor(who: str, output: Any) -> Tensor:
    if isinstance(output, (tuple, list)) and len(output) == 1:
        output = output[0]
    if isinstance(output, Tensor):
        return output
    n = len(output) if isinstance(output, (tuple, list)) else type(output).__name__
    raise TypeError(f"{who} gives {n} values; only the latents may cross, as one tensor (B,T,k)")


def _latent_shape(who: str, end: _End, metas: Any) -> Shape:
    """(B,T,k) of the one tensor that crosses."""
    if metas is None or len(metas) != 1:
        raise TypeError(f"{who}: {len(metas or ())} tensors would cross boundary {end.link.index}, not one (B,T,k)")
    shape = tuple(metas[0].shape)
    if len(shape) != 3 or shape[2] != end.link.k:
        raise ValueError(f"{who}: {shape} would cross boundary {end.link.index}, not (B,T,{end.link.k})")
    if metas[0].dtype != torch.float32:
        raise TypeError(
            f"{who}: latents of {str(metas[0].dtype).removeprefix('torch.')} would cross boundary {end.link.index}; "
            "the codec takes float32. Use f32, bf16 or f16 weights, or codec=None in one process"
        )
    return shape
