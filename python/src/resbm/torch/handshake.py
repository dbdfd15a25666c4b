"""Neighbouring stages agree before the first step, through the process group's key-value store.

Each stage publishes what it will do and reads what its neighbours published. The store needs no order of calls, so
ranks that disagree, or a rank that is not there, end in a sentence on every side and never in a hang.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d

TIMEOUT = timedelta(seconds=float(os.environ.get("RESBM_HANDSHAKE_SECONDS", "300")))
_opened: dict[str, list[set[int]]] = {}  # of each group: the stage indices of this process's pipelines, in order

Word = dict[str, Any]


class Board:
    """The store's entries of one pipeline.

    Args:
        group: process group; None is the default one.
        stage_index: of the stage that opens it. A stage index that a process has already begins its next pipeline, so
            the n-th pipeline has number n on every rank.
    """

    def __init__(self, group: dist.ProcessGroup | None, stage_index: int) -> None:
        name = group.group_name if group is not None else "default"
        pipelines = _opened.setdefault(name, [])
        if not pipelines or stage_index in pipelines[-1]:
            pipelines.append(set())
        pipelines[-1].add(stage_index)
        self._here = pipelines[-1]
        self._prefix = f"resbm/{name}/{len(pipelines)}"
        self._store = distributed_c10d._get_default_store()

    def publish(self, key: str, word: Word) -> None:
        """Make an entry; never blocks."""
        self._store.set(f"{self._prefix}/{key}", json.dumps(word, sort_keys=True))

    def publish_for_all(self, key: str, word: Word) -> None:
        """An entry `key`/stage for every stage of the pipeline that is in this process.

        Stages of one process are prepared one after another; neighbours need not wait for that.
        """
        for stage in self._here:
            self.publish(f"{key}/{stage}", word)

    def read(self, key: str, who: str, waits_for: str) -> Word:
        """Another stage's entry; waits up to TIMEOUT for it."""
        try:
            self._store.wait([f"{self._prefix}/{key}"], TIMEOUT)
            return dict(json.loads(self._store.get(f"{self._prefix}/{key}")))
        except (dist.DistStoreError, RuntimeError) as e:
            raise TimeoutError(
                f"{who} waited {TIMEOUT.total_seconds():.0f} s for {waits_for}. Is it running, and is it a "
                f"resbm.torch.Stage too? ({type(e).__name__})"
            ) from e


def compare(who: str, mine: Word, other: str, theirs: Word) -> None:
    """ValueError naming both sides and every value that differs."""
    keys = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    if not keys:
        return
    said = "; ".join(f"{k}: {mine.get(k)} against {theirs.get(k)}" for k in keys)
    raise ValueError(f"{who} and {other} disagree on {said}. Give both stages the same ResidualBottleneck settings")
