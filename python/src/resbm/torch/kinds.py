"""The boundaries of the C program, every kind, with its names of tensors: an encoder half, a decoder half with its
token path, and the auxiliary head. Mathematics are those of src/boundary/.

Legend: B sequences, T positions, d width, k latent width, m hidden width, w identity width, u trunk width, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import reference
from .blocks import Attend, Block, RMSNorm
from .crossing import Position, Wire, cross, cross_identity, cross_largest
from .run_config import Rope, RunConfig


class Pass:
    """One forward pass: where its tokens stand, and how blocks attend.

    Args:
        positions: (T) or (B,T) of the tokens.
        attend: attention of block number i; None: causal over the tokens at hand. Trunks' blocks are numbered behind
            the model's.
        count: a training pass, whose codes the learned steps will follow.
        targets: (B,T) next tokens, for auxiliary losses.
    """

    def __init__(
        self, positions: Tensor, attend: Callable[[int], Attend] | None = None, count: bool = False,
        targets: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.positions, self._attend, self.count, self.targets = positions, attend, count, targets
        self._angles: dict[Any, tuple[Tensor, Tensor]] = {}

    def attend(self, block: int) -> Attend | None:
        """Attention of a block."""
        return None if self._attend is None else self._attend(block)

    def angles(self, rope: Rope, head: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (T,head/2) or (B,1,T,head/2), in like's dtype; made in double."""
        key = (rope, head, like.dtype)
        if key not in self._angles:
            frequencies = torch.tensor(rope.frequencies(head), dtype=torch.float64, device=like.device)
            angle = self.positions.to(like.device, torch.float64)[..., None] * frequencies
            if angle.dim() == 3:
                angle = angle[:, None]
            self._angles[key] = (angle.cos().to(like.dtype), angle.sin().to(like.dtype))
        return self._angles[key]


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.normal_(std=std) if std else layer.weight.zero_()
    return layer


class Rotation(nn.Module):
    """R (k,d) of identity rotate, which begins as the first k coordinates."""

    def __init__(self, k: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(k, d))

    def forward(self, x: Tensor) -> Tensor:
        """(B,T,k) of x (B,T,d)."""
        return F.linear(x, self.weight)


class Maps(nn.Module):
    """Encoder or decoder: the maps of kinds residual and linear, a basis, nothing; and what hangs on the half."""

    steps: Tensor | None
    basis: Tensor | None

    def __init__(self, c: RunConfig, encoder: bool, learns: bool) -> None:
        super().__init__()
        a, b, m = (c.d, c.k, c.hidden) if encoder else (c.k, c.d, c.hidden)
        self.norm = RMSNorm(c.d, c.eps) if encoder and c.kind == "residual" else None
        self.fc1: nn.Linear | None = None
        self.fc2: nn.Linear | None = None
        if c.kind in ("residual", "linear"):
            last = 0.0 if not encoder and _starts_at_zero(c) else c.std if c.kind == "residual" else 1 / math.sqrt(a)
            self.fc1 = _linear(a, m or b, 1 / math.sqrt(a) if m else last)
            self.fc2 = _linear(m, b, last) if m else None
        self.rotation = Rotation(c.k, c.d) if c.identity == "rotate" else None
        self.register_buffer("steps", torch.full((c.k,), 0.3 * c.std) if learns else None)
        self.register_buffer("basis", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The maps alone: (B,T,out) of x (B,T,in)."""
        assert self.fc1 is not None
        y = self.fc1(x if self.norm is None else self.norm(x))
        return cast(Tensor, y if self.fc2 is None else self.fc2(F.silu(y)))


def _there(t: Tensor | None) -> Tensor:
    assert t is not None
    return t


def _starts_at_zero(c: RunConfig) -> bool:
    word = c.word("decoder_init", "auto")
    return word == "zero" or (word == "auto" and c.tokens == "trunk")


class TokenTable(nn.Module):
    """Token path S as one table: E[tokens], E (V,d)."""

    def __init__(self, c: RunConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab, c.d)
        nn.init.normal_(self.embed_tokens.weight, std=c.std)

    def forward(self, tokens: Tensor, run: Pass, first: int) -> Tensor:
        """(B,T,d) of tokens (B,T)."""
        return cast(Tensor, self.embed_tokens(tokens))


class RunTrunk(nn.Module):
    """Token path S as an embedding and causal blocks of width u; mapped up to d unless u is d."""

    def __init__(self, c: RunConfig) -> None:
        super().__init__()
        t = c.trunk
        u, self.head, self.rope = t["width"], t["width"] // t["heads"], Rope(c.rope.theta)
        self.embed_tokens = nn.Embedding(c.vocab, u)
        nn.init.normal_(self.embed_tokens.weight, std=c.std)
        self.layers = nn.ModuleList(Block(u, t["heads"], t["heads"], t["ffn"], c.eps) for _ in range(t["blocks"]))
        self.norm = RMSNorm(u, c.eps) if u != c.d else None
        self.up = _linear(u, c.d, c.std) if u != c.d else None

    def forward(self, tokens: Tensor, run: Pass, first: int) -> Tensor:
        """(B,T,d) of tokens (B,T); first: number of its first block."""
        h = self.embed_tokens(tokens)
        cos, sin = run.angles(self.rope, self.head, h)
        for i, layer in enumerate(self.layers):
            h = layer(h, cos, sin, run.attend(first + i))
        return cast(Tensor, h if self.norm is None or self.up is None else self.up(self.norm(h)))


class Fixed(nn.Module):
    """The part of the embedding that is never changed: follows from the seed, in no checkpoint."""

    def __init__(self, fixed: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", fixed, persistent=False)

    def forward(self, tokens: Tensor, run: Pass, first: int) -> Tensor:
        """(B,T,d) of tokens (B,T)."""
        return F.embedding(tokens, cast(Tensor, self.fixed))


class Decoder(Maps):
    """A decoder half with its token path S, or its offset; topk's error feedback."""

    residue: Tensor | None

    def __init__(self, c: RunConfig, learns: bool) -> None:
        super().__init__(c, False, learns)
        self.offset = nn.Parameter(torch.randn(c.d) * c.std) if c.offset else None
        self.tokens = TokenTable(c) if c.tokens == "embedding" else None
        self.trunk = RunTrunk(c) if c.tokens == "trunk" else None
        self.embed_tokens: Fixed | None = None
        feeds_back = c.kind == "topk" and c.word("feedback") == "gradient"
        rows = int(c.train["batch"]) * c.context if feeds_back else 0
        self.register_buffer("residue", torch.zeros(rows, c.d) if feeds_back else None)

    def start(self, tokens: Tensor, run: Pass, first: int) -> Tensor | None:
        """S (B,T,d), or the offset (d), or None."""
        path = self.tokens or self.trunk or self.embed_tokens
        return self.offset if path is None else path(tokens, run, first)


class Aux(nn.Module):
    """The auxiliary next-token head before a boundary: on the stream, or on the latents as they arrive."""

    def __init__(self, c: RunConfig) -> None:
        super().__init__()
        width = c.aux_rank or c.d
        source = c.k if c.aux == "latent" else c.d
        self.down = _linear(source, width, 1 / math.sqrt(source)) if c.aux_rank else None
        self.embed_tokens = nn.Embedding(c.vocab, width) if c.aux == "latent" and c.tokens != "none" else None
        self.norm = RMSNorm(width, c.eps) if c.aux == "stream" else None
        self.head = _linear(width, c.vocab, c.std)

    def forward(self, source: Tensor, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean loss; source is the stream (B,T,d) or the latents (B,T,k)."""
        h = source if self.down is None else self.down(source)
        if self.norm is not None:
            h = self.norm(h)
        else:
            h = F.silu(h)
            h = h if self.embed_tokens is None else h + self.embed_tokens(tokens)
        return F.cross_entropy(self.head(h).flatten(0, 1).float(), targets.flatten())


class Boundary(nn.Module):
    """Boundary `index` of a run: encoder, wire, decoder in one process."""

    def __init__(self, c: RunConfig, index: int, position: Position) -> None:
        super().__init__()
        self.config, self.index = c, index
        self.wire = Wire(c, index, position)
        self.encoder, self.decoder = Maps(c, True, self.wire.learns), Decoder(c, self.wire.learns)
        self.aux = Aux(c) if c.aux != "none" else None

    def forward(self, x: Tensor, tokens: Tensor, run: Pass) -> tuple[Tensor, Tensor | None]:
        """(y (B,T,d), auxiliary loss) of x (B,T,d) and tokens (B,T)."""
        y, source = self._cross(x, run)
        start = self.decoder.start(tokens, run, self.config.layers + self.index * self.config.trunk["blocks"])
        if start is not None:
            y = y + start
        if self.aux is None or run.targets is None:
            return y, None
        return y, self.aux(source if self.config.aux == "latent" else x, tokens, run.targets)

    def _cross(self, x: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """What decode gives, without S; and the latents for the auxiliary head, straight through."""
        c, e, d = self.config, self.encoder, self.decoder
        if c.kind == "topk":
            return cross_largest(x, e.steps, d.residue, self.wire, run.count), x
        z = self.encode(x)
        q, values = cross(z, e.steps, self.wire, run.count)
        straight = z + (values.to(z.dtype) - z).detach()
        y = self.decode(q)
        if c.identity_width:
            w = c.identity_width
            y = y + F.pad(cross_identity(x[..., :w]), (0, c.d - w))
        return y, straight

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B,T,k) of x (B,T,d)."""
        c, e = self.config, self.encoder
        if c.kind == "none":
            return x
        if c.kind == "subspace":
            return F.linear(x, _there(e.basis).to(x.dtype))
        z = e(x)
        if c.identity == "truncate":
            z = z + x[..., : c.k]
        return z if e.rotation is None else z + e.rotation(x)

    def decode(self, q: Tensor) -> Tensor:
        """(B,T,d) of latents q (B,T,k), without S and the identity part."""
        c, d = self.config, self.decoder
        if c.kind == "none":
            return q
        if c.kind == "subspace":
            return q @ _there(d.basis).to(q.dtype)
        y = d(q)
        if c.identity == "truncate":
            y = y + F.pad(q, (0, c.d - c.k))
        return y if d.rotation is None else y + q @ d.rotation.weight


# -- what follows from the seed ------------------------------------------------------------------------------------


def normal(seed: int, name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """f32 normal numbers keyed by (seed, name): rb_normal_fill."""
    import xxhash

    n = math.prod(shape)
    blocks = (n + 3) // 4
    i = torch.arange(blocks)
    counter = [i & 0xFFFFFFFF, i >> 32, torch.full_like(i, 0x6E6F726D), torch.zeros_like(i)]
    key = reference.mix64(seed, xxhash.xxh3_64_intdigest(name.encode()))
    a, b, c, d = (v.double() for v in reference._philox(counter, key))
    pairs = []
    for u, v in ((a, b), (c, d)):
        m = (-2.0 * ((u + 1) * 2.0**-32).log()).sqrt()
        turn = 2 * math.pi * (v * 2.0**-32)
        pairs += [m * turn.cos(), m * turn.sin()]
    return (std * torch.stack(pairs, -1).flatten()[:n]).float().view(shape)


def basis(c: RunConfig) -> Tensor:
    """B (k,d) with orthonormal rows: the run's subspace, the same at all boundaries."""
    rows = normal(c.seed, "boundary.basis", (c.k, c.d), 1.0).double()
    for i in range(c.k):
        for _ in range(2):
            rows[i] -= (rows[:i] @ rows[i]) @ rows[:i]
        rows[i] /= rows[i].norm()
    return rows.float()


def fixed_embedding(c: RunConfig, b: Tensor) -> Tensor:
    """F (V,d): the embedding as it began, outside the subspace of b (k,d)."""
    start = normal(c.seed, "model.embed_tokens.weight", (c.vocab, c.d), c.std)
    return start - (start @ b.T) @ b


def orthonormal(x: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows to x (k,d), as src/model/constrain.c finds it."""
    for _ in range(6):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return x
