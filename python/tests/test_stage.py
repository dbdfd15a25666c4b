"""Stages over gloo against the same model in one process, bit for bit, under every schedule of this torch release."""

from pathlib import Path

import pipeline_worker as worker
import pytest
import torch
from launch import run

SCHEDULES = ("GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")
#: These add up gradients in ascending order of microbatches, as one process does: bit for bit. The others add the same
#: numbers in another order.
EXACT = ("GPipe", "1F1B", "Interleaved1F1B")
WORKER = Path(worker.__file__)


def test_every_schedule_of_this_release_is_named():
    from torch.distributed.pipelining import schedules

    have = {n.removeprefix("Schedule") for n in dir(schedules) if n.startswith("Schedule")}
    assert have == set(SCHEDULES)


@pytest.mark.parametrize(
    "ranks,tokens,made", [(2, "none", "cut"), (2, "embedding", "cut"), (4, "none", "cut"), (2, "none", "traced")]
)
def test_same_bits_as_in_one_process(tmp_path, ranks, tokens, made):
    names = [s for s in SCHEDULES if s != "DualPipeV" or 2 * ranks <= worker.MICROBATCHES]
    done = run(WORKER, ranks, tmp_path, ",".join(names), tokens, made)
    assert all(code == 0 for code, _ in done), "\n".join(out for _, out in done)
    results = [torch.load(tmp_path / f"{r}.pt") for r in range(ranks)]
    wholes = {}
    for name in names:
        n = ranks * len(worker.stages_of(name, 0, ranks))
        wholes[n] = wholes.get(n) or worker.whole(n, None if tokens == "none" else tokens)
        losses, state = wholes[n]
        rel = 0 if name in EXACT else 1e-5
        assert [x for r in results for x in r[name][0]] == pytest.approx(losses, rel=rel, abs=0), name
        seen = set()
        for r in results:
            for key, value in r[name][1].items():
                close = torch.allclose(value, state[key], rtol=10 * rel, atol=rel)
                assert close if rel else torch.equal(value, state[key]), (name, key)
                seen.add(key)
        assert seen == set(state), name
        check_traffic(name, ranks, n, tokens, [r[name][2] for r in results])


def check_traffic(name, ranks, stages, tokens, sent):
    """(B,T,k) in int4 with learned steps forward, with a scale per 64 values backward, at every link between ranks."""
    rank_of = {s: r for r in range(ranks) for s in worker.stages_of(name, r, ranks)}
    b, n = worker.BATCH // worker.MICROBATCHES, worker.T * worker.D // 4
    forward = b * (n // 2) + (b * worker.T if tokens != "none" else 0)
    backward = b * (n // 2 + 2)
    times = worker.STEPS * worker.MICROBATCHES
    for r in range(ranks):
        for link, (f, g, _, per) in sent[r].items():
            here, there = map(int, link.split("->"))
            if rank_of[here] == rank_of[there]:
                assert (f, g) == (0, 0)
            elif there > here:  # evaluations send activations too
                messages = times + worker.MICROBATCHES * worker.evaluates(name)
                assert (f, g, per) == (messages * forward, 0, {"forward": forward})
            else:
                assert (f, g, per) == (0, times * backward, {"backward": backward})
