"""One boundary's wire: the codecs of both directions, learned steps, position in the run, and bytes counted.

Position: `step` is the number of the training step (how many came before it), `sequence` the number of the step's first
sequence in the run's order. Together with seed and boundary they key the random bits, so the same run gives the same
bits on any number of ranks, and in the C program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .codec import BACKWARD, FORWARD, Codec, CodecError
from .pair import CodecPair, Shape, straight_through


@dataclass
class Traffic:
    """Bytes that one end of a boundary handed to the process group, headers of the transport not included.

    Attributes:
        forward, backward: sent since the beginning.
        per_microbatch: length of the last message of each direction.
        messages: how many were sent, both directions.
        uncompressed: what the same tensors (B,T,d) would have taken in bf16.
    """

    forward: int = 0
    backward: int = 0
    messages: int = 0
    uncompressed: int = 0
    per_microbatch: dict[str, int] = field(default_factory=dict)

    def add(self, direction: str, n: int, uncompressed: int) -> None:
        """Count one message of n bytes."""
        setattr(self, direction, getattr(self, direction) + n)
        self.messages += 1
        self.uncompressed += uncompressed
        self.per_microbatch[direction] = n

    @property
    def wire_ratio(self) -> float:
        """Bytes of a bf16 activation for each byte sent."""
        sent = self.forward + self.backward
        return self.uncompressed / sent if sent else 0.0


class Link(CodecPair):
    """The wire of boundary `index`.

    Args:
        codec, codec_backward: names; None for both: latents cross as they are, in any float type.
        scale: "step" or "token", for integer latents.
        k: latent width.
        index: number of the boundary.
        seed: of the run.
        vocab: token ids cross beside the latents where it is given.
    """

    def __init__(
        self, codec: str | None, codec_backward: str | None, scale: str, k: int, index: int, seed: int,
        vocab: int | None = None,
    ) -> None:  # fmt: skip
        self.codec, self.codec_backward = codec, codec_backward
        self.index, self.seed, self.vocab = index, seed, vocab
        self.step = self.sequence = 0
        self.tokens: Tensor | None = None  # (B,T) of the microbatch whose decoder runs next
        self._version: int | None = None
        self._taken: dict[bytes, int] = {}  # payload -> sequence, for what is computed again
        super().__init__(k, scale)

    def _open(self) -> None:
        key: dict[str, Any] = dict(boundary=self.index, seed=self.seed)
        self._forward = None if self.codec is None else Codec(self.codec, FORWARD, **key)
        self._backward = None if self.codec_backward is None else Codec(self.codec_backward, BACKWARD, **key)

    def describe(self) -> dict[str, Any]:
        """What both ends must agree on, for the handshake."""
        return dict(
            boundary=self.index, k=self.k, codec=self.codec, codec_backward=self.codec_backward, scale=self.scale,
            seed=self.seed, token_ids=self.vocab,
        )  # fmt: skip

    # -- messages ---------------------------------------------------------------------------------------------

    def forward_bytes(self, shape: Shape) -> int:
        """Payload of the latents (B,T,k), token ids included."""
        assert self._forward is not None
        steps = torch.empty(shape[2]) if self.learns else None
        return self._forward.packed_bytes(shape, steps) + self.id_bytes(shape)

    def backward_bytes(self, shape: Shape) -> int:
        """Payload of the latents' gradient."""
        assert self._backward is not None
        return self._backward.packed_bytes(shape)

    def id_bytes(self, shape: Shape) -> int:
        """Of the token ids (B,T), 1 to 4 bytes each."""
        return shape[0] * shape[1] * _id_size(self.vocab) if self.vocab else 0

    def pack_forward(
        self, z: Tensor, steps: Tensor | None, tokens: Tensor | None = None, count: bool = False
    ) -> Tensor:
        """Payload (u8) of latents z (B,T,k) and token ids (B,T)."""
        assert self._forward is not None
        data = self._forward.pack(z, steps=steps if self.learns else None)
        if count:
            self.count(data, (z.shape[0], z.shape[1], z.shape[2]), steps)
        return data if not self.vocab else torch.cat((data, _put_ids(tokens, self.vocab).to(data.device)))

    def unpack_forward(
        self,
        payload: Tensor,
        shape: Shape,
        steps: Tensor | None,
        out: Tensor | None = None,
        count: bool = False,
    ) -> Tensor:
        """Latents (B,T,k) f32; token ids, where they cross, are in `self.tokens` then."""
        assert self._forward is not None
        data = payload[: payload.numel() - self.id_bytes(shape)]
        if self.vocab:
            self.tokens = _get_ids(payload[data.numel() :], shape, self.vocab)
        if count:
            self.count(data, shape, steps)
        return self._forward.unpack(data, shape, steps=steps if self.learns else None, out=out)

    def pack_backward(self, g: Tensor, sequence: int, step: int | None = None) -> Tensor:
        """Payload (u8) of the latents' gradient g (B,T,k); sequence: number of its first one; step: None is now."""
        assert self._backward is not None
        return self._backward.pack(g, step=self.step if step is None else step, sequence=sequence)

    def unpack_backward(self, payload: Tensor, shape: Shape, out: Tensor | None = None) -> Tensor:
        """Gradient (B,T,k) f32."""
        assert self._backward is not None
        return self._backward.unpack(payload, shape, out=out)

    # -- learned steps and position ---------------------------------------------------------------------------

    def end_step(self, *steps: Tensor | None, sequences: int = 0) -> None:
        """A training step is done: the learned steps of the ends that are here follow, the position moves on."""
        self.follow(self.step, self.k, *steps)
        self._taken.clear()
        self.step += 1
        self.sequence += sequences

    # -- both ends in one process -----------------------------------------------------------------------------

    @torch.compiler.disable
    def cross(self, z: Tensor, sender: Tensor | None, receiver: Tensor | None, witness: Tensor) -> Tensor:
        """q of z (B,T,k), straight through: what the receiver would see, forward and backward.

        Args:
            z: latents.
            sender, receiver: learned steps of both halves, equal.
            witness: a trained parameter; once an optimizer has changed it, the step before is over.
        """
        if self._forward is None:
            return z
        if z.dtype == torch.float64:
            raise CodecError("the codec takes f32, bf16 or f16, not float64; for float64 take codec=None")
        if not (torch.is_grad_enabled() and z.requires_grad):
            return self._round_trip(z, sender, False)[0]
        again = recomputes()
        if not again:
            self.notice_optimizer(sender, receiver, witness)
        q, data = self._round_trip(z, sender, not again)
        back = partial(self._round_gradient, step=self.step, sequence=self.place(data, z.shape[0]))
        return straight_through(z, q, back)

    def _round_gradient(self, g: Tensor, step: int, sequence: int) -> Tensor:
        if self._backward is None:
            return g
        data = self._backward.pack(g, step=step, sequence=sequence)
        return self._backward.unpack(data, (g.shape[0], g.shape[1], g.shape[2]))

    def place(self, data: Tensor, rows: int) -> int:
        """Number of the first sequence of a message of `rows`; what is computed again keeps the number it had."""
        key = bytes(data.detach().cpu().contiguous().view(torch.uint8).untyped_storage())
        if key not in self._taken or not recomputes():
            self._taken[key] = self.sequence
            self.sequence += rows
        return self._taken[key]

    def _round_trip(self, z: Tensor, steps: Tensor | None, count: bool) -> tuple[Tensor, Tensor]:
        assert self._forward is not None
        shape, s = (z.shape[0], z.shape[1], z.shape[2]), steps if self.learns else None
        data = self._forward.pack(z, steps=s)
        if count:
            self.count(data, shape, s)
        return self._forward.unpack(data, shape, steps=s), data

    def notice_optimizer(self, sender: Tensor | None, receiver: Tensor | None, witness: Tensor) -> None:
        """Before a training message: once an optimizer has changed `witness`, the step before is over."""
        version = witness._version
        if self._version is not None and version != self._version and (self._taken or self._counted):
            self.end_step(sender, receiver)
        self._version = version


def recomputes() -> bool:
    """Whether activation checkpointing computes a forward again, inside a backward."""
    return torch._C._current_graph_task_id() != -1


def _id_size(vocab: int) -> int:
    n = 1
    while n < 4 and vocab > 1 << 8 * n:
        n += 1
    return n


def _put_ids(tokens: Tensor | None, vocab: int) -> Tensor:
    """(B*T*size) bytes of token ids (B,T)."""
    if tokens is None:
        raise ValueError("this boundary sends token ids beside the latents: give the first stage token ids (B,T)")
    shift = torch.arange(0, 8 * _id_size(vocab), 8, device=tokens.device)
    return (tokens.to(torch.int64).flatten()[:, None] >> shift & 255).to(torch.uint8).flatten()


def _get_ids(data: Tensor, shape: Shape, vocab: int) -> Tensor:
    """Token ids (B,T) i64 of their bytes; received, so not trusted."""
    size = _id_size(vocab)
    shift = torch.arange(0, 8 * size, 8, device=data.device)
    ids = (data.view(-1, size).to(torch.int64) << shift).sum(-1).view(shape[0], shape[1])
    if int(ids.max()) >= vocab:
        raise CodecError(f"received token id {int(ids.max())}, the vocabulary has {vocab}")
    return ids
