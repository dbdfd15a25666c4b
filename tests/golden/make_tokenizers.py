#!/usr/bin/env python3
"""Writes tests/golden/tokenizers/: small tokenizers of every kind the program reads, and beside each what the
packages `tokenizers` and `sentencepiece` make of some hundred texts. src/data/tokenizer_golden_test.c reads them.

gpt2.json, llama3.json, qwen2.json: byte-level BPE with the pre-tokenizers of those models, gpt2 with merges as
"a b" and one special token; llama3 with ignore_merges, a template and words in the vocabulary that no merge makes;
qwen2 with added tokens that are not special. bpe.model, unigram.model: SentencePiece with and without byte fallback.
NAME.cases.json is a list of [text, [ids]]. words.json is a list of [regular expression, text, [bytes of each word]],
whose texts hold the first and last character of every range of letters, numbers and spaces, and their neighbours. Needs the packages of tests/requirements.txt."""
import io
import json
import pathlib
import random

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent / "tokenizers"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

WORDS = ("the of and a to in is that it was for on are with as his they be at one have this from or had by not but "
         "what all were when we there can an your which their said if do will each about how up out them then she many "
         "some so these would other into has more her two like him see time could no make than first been its who now "
         "people my made over did down only way find use may water long little very after words called just where most "
         "know internationalization straße naïve café Ωμέγα здравствуйте мир 東京 こんにちは 안녕하세요 नमस्ते עברית العربية").split()
ODD = ["don't", "I'LL", "we'Ve", "it'S", "'ſ", "it'ſx", "'d've", "''s", "x'", "'", "12", "1234567", "3.14159", "½²Ⅷ", "٣٤٥", "1a2b3c", "e\u0301",
       "👍", "👩‍👩‍👧", "🇩🇪", "…", "—", "\u00a0", "\u2003", "\u3000x", "\u0085", "\u1680", "\u200b", "\ufeff", "\ufffd", "\ufffe", "\U0010ffff",
       "\x00", "\x01\x7f", "\x1c", "\t", "\t\tif", "\r", "\r\n", "\n", "\n\n", " \n ", "  ", "   ", "\n  \n\tx", "!?", "...\n\n", "$%^&*()",
       "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|", "endoftext|>", "<tool>", "<tool><tool", "<|end", "snake_case", "CamelCase", "ALLCAPS",
       "#include <stdio.h>\n", "http://a.b/c?d=e", "\u0100\u0120", "Ġ", "ǅ", "ª", "ʼ", "ⅻ", "𐞀", "𞤀", "𝟘𝟙", "ー", "々", "ሀ", "\u0300", "a\u0300\u0301b"]


def texts(seed, n):
    rng = random.Random(seed)
    out = ["", " ", "  ", "\n", "a", " a", "  a", "a ", "a  ", "a\n", "a \n b", "é", "\U0001f600"] + ODD
    while len(out) < n:
        parts = []
        for _ in range(rng.randint(1, 12)):
            parts.append(rng.choice(WORDS if rng.random() < 0.6 else ODD))
            parts.append(rng.choice(["", " ", " ", " ", "  ", "\n", ", ", "\r\n\r\n", " \t "]))
        out.append("".join(parts))
    return out


def corpus():
    rng = random.Random(1)
    return ["".join(rng.choice(WORDS) + rng.choice([" ", " ", ", ", ". ", "\n", "  ", " 12", "'s "]) for _ in range(60))
            for _ in range(400)]


def byte_level(pattern):
    t = Tokenizer(models.BPE())
    if pattern:
        t.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return t


def train(t, size, special):
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    return json.loads(t.to_str())


def write(name, j, cases, template=False):
    text = json.dumps(j, ensure_ascii=False, separators=(",", ":"))
    t = Tokenizer.from_str(text)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    write_cases(name, [[s, t.encode(s, add_special_tokens=False).ids] for s in cases])
    if template:
        assert t.encode("a").ids[0] == t.token_to_id("<|begin_of_text|>")


def write_cases(name, cases):
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    (HERE / f"{name}.cases.json").write_text("[" + lines + "]\n")


def gpt2():
    j = train(byte_level(None), 600, ["<|endoftext|>"])
    j["model"]["merges"] = [" ".join(m) for m in j["model"]["merges"]]
    write("gpt2", j, texts(2, 300))


def llama3():
    t = byte_level(LLAMA3)
    j = train(t, 600, [])
    vocab = j["model"]["vocab"]
    for word in ("Ġinternational", "ization", "Ġ1", "123", "çĤ¹", "ĠPeople"):
        vocab.setdefault(word, len(vocab))
    j["model"]["ignore_merges"] = True
    t = Tokenizer.from_str(json.dumps(j))
    t.add_special_tokens(["<|begin_of_text|>", "<|end", "<|end_of_text|>"])
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B:1",
                                      special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])])
    write("llama3", json.loads(t.to_str()), texts(3, 300), template=True)


def qwen2():
    t = byte_level(QWEN2)
    j = train(t, 500, ["<|endoftext|>"])
    t = Tokenizer.from_str(json.dumps(j))
    t.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<tool><tool", normalized=True), AddedToken("snake", normalized=True),
                  AddedToken("<|end", normalized=True)])
    write("qwen2", json.loads(t.to_str()), texts(4, 200))


def sentence_model(name, kind, fallback, seed):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(corpus()).split("\n")), model_writer=model, model_type=kind, vocab_size=600 if fallback else 250,
        byte_fallback=fallback, character_coverage=0.999 if fallback else 1.0, normalization_rule_name="identity",
        remove_extra_whitespaces=False, num_threads=1, minloglevel=2)
    (HERE / f"{name}.model").write_bytes(model.getvalue())
    t = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    write_cases(name, [[s, t.encode(s)] for s in texts(seed, 150) if "\x00" not in s])


def class_borders():
    points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    text, borders = "".join(map(chr, points)), set()
    for pattern in (r"\p{L}", r"\p{N}", r"\s"):
        for _, (a, b) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text):
            borders.update(points[max(a - 1, 0):a + 1] + points[b - 1:b + 1])
    return "".join(f"a{chr(c)}1{chr(c)} {chr(c)}" for c in sorted(borders))


def words():
    gpt2_pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    text = class_borders()
    out = []
    for pattern in (gpt2_pattern, LLAMA3, QWEN2):
        split = pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str(text)
        out.append([pattern, text, [len(w.encode()) for w, _ in split]])
    (HERE / "words.json").write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    gpt2()
    llama3()
    qwen2()
    words()
    sentence_model("bpe", "bpe", True, 5)
    sentence_model("unigram", "unigram", False, 6)
