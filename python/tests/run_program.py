"""The C program, for tests that hold PyTorch against it: a small corpus, and short runs of it."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(os.environ.get("RB_BINARY_DIR", Path(__file__).parents[2] / "build")) / "resbm"

CONFIG = """
model:    {d: 64, layers: 3, heads: 4, ffn: 48, vocab: 256, context: 24, segments: 3}
boundary: {kind: residual, ratio: 8}
data:     {train: "%s/corpus/train-*.bin", val: "%s/corpus/val-*.bin", tokenizer: bytes}
optim:    {warmup: 1}
train:    {seed: 3, steps: 2, batch: 4, microbatches: 2, eval_every: 0, eval_sequences: 5, checkpoint_every: 1,
           keep: 20}
pipeline: {stages: 1, threads: 1}
"""


def program(*arguments, fails=False):
    """Runs it; its output, or pytest fails with it."""
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} was not built")
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, timeout=120)
    said = (done.stdout + done.stderr).decode(errors="surrogateescape")
    assert (done.returncode != 0) == fails, said
    return said


def make_corpus(folder):
    """Shards of prose-like bytes and run.yaml in `folder`."""
    rng, words = (
        random.Random(7),
        ["the", "of", "a", "slow", "link", "carries", "latent", "gradients", "between", "stages"],
    )
    (folder / "text").write_text(" ".join(rng.choice(words) for _ in range(8000)))
    program("data", "--out", folder / "corpus", folder / "text")
    (folder / "run.yaml").write_text(CONFIG % (folder, folder))
    return folder


# Another device than the processor, for one: "pipeline.device=cuda pipeline.math=f32".
SETTINGS = os.environ.get("RESBM_TEST_SETTINGS", "").split()


def train(folder, out, *overrides):
    """A run; the rows of its metrics."""
    program("train", "-q", folder / "run.yaml", "--out", out, *SETTINGS, *overrides)
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
