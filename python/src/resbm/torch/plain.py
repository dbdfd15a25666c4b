"""A bottleneck as four plain functions, the form that harnesses for activation codecs expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .bottleneck import ResidualBottleneck
from .codec import CodecError
from .hooks import container_width, from_container, to_container
from .pair import Shape

Meta = dict[str, Any]

__all__ = ["Functions", "Meta", "functions"]


class Functions(NamedTuple):
    """What :func:`functions` gives; each can be passed around alone.

    Attributes:
        encode: x (B,T,d) -> z (B,T,k), differentiable.
        decode: z (B,T,k) -> y (B,T,d), differentiable.
        pack: (t (B,T,k), backward=False) -> (payload, meta): latents, or their gradient.
        unpack: (payload, meta, backward=False) -> t (B,T,k) f32.
        end_step: () -> None; a training step is over: learned steps follow, random bits move on.
    """

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    pack: Callable[..., tuple[Tensor, Meta]]
    unpack: Callable[..., Tensor]
    end_step: Callable[[], None]


def functions(
    bottleneck: ResidualBottleneck, length: int | None = None, container: torch.dtype | None = None, end: str = "both"
) -> Functions:
    """encode, decode, pack and unpack of `bottleneck`, without a graph through pack and unpack.

    Args:
        bottleneck: whole.
        length: T of every tensor, where a container is asked for.
        container: None: payloads are bytes (u8, 1-D), as many as it takes. A float dtype: payloads are (B,w) of it,
            the same w forward and backward (hooks.container_width); zeros behind the bytes used.
        end: "both" ends are in this process, or only the "sender" or "receiver": who counts codes for learned steps.

    meta is plain numbers: `shape` of the tensor, `bytes` used, `payload_bytes` that move, `backward`, `boundary`.
    """
    if bottleneck.encoder is None or bottleneck.decoder is None:
        raise ValueError("this bottleneck was cut: only one of its halves is here")
    if container is not None and (length is None or not container.is_floating_point):
        raise ValueError(f"a container needs its length T and a float dtype; got length={length}, {container}")
    if end not in ("both", "sender", "receiver"):
        raise ValueError(f"end {end!r}: 'both', 'sender' or 'receiver'")
    b, link = bottleneck, bottleneck.link
    encoder, decoder = bottleneck.encoder, bottleneck.decoder
    if link.codec is None or link.codec_backward is None or b.vocab:
        raise ValueError("functions need a codec in both directions and no token path")
    width = 0 if container is None or length is None else container_width(link, length, container)

    def encode(x: Tensor) -> Tensor:
        return cast(Tensor, encoder(x))

    def decode(z: Tensor) -> Tensor:
        return cast(Tensor, decoder(z))

    def pack(t: Tensor, backward: bool = False) -> tuple[Tensor, Meta]:
        shape = _shape(t, link.k, length if width else None)
        if backward:
            data = link.pack_backward(t, link.sequence)
            link.sequence += shape[0]
        else:
            counts = end != "receiver" and t.requires_grad and torch.is_grad_enabled()
            data = link.pack_forward(t, encoder.steps, count=counts)
        payload = data if container is None else to_container(data, shape[0], width, container)
        meta = dict(
            shape=shape, bytes=data.numel(), payload_bytes=payload.numel() * payload.element_size(),
            backward=backward, boundary=link.index,
        )  # fmt: skip
        return payload, meta

    def unpack(payload: Tensor, meta: Meta, backward: bool = False) -> Tensor:
        shape = cast(Shape, tuple(meta["shape"]))
        if bool(meta["backward"]) != backward:
            raise CodecError(f"this payload is {'a gradient' if meta['backward'] else 'latents'}; unpack it as such")
        if payload.dtype != (container or torch.uint8):
            raise CodecError(f"a payload is {container or torch.uint8}, not {payload.dtype}: something cast it")
        data = payload if container is None else from_container(payload, int(meta["bytes"]) // shape[0])
        if backward:
            return link.unpack_backward(data, shape)
        counts = end == "receiver" and decoder.training and torch.is_grad_enabled()
        return link.unpack_forward(data, shape, decoder.steps, count=counts)

    def end_step() -> None:
        link.end_step(encoder.steps if end != "receiver" else None, decoder.steps if end != "sender" else None)

    return Functions(encode, decode, pack, unpack, end_step)


def _shape(t: Tensor, k: int, length: int | None) -> Shape:
    if t.dim() != 3 or t.shape[2] != k or length not in (None, t.shape[1]):
        raise CodecError(f"pack takes (B,{length or 'T'},{k}), not {tuple(t.shape)}")
    return t.shape[0], t.shape[1], t.shape[2]
