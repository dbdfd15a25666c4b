"""The C program's token shards, and the order in which it takes sequences from them (src/data/)."""

from __future__ import annotations

import glob
import mmap
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from .reference import mix64


class Shards:
    """Token shards in llm.c's format, and the order in which the C program takes sequences from them.

    Args:
        patterns: glob patterns, comma separated.
        t: tokens of a sequence.
        seed: of the run.
    """

    def __init__(self, patterns: str, t: int, seed: int) -> None:
        self.t, self.seed = t, seed
        files = [f for pattern in patterns.split(",") for f in sorted(glob.glob(pattern.strip()))]
        if not files:
            raise FileNotFoundError(
                f"no shards fit {patterns!r}: a run's data.train is relative to where it was started"
            )
        self._parts = [_tokens(f) for f in files]
        self.windows = (sum(p.numel() for p in self._parts) - 1) // t
        if self.windows < 1:
            raise ValueError(f"{patterns}: fewer tokens than one window of {t + 1}")

    def batch(self, sequence: int, count: int) -> tuple[Tensor, Tensor]:
        """(ids, targets), (count,T) i64 each, of training sequences from number `sequence` on."""
        rows = torch.stack([self._window(self._pick(sequence + i)) for i in range(count)])
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def evaluation(self, count: int, batch: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """(ids, targets), (1,T) each, of the C program's evaluation sequences, which fill batches of train.batch."""
        n = min(count, self.windows)
        for i in range((count + batch - 1) // batch * batch):
            row = self._window(i % n * self.windows // n)[None]
            yield row[:, :-1], row[:, 1:]

    def _window(self, number: int) -> Tensor:
        parts: list[Tensor] = []
        start = number * self.t
        for p in self._parts:
            if start < p.numel() and sum(x.numel() for x in parts) < self.t + 1:
                piece = p[start : start + self.t + 1 - sum(x.numel() for x in parts)]
                parts.append(piece.to(torch.int64))
                start = p.numel()
            start -= p.numel()
        return torch.cat(parts)

    def _pick(self, number: int) -> int:
        """A permutation of the windows by a Feistel network: rb_sampler_pick."""
        n = self.windows
        x, key, half = number % n, mix64(self.seed, number // n), 1
        while half < 31 and 1 << 2 * half < n:
            half += 1
        while True:
            left, right = x >> half, x & (1 << half) - 1
            for r in range(4):
                left, right = right, left ^ mix64(key + r & (1 << 64) - 1, right) & (1 << half) - 1
            x = left << half | right
            if x < n:
                return x


def _tokens(path: str) -> Tensor:
    with open(path, "rb") as f:
        data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY)
    head = torch.frombuffer(data, dtype=torch.int32, count=3).tolist() if len(data) >= 1024 else [0, 0, 0]
    kinds = {20240520: torch.uint16, 20240801: torch.uint32}
    if head[0] not in kinds:
        raise ValueError(f"{path} is no token shard (magic {head[0]})")
    width = 2 if head[0] == 20240520 else 4
    if len(data) != 1024 + head[2] * width:
        raise ValueError(f"{path} has {len(data)} bytes, its header says {head[2]} tokens of {width} bytes")
    return torch.frombuffer(cast(Any, data), dtype=kinds[head[0]], offset=1024, count=head[2])
