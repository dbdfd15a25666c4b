"""For loops that are not torch.distributed.pipelining's: bottlenecks whose messages look like ordinary activations.

A loop that sends a stage's output forward and its input's gradient backward (written by hand, or DeepSpeed's) moves
float tensors it knows nothing about. Here such a tensor is a container: packed bytes in a float tensor of fixed size.

    sender      x (B,T,d)        -> encoder -> pack -> container (B,w)
    receiver    container (B,w)  -> unpack -> decoder -> (B,T,d)
    backward    the receiver's gradient of the container is a container of the packed gradient, as large

Containers may be moved, saved and copied, not computed with: no cast, no scaling, no sum of two. B sequences, T
positions, w numbers of the container's dtype that hold the longer of the two messages of one sequence.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .bottleneck import Decoder, Encoder, Halves, ResidualBottleneck
from .link import Link, Traffic, recomputes
from .pair import Shape

__all__ = ["ReceiveEnd", "SendEnd", "attach", "container_width", "from_container", "to_container"]


def container_width(link: Link, length: int, dtype: torch.dtype) -> int:
    """Numbers w of a container (B,w) for sequences of `length` positions."""
    one = (1, length, link.k)
    most = max(link.forward_bytes(one), link.backward_bytes(one))
    return -(-most // dtype.itemsize)


def to_container(data: Tensor, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Container (rows, width) of packed bytes (u8, 1-D), the same number for each row; zeros behind them."""
    used = data.numel() // rows
    room = width * dtype.itemsize
    if used * rows != data.numel() or used > room:
        raise ValueError(f"{data.numel()} bytes do not fit {rows} rows of {room} bytes")
    out = torch.zeros(rows, room, dtype=torch.uint8, device=data.device)
    out[:, :used] = data.view(rows, used)
    return out.view(dtype)


def from_container(container: Tensor, used: int) -> Tensor:
    """Packed bytes (u8, 1-D): the first `used` of each row."""
    return container.detach().contiguous().view(torch.uint8)[:, :used].reshape(-1)


class _Packed(nn.Module):
    """One end: a half of a bottleneck, its wire, the container's form, the bytes counted.

    Args:
        bottleneck: one half of it is used.
        length: T.
        dtype: of the container.
    """

    side: ClassVar[str]  #: encoder or decoder

    def __init__(self, bottleneck: ResidualBottleneck, length: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        half, link = getattr(bottleneck, self.side), bottleneck.link
        if half is None:
            raise ValueError(f"boundary {link.index}: this bottleneck was cut, its {self.side} half is not here")
        if bottleneck.vocab:
            raise ValueError("a token path needs the token ids beside the latents: use resbm.torch.Stage")
        if link.codec is None or link.codec_backward is None:
            raise ValueError(f"boundary {link.index}: codec None makes no bytes; take f32")
        if not dtype.is_floating_point:
            raise TypeError(f"a container is a float tensor, autograd takes no {dtype}: f32, bf16 or f16")
        self.link = copy.deepcopy(link)  # each end counts and moves on by itself, as on two machines
        self.length, self.dtype = length, dtype
        self.width, self.traffic = container_width(self.link, length, dtype), Traffic()
        self.d_model = bottleneck.d_model
        self.add_module(self.side, half)

    @property
    def payload_bytes(self) -> dict[str, int]:
        """Bytes used of a sequence's container, by direction, and its whole size."""
        one = (1, self.length, self.link.k)
        return dict(
            forward=self.link.forward_bytes(one), backward=self.link.backward_bytes(one),
            container=self.width * self.dtype.itemsize,
        )  # fmt: skip

    @property
    def steps(self) -> Tensor | None:
        """The half's learned steps (k)."""
        return cast("Tensor | None", getattr(self, self.side).steps)

    def count_bytes(self, direction: str, rows: int) -> None:
        """One container of `rows` sequences leaves."""
        moved = rows * self.width * self.dtype.itemsize
        self.traffic.add(direction, moved, 2 * rows * self.length * self.d_model)

    def end_step(self) -> None:
        """A training step is over. Noticed without this call too, when an optimizer has changed the half's weights."""
        self.link.end_step(self.steps)

    def begins(self, trains: bool) -> bool:
        """Whether a message in training is the first of its kind, not computed again by activation checkpointing."""
        first = trains and not recomputes()
        if first:
            self.link.notice_optimizer(self.steps, None, getattr(self, self.side).fc1.weight)
        return first

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"boundary={self.link.index}, container=(B,{self.width}) {str(self.dtype).removeprefix('torch.')}"


class SendEnd(_Packed):
    """Sender's end, with the encoder half: x (B,T,d) -> container (B,w), whose gradient is a container too."""

    side = "encoder"
    encoder: Encoder

    def forward(self, x: Tensor) -> Tensor:
        """Container (B,w) of x (B,T,d)."""
        if x.dim() != 3 or x.shape[1:] != (self.length, self.d_model):
            raise ValueError(f"boundary {self.link.index}: {tuple(x.shape)}, not (B,{self.length},{self.d_model})")
        z = self.encoder(x)
        return cast(Tensor, _Send.apply(z, self, self.begins(torch.is_grad_enabled() and z.requires_grad)))


class ReceiveEnd(_Packed):
    """Receiver's end, with the decoder half: container (B,w) -> y (B,T,d)."""

    side = "decoder"
    decoder: Decoder

    def forward(self, container: Tensor) -> Tensor:
        """(B,T,d) of a container (B,w)."""
        if container.dim() != 2 or container.shape[1] != self.width or container.dtype != self.dtype:
            raise ValueError(
                f"boundary {self.link.index}: a container is (B,{self.width}) {self.dtype}, not "
                f"{tuple(container.shape)} {container.dtype}. Both ends need the same settings, and nothing may cast it"
            )
        trains = torch.is_grad_enabled() and (container.requires_grad or self.decoder.fc1.weight.requires_grad)
        first = self.begins(trains)
        place = self.link.place(container, container.shape[0]) if trains else self.link.sequence
        return cast(Tensor, self.decoder(_Receive.apply(container, self, first, place)))


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, end: SendEnd, count: bool) -> Tensor:
        ctx.end, ctx.shape, ctx.dtype = end, tuple(z.shape), z.dtype
        data = end.link.pack_forward(z, end.steps, count=count)
        end.count_bytes("forward", z.shape[0])
        return to_container(data, z.shape[0], end.width, end.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        end, shape = cast(SendEnd, ctx.end), cast(Shape, ctx.shape)
        if grads[0].dtype != end.dtype:
            raise TypeError(f"the container's gradient came back as {grads[0].dtype}: something cast it")
        used = end.link.backward_bytes((1, shape[1], shape[2]))
        return end.link.unpack_backward(from_container(grads[0], used), shape).to(ctx.dtype), None, None


class _Receive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, container: Tensor, end: ReceiveEnd, count: bool, sequence: int) -> Tensor:
        ctx.end, ctx.sequence, ctx.step = end, sequence, end.link.step
        link, shape = end.link, (container.shape[0], end.length, end.link.k)
        used = link.forward_bytes((1, end.length, link.k))
        return link.unpack_forward(from_container(container, used), shape, end.steps, count=count)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        end = cast(ReceiveEnd, ctx.end)
        data = end.link.pack_backward(grads[0], ctx.sequence, ctx.step)
        end.count_bytes("backward", grads[0].shape[0])
        return to_container(data, grads[0].shape[0], end.width, end.dtype), None, None, None


def attach(
    model: nn.Module, bottleneck: ResidualBottleneck, stage_index: int, num_stages: int, length: int,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:  # fmt: skip
    """Puts the ends around `model` with a forward pre-hook and a forward hook; its own code stays as it is.

    The first argument becomes a container on every stage but the first (give it ``requires_grad_()`` and send its
    ``.grad`` back), the output one on every stage but the last. The ends become ``model.boundary``, with the names of
    :meth:`ResidualBottleneck.cut`.

    Returns:
        `model` itself.
    """
    if not 0 <= stage_index < num_stages:
        raise ValueError(f"stage {stage_index} of {num_stages}: count from 0")
    if hasattr(model, "boundary"):
        raise ValueError("this model has a member `boundary` already: was it cut before?")
    ends = Halves()
    if stage_index > 0:
        ends[str(stage_index - 1)] = before = ReceiveEnd(bottleneck.copy(stage_index - 1), length, dtype)
        model.register_forward_pre_hook(lambda _, args: (before(args[0]), *args[1:]))
    if stage_index < num_stages - 1:
        ends[str(stage_index)] = behind = SendEnd(bottleneck.copy(stage_index), length, dtype)
        model.register_forward_hook(lambda _, args, output: behind(output))
    example = next(model.parameters(), None)
    model.boundary = ends if example is None else ends.to(example.device)
    return model
