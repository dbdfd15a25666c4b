"""resbm-hf: exported runs from the command line, for those who have the Python package alone.

resbm-hf loss OUT --data 'val-*.bin'        the loss that `resbm eval` gives
resbm-hf generate OUT --prompt TEXT
resbm-hf harness --model hf --model_args pretrained=OUT --tasks ...     lm-eval, with model_type resbm known to it
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

import torch
import transformers

import resbm.hf  # noqa: F401
from resbm.torch.shards import Shards


def _loss(model: torch.nn.Module, pattern: str, context: int, sequences: int) -> float:
    """Mean loss over the C program's evaluation sequences."""
    total = 0.0
    for ids, targets in Shards(pattern, context, 0).evaluation(sequences):
        logits = model(ids).logits
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).item()
    return total / sequences


def _parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="resbm-hf", description="Uses what `resbm export --hf RUN OUT` wrote.")
    commands = p.add_subparsers(dest="command", required=True)
    loss = commands.add_parser("loss", help="mean loss on token shards")
    loss.add_argument("folder")
    loss.add_argument("--data", required=True, help="shards: a path or a pattern")
    loss.add_argument("--sequences", type=int, default=64)
    loss.add_argument("--context", type=int, help="tokens of a sequence (default: the model's)")
    generate = commands.add_parser("generate", help="continue a text")
    generate.add_argument("folder")
    generate.add_argument("--prompt", default="The ")
    generate.add_argument("--tokens", type=int, default=100)
    commands.add_parser("harness", help="lm-eval (pip install lm-eval) with everything behind it", add_help=False)
    return p


def _harness(rest: list[str]) -> int:
    try:
        from lm_eval.__main__ import cli_evaluate
    except ImportError:
        print("resbm-hf harness: lm-eval is not installed: pip install lm-eval", file=sys.stderr)
        return 1
    sys.argv = ["lm_eval", *rest]
    cli_evaluate()
    return 0


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["harness"]:
        return _harness(arguments[1:])
    a = _parser().parse_args(arguments)
    model = transformers.AutoModelForCausalLM.from_pretrained(a.folder).eval()
    if a.command == "loss":
        loss = _loss(model, a.data, a.context or model.config.max_position_embeddings, a.sequences)
        print(f"loss {loss:.6f}  perplexity {math.exp(loss):.6g} per token")
        return 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(a.folder)
    ids = tokenizer(a.prompt, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=a.tokens, do_sample=True)
    print(tokenizer.decode(out[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
