"""Hugging Face: small random models of transformers into the C program and back, runs as models of transformers."""

import copy
import functools
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from launch import run
from run_program import make_corpus, program, train

import resbm.hf.__main__
from resbm.torch import Llama, Shards

SIZES = dict(
    vocab_size=256, hidden_size=64, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=24,
)  # fmt: skip
LLAMA3 = dict(
    rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip
LINEAR = dict(rope_type="linear", rope_theta=10000.0, factor=2.0)
FAMILIES = {
    "llama": (transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3), torch.float32),
    "linear-rope": (transformers.LlamaConfig(**SIZES, rope_parameters=LINEAR), torch.float16),
    "mistral": (transformers.MistralConfig(**SIZES, sliding_window=None), torch.float32),
    "qwen2": (transformers.Qwen2Config(**SIZES), torch.bfloat16),
    "qwen3": (transformers.Qwen3Config(**SIZES, head_dim=24), torch.float32),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("hf"))


def random_model(family, out=None):
    """With weights large enough that every part of a block shows in the logits; saved in shards where qwen3."""
    config, dtype = FAMILIES[family]
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            values = torch.randn(p.shape) * (0.15 if p.dim() == 2 else 0.3) + (p.dim() == 1 and "bias" not in name)
            p.copy_(values.to(dtype))
    if out is not None:
        small = dict(max_shard_size="60KB") if family == "qwen3" else {}
        copy.deepcopy(model).to(dtype).save_pretrained(out, **small)
    return model


def loss_of(model, folder, n=8):
    shards = Shards(f"{folder}/corpus/val-*.bin", 24, 0)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(model(ids).logits[0], targets[0]).item()
            for ids, targets in shards.evaluation(n)
        ]
    return sum(losses) / n


def bring_in(folder, source, out, *overrides):
    """What `resbm import` says."""
    return program(
        "import", "--hf", source, out, "--config", folder / "run.yaml", "train.eval_sequences=8", *overrides
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_import_gives_the_same_model(folder, tmp_path, family):
    model = random_model(family, tmp_path / "hf")
    if family == "qwen3":
        assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 1
    said = bring_in(folder, tmp_path / "hf", tmp_path / "run", "--at", "1,2", "boundary.codec_fwd=f32")
    whole, cut, change = (
        float(x)
        for x in re.search(r"without boundaries ([\d.]+).* boundaries \(.*\) ([\d.]+) \((.*)\)", said, re.S).groups()
    )
    assert whole == pytest.approx(loss_of(model, folder), rel=1e-5)
    assert cut == pytest.approx(whole, rel=1e-6) and abs(change) < 1e-5
    here = Llama.from_run(tmp_path / "run")
    assert here.config.segments == [1, 1, 1] and here.config.k == 64
    ids = torch.arange(40).view(2, 20) * 7 % 256
    with torch.no_grad():
        assert torch.allclose(here(ids), model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_export_gives_it_back(folder, tmp_path, family):
    model = random_model(family, tmp_path / "hf")
    bring_in(folder, tmp_path / "hf", tmp_path / "run", "model.segments=1")
    said = program("export", "--hf", tmp_path / "run", tmp_path / "back")
    assert "transformers' own classes" in said
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is type(model)
    one, two = model.state_dict(), back.state_dict()
    assert set(one) == set(two) and all(torch.equal(one[n], two[n]) for n in one)
    ids = torch.arange(20)[None] * 11 % 256
    with torch.no_grad():
        assert torch.allclose(back(ids).logits, model(ids).logits, atol=1e-5)


def test_import_trains_on_while_the_ratio_narrows(folder, tmp_path):
    random_model("llama", tmp_path / "hf")
    run = tmp_path / "run"
    said = bring_in(
        folder, tmp_path / "hf", run, "train.steps=8", "train.anneal_until=1", "boundary.tokens=trunk", "optim.lr=0.01"
    )
    whole, cut = (float(x) for x in re.findall(r"boundaries.* ([\d.]+) \(", said))
    assert abs(cut - whole) < 0.1  # int4 of all coordinates, calibrated
    assert "copy of it, and trains apart" in said and "the ratio narrows to 8" in said
    program("train", "-q", run / "config.yaml", "--out", run, "--resume")
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 8 and losses[0] == pytest.approx(whole, abs=0.2) and losses[-1] < losses[0]
    model = Llama.from_run(run)
    assert (model.config.live(0), model.config.live(7), model.config.live(8)) == (64, 15, 8)
    ours = program("eval", run, "-s", "8")
    program("export", "--hf", run, tmp_path / "out")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert float(re.search(r"loss ([\d.]+)", ours)[1]) == pytest.approx(loss_of(exported, folder), rel=1e-5)


RUNS = {
    "trunk": ["boundary.tokens=trunk", "model.qk_norm=true", "model.kv_heads=2"],
    "embedding": ["boundary.tokens=embedding", "boundary.identity=rotate", "boundary.aux=latent", "model.cut=inside"],
    "subspace": ["boundary.kind=subspace"],
    "topk": ["boundary.kind=topk", "boundary.feedback=gradient"],
}


@pytest.fixture(scope="module", params=RUNS)
def exported(request, folder, tmp_path_factory):
    base = tmp_path_factory.mktemp(request.param)
    train(folder, base / "run", *RUNS[request.param])
    program("export", "--hf", base / "run", base / "out")
    return base


def test_an_exported_run_is_the_run(folder, exported):
    model = transformers.AutoModelForCausalLM.from_pretrained(exported / "out").eval()
    assert type(model).__name__ == "ResbmForCausalLM"
    said = program("eval", exported / "run", "-s", "8")
    assert loss_of(model, folder) == pytest.approx(float(re.search(r"loss ([\d.]+)", said)[1]), rel=1e-5)
    ids = torch.tensor([list(b"of a slow link")])
    labelled = model(ids, labels=ids)
    again = torch.nn.functional.cross_entropy(labelled.logits[0, :-1], ids[0, 1:])
    assert labelled.loss.item() == pytest.approx(again.item(), rel=1e-5)


def test_generation_with_a_cache(exported):
    model = transformers.AutoModelForCausalLM.from_pretrained(exported / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "out")
    ids = tokenizer("the slow", return_tensors="pt").input_ids
    assert ids.tolist() == [list(b"the slow")]
    out = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert torch.equal(out, model.generate(ids, max_new_tokens=12, do_sample=False, use_cache=False))
    theirs = program("generate", exported / "run", "-p", "the slow", "-n", "12", "-t", "0")
    assert bytes(out[0].tolist()) == theirs.encode(errors="surrogateescape").removesuffix(b"\n")


def test_padding_changes_nothing(exported):
    model = transformers.AutoModelForCausalLM.from_pretrained(exported / "out").eval()
    texts = [torch.tensor(list(b"gradients")), torch.tensor(list(b"of a slow link carries"))]
    alone = [model(t[None]).logits[0] for t in texts]
    for side in ("left", "right"):
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_side=side)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in texts], batch_first=True, padding_side=side)
        both = model(ids, attention_mask=mask).logits
        for i, t in enumerate(texts):
            got = both[i, -len(t) :] if side == "left" else both[i, : len(t)]
            assert torch.allclose(got, alone[i], atol=1e-4)
        if side == "left":
            out = model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False, pad_token_id=0)
            single = model.generate(texts[0][None], max_new_tokens=3, do_sample=False, pad_token_id=0)
            assert torch.equal(out[0, -3:], single[0, -3:])


def test_loglikelihood_as_harnesses_ask_for_it(exported):
    """Context and continuation in one call, right-padded and without a mask; the sum over the continuation's tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(exported / "out").eval()
    pairs = [(b"the slow ", b"link"), (b"of a ", b"slow link carries")]
    rows = [torch.tensor(list(c + w))[:-1] for c, w in pairs]
    logits = model(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)).logits.log_softmax(-1)
    for i, (context, words) in enumerate(pairs):
        want = torch.tensor(list(words))
        got = logits[i, len(context) - 1 : len(context) + len(words) - 1].gather(-1, want[:, None]).sum()
        alone, total = list(context), 0.0
        for token in words:
            total += model(torch.tensor([alone])).logits[0, -1].log_softmax(-1)[token].item()
            alone.append(token)
        assert got.item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("exported", ["trunk"], indirect=True)
def test_the_bytes_tokenizer_gives_bytes(exported):
    """Its end of text and padding are a byte too, or harnesses would add a token that the model has not."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "out")
    text = "Ă ă ĀÿŃ\n\t\x00\x03\x7f link 🙂"
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode()) and tokenizer.decode(ids) == text
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (3, 3, 256)


GOLDEN = Path(os.environ.get("RB_SOURCE_DIR", Path(__file__).parents[2])) / "tests/golden/tokenizers"


@pytest.mark.parametrize(
    "kind,vocab", [("bpe.model", 600), ("unigram.model", 250), ("gpt2.json", 600), ("qwen2.json", 504)]
)
def test_a_tokenizer_alone_gives_the_programs_ids(folder, tmp_path, kind, vocab):
    """Also where transformers, with no class named, would put a blank of its own before a text."""
    mine = shutil.copy(GOLDEN / kind, tmp_path / f"my-{kind}")
    train(folder, tmp_path / "run", f"data.tokenizer={mine}", f"model.vocab={vocab}")
    program("export", "--hf", tmp_path / "run", tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer) <= vocab
    cases = json.loads((GOLDEN / f"{kind.split('.')[0]}.cases.json").read_text())
    assert len(cases) > 100
    for text, ids in cases:
        assert tokenizer(text, add_special_tokens=False).input_ids == ids, text


TASKS = {
    "slow_text": """
task: slow_text
dataset_path: json
dataset_kwargs: {data_files: {test: %s/docs.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
""",
    "slow_choice": """
task: slow_choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s/docs.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: " "
metric_list: [{metric: acc}]
""",
    "slow_words": """
task: slow_words
dataset_path: json
dataset_kwargs: {data_files: {test: %s/docs.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{text}}"
target_delimiter: ""
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
DOCS = [
    dict(text="of a slow link", context="of a slow", choices=["link", "of", "zq"]),
    dict(text="the link carries latent", context="the link", choices=["carries latent", "xw qk vv"]),
    dict(text="gradients", context="a", choices=["slow", "QQQQ", "%%"]),
]


def score(model, context, words):
    """Log-likelihood of the bytes `words` behind the bytes `context`."""
    ids = torch.tensor([list(context + words)])
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits.log_softmax(-1)[0, len(context) - 1 :]
    return logits.gather(-1, ids[0, len(context) :, None]).sum().item()


@pytest.mark.parametrize("exported", ["trunk"], indirect=True)
def test_lm_evaluation_harness(exported, tmp_path, monkeypatch, capsys):
    """Its command with a text, a choice and a generation task made here; each answer recomputed."""
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(task % tmp_path)
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(d) + "\n" for d in DOCS))
    from lm_eval import tasks

    # its own tasks, twelve thousand files, are not read: half a minute
    begin = functools.partialmethod(tasks.TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(tasks.TaskManager, "__init__", begin)
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = [
        "harness", "--model", "hf", "--model_args", f"pretrained={exported}/out", "--tasks", *TASKS, "--include_path",
        tmp_path, "--device", "cpu", "--batch_size", "3", "--log_samples", "--output_path", tmp_path / "results",
    ]  # fmt: skip
    assert resbm.hf.__main__.main([str(w) for w in words]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in TASKS)
    samples = {}
    for name in TASKS:
        (file,) = (tmp_path / "results").rglob(f"samples_{name}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        samples[name] = [r["filtered_resps"] for r in sorted(rows, key=lambda r: r["doc_id"])]
    model = transformers.AutoModelForCausalLM.from_pretrained(exported / "out").eval()
    for i, doc in enumerate(DOCS):
        text, context = doc["text"].encode(), doc["context"].encode()
        assert float(samples["slow_text"][i][0]) == pytest.approx(score(model, b"\3", text), abs=1e-3)
        wants = [score(model, context, b" " + c.encode()) for c in doc["choices"]]
        assert [float(r[0]) for r in samples["slow_choice"][i]] == pytest.approx(wants, abs=1e-3)
        said = program("generate", exported / "run", "-p", doc["context"], "-n", "6", "-t", "0")
        assert samples["slow_words"][i][0] == said.removesuffix("\n").removeprefix(doc["context"])


def test_other_programs_need_not_import_anything(folder, tmp_path):
    train(folder, tmp_path / "run")
    program("export", "--hf", "--bf16", tmp_path / "run", tmp_path / "out")
    (tmp_path / "other.py").write_text(
        "import sys, transformers, torch\n"
        "assert 'resbm.hf' not in sys.modules\n"
        "m = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "print(m.dtype, m(torch.ones(1, 4, dtype=torch.long)).logits.shape)\n"
    )
    ((code, said),) = run(tmp_path / "other.py", 1, tmp_path / "out")
    assert code == 0 and "torch.bfloat16 torch.Size([1, 4, 256])" in said, said


def test_the_command(folder, exported, capsys):
    assert (
        resbm.hf.__main__.main(
            ["loss", str(exported / "out"), "--data", f"{folder}/corpus/val-*.bin", "--sequences", "8"]
        )
        == 0
    )
    said = program("eval", exported / "run", "-s", "8")
    ours, theirs = (float(re.search(r"loss ([\d.]+)", text)[1]) for text in (capsys.readouterr().out, said))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert resbm.hf.__main__.main(["generate", str(exported / "out"), "--prompt", "the slow", "--tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("the slow")


def test_a_tokenizer_travels_along(folder, tmp_path):
    from tokenizers import ByteLevelBPETokenizer

    random_model("llama", tmp_path / "hf")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([(folder / "text").read_text()], vocab_size=256 + 20, show_progress=False)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer).save_pretrained(tmp_path / "hf")
    program("import", "--hf", tmp_path / "hf", tmp_path / "run", "--at", "1", "boundary.ratio=8")
    assert f'tokenizer: "{tmp_path}/run/tokenizer.json"' in (tmp_path / "run/config.yaml").read_text()
    program("export", "--hf", tmp_path / "run", tmp_path / "out")
    back = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert back("the slow link").input_ids == tokenizer.encode("the slow link").ids


def change(source, out, **keys):
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | keys))
    return out


def test_what_cannot_be_is_refused_by_name(folder, tmp_path):
    random_model("llama", tmp_path / "hf")
    cases = {
        "model_type .gpt2.; llama, mistral, qwen2 and qwen3": dict(model_type="gpt2"),
        "rope_type .yarn. is not among": dict(rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0)),
        "quantization_config": dict(quantization_config={"bits": 4}),
        "attention_bias": dict(attention_bias=True),
        "mlp_bias": dict(mlp_bias=True),
        "hidden_act": dict(hidden_act="gelu"),
        "its config.json makes that": dict(intermediate_size=40),
        "holds no tensor model.layers.3.": dict(num_hidden_layers=4),
        "which this program's model has not": dict(num_hidden_layers=2),
        "holds no tensor lm_head.weight": dict(tie_word_embeddings=False),
    }
    for i, (say, keys) in enumerate(cases.items()):
        bad = change(tmp_path / "hf", tmp_path / f"bad{i}", **keys)
        said = program("import", "--hf", bad, tmp_path / f"run{i}", "--at", "1", "boundary.ratio=8", fails=True)
        assert re.search(say, said), said
        assert not list((tmp_path / f"run{i}").glob("step-*"))
    assert "--at 0" in program("import", "--hf", tmp_path / "hf", tmp_path / "run", "--at", "0", fails=True)
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/pytorch_model.bin")
    settings = ["boundary.ratio=8", "model.segments=2"]
    assert "save_pretrained" in program("import", "--hf", tmp_path / "hf", tmp_path / "run", *settings, fails=True)
    config = resbm.hf.ResbmConfig()
    with pytest.raises(ValueError, match="resbm export"):
        resbm.hf.ResbmForCausalLM(config)
