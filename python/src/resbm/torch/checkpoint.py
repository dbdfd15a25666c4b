"""Checkpoints of the C program, read and written: ``DIR/step-N/`` with safetensors files and a manifest.

Formats are those of docs/formats.md; the manifest's hashes make a folder a checkpoint.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .run_config import RunConfig


class Checkpoint:
    """One ``step-N`` folder.

    Args:
        path: a run's folder, whose newest whole checkpoint is taken, or a ``step-N`` itself.

    Attributes:
        folder, manifest, config: where it is, what its manifest says, the run's configuration.
        skipped: reasons, one for each newer folder that is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.skipped: list[str] = []
        self.folder = self._find(Path(path))
        self.manifest = _verify(self.folder)
        self.config = RunConfig(self.manifest["config"])
        self._where: dict[str, str] = {}
        for name in self._files():
            with safe_open(self.folder / name, "pt") as f:
                self._where.update(dict.fromkeys(f.keys(), name))

    def _files(self) -> list[str]:
        return [f["name"] for f in self.manifest["files"]]

    def _find(self, path: Path) -> Path:
        if (path / "manifest.json").is_file():
            return path
        steps = sorted(
            (int(m[1]) for m in (re.fullmatch(r"step-(0|[1-9]\d*)", p.name) for p in path.glob("step-*")) if m),
            reverse=True,
        )
        for step in steps:
            try:
                _verify(path / f"step-{step}")
            except (OSError, ValueError) as e:
                self.skipped.append(f"step-{step}: {e}")
            else:
                return path / f"step-{step}"
        if steps:
            raise ValueError(f"none of the {len(steps)} checkpoints in {path} is whole: {self.skipped[-1]}")
        raise FileNotFoundError(f"{path} holds no checkpoint: give the --out folder of a run, or a step-N in it")

    @property
    def step(self) -> int:
        """Training steps done."""
        return int(self.manifest["step"])

    @property
    def cursor(self) -> int:
        """Number of the next sequence."""
        return int(self.manifest["cursor"])

    @property
    def updates(self) -> int:
        """Updates of the optimizer so far: AdamW's t."""
        counters = self.manifest["counters"]
        return int((counters.get("updates") or self.step) - counters.get("optimizer_from", 0))

    @property
    def names(self) -> list[str]:
        """Of the model's tensors."""
        return [n for n, file in self._where.items() if not file.endswith(".optim.safetensors")]

    @property
    def states(self) -> list[str]:
        """Of the optimizer's tensors: exp_avg.NAME, exp_avg_sq.NAME, momentum.NAME."""
        return [n for n, file in self._where.items() if file.endswith(".optim.safetensors")]

    def tensor(self, name: str) -> Tensor:
        """One tensor by name."""
        with safe_open(self.folder / self._where[name], "pt") as f:
            value: Tensor = f.get_tensor(name)
        return value


def _hash(path: Path) -> str:
    h = xxhash.xxh3_128()
    with path.open("rb") as f:
        while piece := f.read(1 << 22):
            h.update(piece)
    return h.hexdigest()


def _body_hash(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return xxhash.xxh3_128_hexdigest(text.encode())


def _verify(folder: Path) -> dict[str, Any]:
    """The manifest of a whole checkpoint; ValueError says what is wrong."""
    name = folder / "manifest.json"
    body: dict[str, Any] = json.loads(name.read_text())
    if body.get("format") != "resbm checkpoint" or body.get("version") != 1:
        raise ValueError(f"{name} is no manifest of version 1 of a resbm checkpoint")
    said = body.pop("hash", None)
    if said != _body_hash(body):
        raise ValueError(f"{name}: its content does not fit its hash: it was damaged or edited")
    for f in body["files"]:
        path = folder / f["name"]
        if path.stat().st_size != f["bytes"] or _hash(path) != f["hash"]:
            raise ValueError(f"{path} does not have the length or the hash that the manifest says: it was damaged")
    return body


def part_of(name: str, config: RunConfig) -> str:
    """Stem of the file that a tensor is stored in: segment-3, boundary-0.encoder, boundary-0.decoder."""
    if m := re.match(r"boundary\.(\d+)\.(encoder|decoder|aux)\.", name):
        return f"boundary-{m[1]}.{'decoder' if m[2] == 'decoder' else 'encoder'}"
    if m := re.match(r"model\.layers\.(\d+)\.", name):
        first_half = ".self_attn." in name or ".input_layernorm." in name
        at = 1 if config.inside and first_half else 0
        for s, n in enumerate(config.segments):
            at += n
            if int(m[1]) < at:
                return f"segment-{s}"
    return f"segment-{0 if name.startswith('model.embed_tokens.') else len(config.segments) - 1}"


def write(
    directory: str | os.PathLike[str], config: RunConfig, tensors: dict[str, Tensor], states: dict[str, Tensor],
    *, step: int, cursor: int, epoch: int, counters: dict[str, int],
) -> Path:  # fmt: skip
    """A whole ``directory/step-N``, and ``directory/config.yaml`` where there is none. Gives the folder."""
    base = Path(directory)
    temporary, final = base / f"step-{step}.tmp", base / f"step-{step}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parts.setdefault(part_of(name, config) + ".safetensors", {})[name] = _plain(value)
    for name, value in states.items():
        stem = part_of(name.split(".", 1)[1], config)
        parts.setdefault(stem + ".optim.safetensors", {})[name] = _plain(value)
    files = []
    for file, content in sorted(parts.items()):
        path = temporary / file
        save_file(content, path)
        _sync(path)
        files.append(dict(name=file, bytes=path.stat().st_size, hash=_hash(path)))
    body: dict[str, Any] = dict(
        format="resbm checkpoint", version=1, step=step, epoch=epoch, cursor=cursor, seed=config.seed,
        config=config.text, counters=counters, files=files,
    )  # fmt: skip
    body["hash"] = _body_hash(body)
    (temporary / "manifest.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    _sync(temporary / "manifest.json")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    if not (base / "config.yaml").exists():
        (base / "config.yaml").write_text(config.text)
    return final


def _plain(t: Tensor) -> Tensor:
    import torch

    return t.detach().to("cpu", torch.float32).contiguous().clone()


def _sync(path: Path) -> None:
    with path.open("rb") as f:
        os.fsync(f.fileno())
