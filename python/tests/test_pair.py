"""Two processes: the tracer front end, ranks that disagree, torch's features over a link, transformers' models."""

import json
from pathlib import Path

import pytest
from launch import run


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    out = tmp_path_factory.mktemp("pair")
    done = run(Path(__file__).with_name("battery_worker.py"), 2, out, timeout=300)
    assert all(code == 0 for code, _ in done), "\n".join(o for _, o in done)
    said = [json.loads((out / f"{r}.json").read_text()) for r in range(2)]
    return [s | dict(board=out / f"board{r}") for r, s in enumerate(said)]


def test_the_tracer_splits_between_the_halves_and_gives_the_bits_of_one_process(said):
    first, last = (s["traced"] for s in said)
    assert isinstance(first, dict), first
    assert last["losses"] == said[0]["reference"]
    assert first["names"] == ["a.bias", "a.weight", *(f"cut.encoder.{n}.weight" for n in ("fc1", "fc2", "norm"))]
    assert last["names"] == ["b.bias", "b.weight", *(f"cut.decoder.{n}.weight" for n in ("fc1", "fc2"))]
    messages, rows, numbers = 12, 2, 6 * 4
    assert first["traffic"] == {"0->1": [messages * rows * numbers // 2, 0]}
    assert last["traffic"] == {"1->0": [0, messages * rows * (numbers // 2 + 2)]}


def test_codecs_forward_and_backward_separately(said):
    rows, numbers = 2, 6 * 4  # of a microbatch, of a sequence
    forward = dict(int4=numbers // 2, int8=numbers, bf16=2 * numbers, f32=4 * numbers)
    scales = dict(int4=2, int8=2, bf16=0, f32=0)  # a gradient has one for 64 numbers, of two bytes
    for name, losses in said[0]["codecs reference"].items():
        one, other = name.split()
        assert said[1]["codecs"][name] == [losses, {"1->0": {"backward": rows * (forward[other] + scales[other])}}]
        assert said[0]["codecs"][name] == [[], {"0->1": {"forward": rows * forward[one]}}]


def test_ranks_that_disagree_are_told_on_both_sides(said):
    for s, (mine, theirs) in zip(said, (("int4", "int8"), ("int8", "int4"))):
        assert s["other_codec"].startswith("ValueError: stage") and "Give both stages the same" in s["other_codec"]
        assert f"codec: {mine} against {theirs}" in s["other_codec"]
    for s, (mine, theirs) in zip(said, ((4, 2), (2, 4))):
        assert f"microbatches: {mine} against {theirs}" in s["other_microbatches"], s["other_microbatches"]


def test_a_stage_that_never_comes_is_named_after_a_deadline(said):
    for case in ("alone", "alone_traced"):
        assert said[0][case].startswith("TimeoutError: stage 0 (rank 0) waited 1 s for stage 1 (rank 1)"), said[0][case]


def test_latents_the_codec_cannot_take_are_refused_before_the_first_message(said):
    assert all("latents of float64 would cross boundary 0; the codec takes float32" in s["wide_latents"] for s in said)


def test_compile_and_checkpointing_change_nothing_and_autocast_little(said):
    for s in said:
        for kind, got in s["features"].items():
            for name in ("compiled", "called", "checkpointed"):
                assert got[name] == got["plain"], (kind, name)
            assert got["autocast"] == pytest.approx(got["plain"], rel=0.05, abs=0.01), kind
    assert len(said[1]["features"]["Schedule1F1B"]["plain"]) == 12


def test_llama_and_qwen_of_transformers(said):
    for name, got in said[1]["language_models"].items():
        assert got["losses"][-1] < 0.8 * got["losses"][0], (name, got["losses"])
        assert "model.layers.0.self_attn.q_proj.weight" in got["names"]
        assert "boundary.0.decoder.fc1.weight" in got["names"]
    assert set(said[0]["language_models"]) == {"LlamaForCausalLM", "Qwen3ForCausalLM"}


def test_bytes_are_on_tensorboard(said):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for s, link, direction, size in zip(said, ("0->1", "1->0"), ("forward", "backward"), (2 * 12, 2 * 14)):
        events = EventAccumulator(str(s["board"]))
        events.Reload()
        total = [(e.step, e.value) for e in events.Scalars(f"resbm/{link}/bytes")]
        assert total == [(0, 4 * size), (1, 8 * size)] and sum(s["tensorboard"][link]) == 8 * size
        assert events.Scalars(f"resbm/{link}/{direction}_bytes_per_microbatch")[-1].value == size
