"""The configuration of a run of the C program as its checkpoints carry it, and what follows from it.

Keys and meaning are those of docs/configuration.md; what is derived here is derived as in src/model/check.c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import yaml

#: Bits of a number in each codec.
BITS = {"f32": 32, "bf16": 16, "int8": 8, "int4": 4, "int2": 2, "int1": 1}
KINDS = ("none", "linear", "residual", "topk", "subspace")
_DEFAULT_CODEC = {"none": "bf16", "linear": "int4", "residual": "int4", "topk": "int8", "subspace": "bf16"}


@dataclass(frozen=True)
class Rope:
    """Rotary angles: base, and how they are stretched for contexts longer than those of pretraining.

    Attributes:
        theta: base.
        scaling: none, linear or llama3.
        factor, low, high, original: of the scaling, names as in Hugging Face's ``rope_parameters``.
    """

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def frequencies(self, head: int) -> list[float]:
        """The head/2 angles of one position."""
        plain = [self.theta ** (-j / (head // 2)) for j in range(head // 2)]
        return [self._scaled(f) for f in plain]

    def _scaled(self, f: float) -> float:
        if self.scaling == "none":
            return f
        if self.scaling == "linear":
            return f / self.factor
        turns = self.original * f / (2 * math.pi)  # of the original context
        share = min(max((turns - self.low) / (self.high - self.low), 0.0), 1.0)
        return f * (share + (1 - share) / self.factor)


class RunConfig:
    """A run's configuration: ``c.model["d"]``, ``c.boundary["ratio"]``, and what follows from both.

    Args:
        text: YAML of a checkpoint's manifest or of a run's config.yaml.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        sections = yaml.safe_load(text)
        if not isinstance(sections, dict) or not isinstance(sections.get("model"), dict):
            raise ValueError("this is no run's configuration: it has no section `model`")
        self.model: dict[str, Any] = sections["model"]
        self.boundary: dict[str, Any] = sections.get("boundary") or {}
        self.optim: dict[str, Any] = sections.get("optim") or {}
        self.train: dict[str, Any] = sections.get("train") or {}
        self.data: dict[str, Any] = sections.get("data") or {}
        self.d, self.layers, self.vocab = (int(self.model[k]) for k in ("d", "layers", "vocab"))
        self.heads = int(self.model["heads"])
        self.kv_heads = self._auto(self.model, "kv_heads", self.heads)
        self.head = self._auto(self.model, "head", self.d // self.heads)
        self.ffn, self.context = int(self.model["ffn"]), int(self.model["context"])
        self.eps = float(self.model.get("norm_eps", 1e-5))
        self.std = float(self.model.get("init_std", 0.02))
        self.qk_norm, self.tied = bool(self.model.get("qk_norm")), bool(self.model.get("tied"))
        self.qkv_bias = bool(self.model.get("qkv_bias"))
        self.seed = int(self.train.get("seed", 1))
        self.segments = self._segments()
        #: whether boundaries lie inside a block, behind its attention, and not between two
        self.inside = str(self.model.get("cut", "between")) == "inside" and len(self.segments) > 1
        self.kind = str(self.boundary.get("kind", "residual"))
        if self.kind not in KINDS:
            raise ValueError(f"boundary.kind {self.kind}: this package knows {', '.join(KINDS)}")

    @staticmethod
    def _auto(section: dict[str, Any], key: str, default: int) -> int:
        value = section.get(key, "auto")
        return default if value in ("auto", "none", None) else int(value)

    def _segments(self) -> list[int]:
        given = self.model.get("segments", 4)
        if isinstance(given, list):
            return [int(n) for n in given]
        n, rest = divmod(self.layers, int(given))
        return [n + (i < rest) for i in range(int(given))]

    @property
    def rope(self) -> Rope:
        """Of the blocks; a trunk has the same base and no scaling."""
        m = self.model
        return Rope(
            float(m.get("rope_theta", 500000)), str(m.get("rope_scaling", "none")), float(m.get("rope_factor", 1)),
            float(m.get("rope_low", 1)), float(m.get("rope_high", 4)), int(m.get("rope_original", 8192)),
        )  # fmt: skip

    # -- the boundary -----------------------------------------------------------------------------------------

    def word(self, key: str, default: str = "none") -> str:
        """A word of the section `boundary`."""
        return str(self.boundary.get(key, default))

    def codec(self, direction: str) -> str:
        """codec_fwd or codec_bwd by name."""
        name = self.word(f"codec_{direction}", "auto")
        return _DEFAULT_CODEC[self.kind] if name == "auto" else name

    @property
    def scale(self) -> str:
        """Step or token."""
        value = self.word("scale_fwd", "auto")
        if value != "auto":
            return value
        return "step" if self.kind != "none" or BITS[self.codec("fwd")] < 4 else "token"

    @property
    def identity(self) -> str:
        """Of kind residual."""
        if self.kind != "residual":
            return "none"
        word = self.word("identity", "auto")
        return ("none" if self.tokens == "trunk" else "truncate") if word == "auto" else word

    @property
    def identity_width(self) -> int:
        """Coordinates that cross in bf16 beside the latents."""
        widths = {"full": self.d, "split": int(self.boundary.get("identity_width", 0))}
        return widths.get(self.identity, 0)

    @property
    def ratio(self) -> int:
        """D / k at the end of a run."""
        return 1 if self.kind == "none" else int(self.boundary.get("ratio", 128))

    @property
    def anneal_from(self) -> int:
        """Ratio at the start; 0 where it never changes."""
        return self._auto(self.boundary, "anneal_from", 0)

    @property
    def k(self) -> int:
        """Width of the latents' tensors."""
        if self.kind == "none":
            return self.d
        width = self.d // (self.anneal_from or self.ratio)
        if self.identity != "split":
            return width
        bits = BITS[self.codec("fwd")]
        return width - (16 * self.identity_width + bits - 1) // bits

    def live(self, step: int) -> int:
        """Latents that cross at a step (from 0): rb_live_width."""
        if not self.anneal_from or len(self.segments) < 2:
            return self.k
        until, end = int(float(self.train.get("anneal_until", 0.5)) * int(self.train["steps"])), self.d // self.ratio
        if step >= until:
            return end
        return min(self.k, end + ((self.k - end) * (until - step) + until - 1) // until)

    @property
    def hidden(self) -> int:
        """M; 0 is one linear map."""
        return self._auto(self.boundary, "hidden", max(4 * self.k, 64)) if self.kind == "residual" else 0

    @property
    def tokens(self) -> str:
        """none, embedding, trunk or fixed."""
        return "fixed" if self.kind == "subspace" else self.word("tokens")

    @property
    def offset(self) -> bool:
        """Whether a learned vector starts the receiver's stream."""
        word = self.word("offset", "auto")
        vanishes = self.kind == "linear" or (
            self.kind == "residual" and self.identity in ("truncate", "rotate", "none")
        )
        return word == "learned" or (word == "auto" and self.tokens == "none" and vanishes)

    @property
    def trunk(self) -> dict[str, int]:
        """blocks, width, heads and ffn of the trunk."""
        width = self._auto(self.boundary, "trunk_width", min(max((self.d // 4 + 63) // 64 * 64, 64), 512))
        return dict(
            blocks=self._auto(self.boundary, "trunk_blocks", 2),
            width=width,
            heads=self._auto(self.boundary, "trunk_heads", 1 if width % 64 else width // 64),
            ffn=self._auto(self.boundary, "trunk_ffn", (width * 8 // 3 + 15) // 16 * 16),
        )

    @property
    def aux(self) -> str:
        """none, stream or latent."""
        return self.word("aux")

    @property
    def aux_rank(self) -> int:
        """Width before the auxiliary head; 0 is the stream's own."""
        large = self.vocab >= 2048 and self.d > 64
        return self._auto(self.boundary, "aux_rank", 64 if self.aux == "latent" or large else 0)

    def aux_weight(self, step: int) -> float:
        """Of the auxiliary losses at a step (from 0): rb_aux_weight."""
        word = self.train.get("aux_until", "never")
        until = math.inf if word == "never" else float(word) * int(self.train.get("steps", 0))
        if self.aux == "none" or len(self.segments) < 2 or step >= until:
            return 0.0
        return float(self.train.get("aux_weight", 0.5)) * (1 - step / until)

    def first_layer(self, segment: int) -> int:
        """Number of a segment's first block."""
        return sum(self.segments[:segment])
