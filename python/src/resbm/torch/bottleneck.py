"""The residual bottleneck: an encoder half for the sender and a decoder half for the receiver.

Legend: B sequences, T positions, d width of the model, k = d / ratio latent width, m hidden width of both halves,
V vocabulary. n(.) is RMSNorm.

    sender      z = W_e2 silu(W_e1 n(x)) + I_k x                 (B,T,d) -> (B,T,k)
    wire        q = unpack(pack(z)), and the gradient of z back the same way (straight through)
    receiver    y = W_d2 silu(W_d1 q) + I_k^T q  [+ S(tokens)]   (B,T,k) -> (B,T,d)

Tensors have the names and shapes of the C program's: ``boundary.0.encoder.norm.weight`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.pipelining import pipe_split

from .blocks import Block, RMSNorm, rope_table
from .link import Link

IDENTITIES = ("truncate", "none")
TOKENS = (None, "embedding", "trunk")


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.normal_(std=std) if std else layer.weight.zero_()
    return layer


class Encoder(nn.Module):
    """Sender's half: (B,T,d) -> (B,T,k), f32 or wider whatever autocast is on."""

    steps: Tensor | None

    def __init__(self, d: int, k: int, hidden: int, identity: str, std: float, eps: float, steps: bool) -> None:
        super().__init__()
        self.k, self.identity = k, identity
        self.norm = RMSNorm(d, eps)
        self.fc1 = _linear(d, hidden or k, 1 / math.sqrt(d) if hidden else std)
        self.fc2 = _linear(hidden, k, std) if hidden else None
        self.register_buffer("steps", torch.full((k,), 0.3) if steps else None)

    def forward(self, x: Tensor) -> Tensor:
        """z (B,T,k) of x (B,T,d)."""
        z = self.fc1(self.norm(x))
        if self.fc2 is not None:
            z = self.fc2(F.silu(z))
        if self.identity == "truncate":
            z = z + x[..., : self.k]
        return z.float() if z.dtype in (torch.bfloat16, torch.float16) else z


class TokenEmbedding(nn.Module):
    """Token path S as one table: E[tokens], E (V,d)."""

    def __init__(self, vocab: int, d: int, std: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab, d)
        nn.init.normal_(self.embed_tokens.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,T,d) of tokens (B,T)."""
        return cast(Tensor, self.embed_tokens(tokens))


class Trunk(nn.Module):
    """Token path S as an embedding and a few causal blocks of a width u of their own; mapped up to d unless u is d."""

    def __init__(
        self,
        vocab: int,
        d: int,
        std: float,
        eps: float,
        theta: float,
        blocks: int,
        width: int,
        heads: int,
        ffn: int,
    ) -> None:
        super().__init__()
        self.theta, self.head = theta, width // heads
        self.embed_tokens = nn.Embedding(vocab, width)
        self.layers = nn.ModuleList(Block(width, heads, heads, ffn, eps) for _ in range(blocks))
        self.norm = RMSNorm(width, eps) if width != d else None
        self.up = _linear(width, d, std) if width != d else None
        nn.init.normal_(self.embed_tokens.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,T,d) of tokens (B,T)."""
        h = self.embed_tokens(tokens)
        cos, sin = rope_table(tokens.shape[1], self.head, self.theta, h)
        for layer in self.layers:
            h = layer(h, cos, sin)
        return cast(Tensor, h if self.norm is None or self.up is None else self.up(self.norm(h)))


class Decoder(nn.Module):
    """Receiver's half: (B,T,k) [and tokens (B,T)] -> (B,T,d)."""

    steps: Tensor | None

    def __init__(
        self, d: int, k: int, hidden: int, identity: str, last_std: float, steps: bool, offset: float | None
    ) -> None:
        super().__init__()
        self.offset = None if offset is None else nn.Parameter(torch.randn(d) * offset)
        self.d, self.k, self.identity = d, k, identity
        self.fc1 = _linear(k, hidden or d, 1 / math.sqrt(k) if hidden else last_std)
        self.fc2 = _linear(hidden, d, last_std) if hidden else None
        self.tokens: TokenEmbedding | None = None
        self.trunk: Trunk | None = None
        self.register_buffer("steps", torch.full((k,), 0.3) if steps else None)

    def forward(self, z: Tensor, tokens: Tensor | None = None) -> Tensor:
        """y (B,T,d) of latents z (B,T,k)."""
        y = self.fc1(z.to(self.fc1.weight.dtype))
        if self.fc2 is not None:
            y = self.fc2(F.silu(y))
        path = self.tokens if self.tokens is not None else self.trunk
        if path is not None:
            if tokens is None:
                raise ValueError("this bottleneck has a token path: it needs the token ids (B,T) beside the latents")
            y = y + path(tokens)
        if self.offset is not None:
            y = y + self.offset.to(y.dtype)
        if self.identity == "truncate":
            y = y + F.pad(z, (0, self.d - self.k)).to(y.dtype)
        return y


class ResidualBottleneck(nn.Module):
    """Encoder half, wire, decoder half. Whole in one process, or cut in two by :meth:`cut` or by the tracer.

    Called on x (B,T,d) it gives (B,T,d), with the codec's rounding between the halves, forward and backward, exactly as
    it would be between two machines. Under ``torch.export`` (torch.distributed.pipelining's tracer front end) it puts
    the split between its halves instead.

    Args:
        d_model: width d of the residual stream.
        ratio: d / k; must divide d_model.
        identity: "truncate" adds the first k coordinates on both sides, "none" does not.
        hidden: m; None is max(4k, 64), 0 one linear map.
        tokens: None, "embedding" or "trunk": what the receiver adds from the token ids alone. Needs vocab.
        offset: without a token path: a learned vector (d) that the receiver adds, as the C program's boundaries have by
            default (boundary.offset). It ends the huge first gradients of very narrow ones.
        codec: f32, bf16, int8 or int4, for the latents.
        codec_backward: the same for their gradients; None is as `codec`.
        scale: "step" (one learned step per coordinate, no bytes) or "token", for int8 and int4 latents.
        index: number of the boundary, from 0; keys the random bits.
        seed: of the run.
        vocab: size V of the vocabulary, for the token path.
        std, eps, theta: of initial weights, of the norms, of the trunk's rotary angles.
        trunk: sizes of the trunk where they are not to follow from d: blocks, width, heads, ffn.
    """

    def __init__(
        self,
        d_model: int,
        ratio: int = 128,
        identity: str = "truncate",
        hidden: int | None = None,
        tokens: str | None = None,
        *,
        offset: bool = False,
        codec: str = "int4",
        codec_backward: str | None = None,
        scale: str = "step",
        index: int = 0,
        seed: int = 1,
        vocab: int | None = None,
        std: float = 0.02,
        eps: float = 1e-5,
        theta: float = 500000.0,
        trunk: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        _check(d_model, ratio, identity, tokens, scale, vocab)
        if offset and tokens:
            raise ValueError(f"offset: a token path ({tokens}) already starts the stream; leave one of them out")
        k = d_model // ratio
        m = max(4 * k, 64) if hidden is None else hidden
        self.d_model, self.ratio, self.k, self.hidden, self.identity = d_model, ratio, k, m, identity
        self.vocab = vocab if tokens else None
        self.options: dict[str, Any] = dict(
            d_model=d_model, ratio=ratio, identity=identity, hidden=m, tokens=tokens, offset=offset, codec=codec,
            codec_backward=codec_backward or codec, scale=scale, seed=seed, vocab=vocab, std=std, eps=eps,
            theta=theta, trunk=trunk,
        )  # fmt: skip
        self.link = Link(codec, codec_backward or codec, scale, k, index, seed, self.vocab)
        self.encoder: Encoder | None = Encoder(d_model, k, m, identity, std, eps, self.link.learns)
        self.decoder: Decoder | None = Decoder(
            d_model, k, m, identity, 0.0 if tokens == "trunk" else std, self.link.learns, std if offset else None
        )
        if tokens == "embedding":
            self.decoder.tokens = TokenEmbedding(cast(int, vocab), d_model, std)
        if tokens == "trunk":
            sizes = _trunk_sizes(d_model, trunk or {})
            self.decoder.trunk = Trunk(cast(int, vocab), d_model, std, eps, theta, **sizes)

    def forward(self, x: Tensor, tokens: Tensor | None = None) -> Tensor:
        """y (B,T,d) of x (B,T,d), and tokens (B,T) where there is a token path."""
        if self.encoder is None or self.decoder is None:
            raise RuntimeError("this bottleneck was cut: only one of its halves is here")
        z = self.encoder(x)
        if torch.compiler.is_exporting():
            pipe_split()
        else:
            z = self.link.cross(z, self.encoder.steps, self.decoder.steps, self.encoder.norm.weight)
        return cast(Tensor, self.decoder(z, tokens))

    def cut(self, model: nn.Module, stage_index: int, num_stages: int) -> nn.Module:
        """Puts a decoder half before `model` and an encoder half behind it, as its place in the pipeline asks.

        The halves become ``model.boundary`` and run in hooks; the model's own names and code stay as they are. Its
        first argument becomes latents (B,T,k) on every stage but the first, its output on every stage but the last.
        Weights of boundary i depend on the seed and i alone, so the same pipeline starts alike on any ranks.

        Returns:
            `model` itself.
        """
        if not 0 <= stage_index < num_stages:
            raise ValueError(f"stage {stage_index} of {num_stages}: count from 0")
        if hasattr(model, "boundary"):
            raise ValueError("this model has a member `boundary` already: was it cut before?")
        halves = Halves()
        example = next(model.parameters(), None)
        for i, end in ((stage_index - 1, "decoder"), (stage_index, "encoder")):
            if 0 <= i < num_stages - 1:
                half = self.copy(i)
                setattr(half, "encoder" if end == "decoder" else "decoder", None)
                halves[str(i)] = half if example is None else half.to(example.device)
        model.boundary = halves
        model.register_forward_pre_hook(_enter, with_kwargs=True)
        model.register_forward_hook(_leave)
        return model

    def copy(self, index: int) -> ResidualBottleneck:
        """Another one of the same kind, of boundary `index`, with fresh weights keyed by (seed, index)."""
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.options["seed"] * 1000003 + index)
            return ResidualBottleneck(**self.options, index=index)

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        o = self.options
        return f"d={self.d_model}, k={self.k}, codec={o['codec']}/{o['codec_backward']}, boundary={self.link.index}"


class Halves(nn.ModuleDict):
    """What sits in a cut model's `boundary`: an nn.Sequential takes it for its last layer, so it passes things on."""

    def forward(self, x: Any) -> Any:
        """X itself; the halves run in hooks."""
        return x


def _ends(module: nn.Module) -> tuple[ResidualBottleneck | None, ResidualBottleneck | None]:
    """The boundaries before and behind a cut module."""
    before = behind = None
    for half in cast("Iterable[ResidualBottleneck]", cast(nn.ModuleDict, module.boundary).values()):
        if half.decoder is not None:
            before = half
        else:
            behind = half
    return before, behind


def _enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    before, _ = _ends(module)
    if before is None or before.decoder is None:
        return args, kwargs
    if not args or not isinstance(args[0], Tensor) or args[0].shape[-1] != before.k:
        got = tuple(args[0].shape) if args and isinstance(args[0], Tensor) else type(args[0] if args else None)
        raise ValueError(f"boundary {before.link.index}: a stage behind it takes latents (B,T,{before.k}), not {got}")
    tokens = before.link.tokens if before.vocab else None
    return (before.decoder(args[0], tokens), *args[1:]), kwargs


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    _, behind = _ends(module)
    if behind is None or behind.encoder is None:
        return output
    if not isinstance(output, Tensor):
        raise TypeError(
            f"boundary {behind.link.index}: the stage's output is a {type(output).__name__}; a bottleneck narrows one "
            f"tensor (B,T,{behind.d_model}). Return the hidden states alone and keep the rest inside the stage"
        )
    if output.dim() != 3 or output.shape[-1] != behind.d_model:
        raise ValueError(
            f"boundary {behind.link.index}: the stage's output is {tuple(output.shape)}, not (B,T,{behind.d_model})"
        )
    return behind.encoder(output)


def _check(d: int, ratio: int, identity: str, tokens: str | None, scale: str, vocab: int | None) -> None:
    if ratio < 1 or d % ratio:
        near = [r for r in range(1, d + 1) if d % r == 0]
        below = max((r for r in near if r <= ratio), default=1)
        above = min((r for r in near if r >= ratio), default=d)
        raise ValueError(f"ratio {ratio} does not divide d_model {d}; nearest: {below} or {above}")
    if identity not in IDENTITIES:
        raise ValueError(f"identity {identity!r}: there are {', '.join(IDENTITIES)} here")
    if tokens not in TOKENS:
        raise ValueError(f"tokens {tokens!r}: None, 'embedding' or 'trunk'")
    if tokens and not vocab:
        raise ValueError(f"tokens={tokens!r} needs vocab, the number of token ids")
    if scale not in ("step", "token"):
        raise ValueError(f"scale {scale!r}: 'step' or 'token'")


def _trunk_sizes(d: int, given: dict[str, int]) -> dict[str, int]:
    """What is not given follows from d as in src/boundary/tokens.c."""
    width = given.get("width") or min(max((d // 4 + 63) // 64 * 64, 64), 512)
    heads = given.get("heads") or (1 if width % 64 else width // 64)
    ffn = given.get("ffn") or (width * 8 // 3 + 15) // 16 * 16
    return dict(blocks=given.get("blocks") or 2, width=width, heads=heads, ffn=ffn)
