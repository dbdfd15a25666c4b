"""PyTorch's pipelining example before and after: how little differs, and that both run under every schedule."""

import difflib
import json
import re
from pathlib import Path

import pytest
from launch import run
from test_stage import SCHEDULES

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = dict(DIM="128", LAYERS="8", HEADS="2", VOCAB="32", BATCH="16", LENGTH="8", MICROBATCHES="8")
STEPS, ROWS, LENGTH, K = 2, 2, 8, 1  # rows and length of a microbatch, latent width of 128 / 128


def test_at_most_five_lines_differ():
    before, after = ((EXAMPLES / f).read_text().splitlines() for f in ("pipeline.py", "pipeline_resbm.py"))
    lines = [d for d in difflib.unified_diff(before, after, lineterm="", n=0) if d[:2] not in ("--", "++", "@@")]
    added = [d for d in lines if d[0] == "+"]
    removed = [d for d in lines if d[0] == "-"]
    assert 1 <= len(added) <= 5 and len(removed) <= len(added), lines
    assert any("Stage(" in d for d in added) and any("ResidualBottleneck" in d for d in added)


def losses_of(outputs, example):
    """{schedule: losses of the steps} that the ranks printed while they ran `example`."""
    losses = {}
    for out in outputs:
        part = out.split(f"example {example}\n")[1].split("example ")[0]
        for name, loss in re.findall(r"^(\w+) step \d+ loss (\S+)$", part, re.M):
            losses.setdefault(name, []).append(float(loss))
    return losses


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_schedule_before_and_after(tmp_path, ranks):
    worker, both = Path(__file__).with_name("examples_worker.py"), ("pipeline.py", "pipeline_resbm.py")
    paths = ",".join(str(EXAMPLES / e) for e in both)
    done = run(worker, ranks, tmp_path, STEPS, paths, *SCHEDULES, timeout=500, **SIZES)
    assert all(code == 0 for code, _ in done), "\n".join(out for _, out in done)
    for example in both:
        losses, first = losses_of([out for _, out in done], example), {}
        assert set(losses) == set(SCHEDULES)
        for name in SCHEDULES:  # the order of a schedule changes nothing but the last bits of sums
            assert len(losses[name]) == STEPS
            stages = "any" if example == "pipeline.py" else name in ("GPipe", "1F1B")
            assert losses[name] == pytest.approx(first.setdefault(stages, losses[name]), abs=2e-3), (name, losses)
    check_traffic([json.loads((tmp_path / f"{r}.json").read_text()) for r in range(ranks)])


def check_traffic(said):
    """int4 with learned steps forward, int4 with a scale per 64 values backward: k/2 bytes a token, 128 x less."""
    messages = STEPS * int(SIZES["MICROBATCHES"])
    forward, backward = ROWS * LENGTH * K // 2, ROWS * (LENGTH * K // 2 + 2)
    links = [(name, k, t) for rank in said for name, ts in rank.items() for k, t in ts.items()]
    assert len(links) >= len(SCHEDULES) * 2 * (len(said) - 1)
    for name, k, sent in links:
        here, there = map(int, k.split("->"))
        full = [messages * forward, 0] if there > here else [0, messages * backward]
        assert sent in (full, [0, 0]), (name, k, sent)  # nothing leaves where both stages are on one rank
    assert all(any(sent != [0, 0] for n, _, sent in links if n == name) for name in SCHEDULES)
