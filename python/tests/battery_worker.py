"""One rank of tests/test_pair.py: cases that need two processes, one after the other. battery_worker.py OUT"""

import json
import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe, pipeline
from torch.utils.checkpoint import checkpoint

from resbm.torch import ResidualBottleneck, Stage, build_stage, handshake

D, T, B, M = 16, 6, 8, 4
CPU = torch.device("cpu")


class Whole(nn.Module):
    """A model with a bottleneck in the middle, for the tracer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.a, self.cut, self.b = nn.Linear(D, D), ResidualBottleneck(D, 4, seed=6), nn.Linear(D, D)

    def forward(self, x):
        return self.b(self.cut(torch.tanh(self.a(x))))


def loss_fn(y, t):
    return (y - t).pow(2).mean()


def batch(step):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(step))


def run(stage, kind=Schedule1F1B, steps=3, microbatches=M, dtype=torch.float32):
    """Losses of each step's microbatches on the last rank."""
    schedule = kind(stage, microbatches, loss_fn=loss_fn)
    optimizer = torch.optim.SGD(stage.submod.parameters(), lr=0.1)
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        losses = []
        x = batch(step).to(dtype)
        schedule.step(*((x,) if stage.is_first else ()), **(dict(target=x, losses=losses) if stage.is_last else {}))
        optimizer.step()
        seen += [v.item() for v in losses]
    return seen


def traced_stage(rank):
    model = Whole()
    return build_stage(pipeline(model, mb_args=(batch(0)[: B // M],)), model, rank, CPU)


def traced(rank):
    stage = traced_stage(rank)
    losses = run(stage, ScheduleGPipe)
    return dict(
        losses=losses,
        traffic={k: [t.forward, t.backward] for k, t in stage.traffic.items()},
        names=sorted(n for n, _ in stage.submod.named_parameters()),
    )


def in_one_process(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(3):
        optimizer.zero_grad()
        for x in batch(step).chunk(M):
            loss = loss_fn(model(x), x)
            (loss / M).backward()
            seen.append(loss.item())
        optimizer.step()
    return seen


def cut(rank, **options):
    torch.manual_seed(rank)
    return ResidualBottleneck(D, 4, seed=6, **options).cut(nn.Linear(D, D), rank, 2)


CODECS = (("int8", "int4"), ("int4", "bf16"), ("bf16", "int8"), ("f32", "f32"))


def codecs(rank):
    """Forward and backward separately: losses and bytes."""
    done = {}
    for forward, backward in CODECS:
        stage = Stage(cut(rank, codec=forward, codec_backward=backward), rank, 2, CPU)
        losses = run(stage)
        done[f"{forward} {backward}"] = [losses, {k: t.per_microbatch for k, t in stage.traffic.items()}]
    return done


def codecs_reference():
    """The same in one process."""
    done = {}
    for forward, backward in CODECS:
        ends = []
        for rank in range(2):  # in the order of cut(), which draws its numbers so
            torch.manual_seed(rank)
            between = ResidualBottleneck(D, 4, seed=6, codec=forward, codec_backward=backward)
            ends.append(nn.Linear(D, D))
        done[f"{forward} {backward}"] = in_one_process(nn.Sequential(ends[0], between.copy(0), ends[1]))
    return done


def other_codec(rank):
    return run(Stage(cut(rank, codec=("int4", "int8")[rank]), rank, 2, CPU))


def other_microbatches(rank):
    return run(Stage(cut(rank), rank, 2, CPU), ScheduleGPipe, microbatches=(4, 2)[rank])


def alone(rank):
    """The other rank never makes its stage."""
    if rank:
        return None
    handshake.TIMEOUT = timedelta(seconds=1)
    return run(Stage(cut(rank), rank, 2, CPU))


def alone_traced(rank):
    return run(traced_stage(rank), ScheduleGPipe) if rank == 0 else None


def wide_latents(rank):
    return run(Stage(cut(rank).to(torch.float64), rank, 2, CPU), dtype=torch.float64)


def features(rank):
    """autocast, torch.compile and checkpointing over a real link, under the schedules of one stage a rank."""

    def losses(kind, **how):
        return run(Stage(featured(rank, **how), rank, 2, CPU), kind)

    done = {}
    for kind in (Schedule1F1B, ScheduleGPipe):
        with torch.autocast("cpu", torch.bfloat16):
            cast = losses(kind)
        done[kind.__name__] = dict(
            plain=losses(kind), compiled=losses(kind, compiled=True), called=losses(kind, called=True),
            checkpointed=losses(kind, checkpointed=True), autocast=cast,
        )  # fmt: skip
    return done


def featured(rank, compiled=False, called=False, checkpointed=False):
    """A cut part, compiled as a new module or in place, or checkpointed."""
    part = cut(rank)
    if called:
        part.compile(backend="eager")
    if checkpointed:
        inner = part.forward
        part.forward = lambda x: checkpoint(inner, x, use_reentrant=False)
    return torch.compile(part, backend="eager") if compiled else part


def language_models(rank):
    """Small random Llama and Qwen of transformers, blocks shared between two stages, names as they were."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, vocab_size=61, max_position_embeddings=32,
    )  # fmt: skip

    class Part(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.lm_head = model.model, model.lm_head if rank else None
            del self.model.layers[1 - rank]

        def forward(self, x):
            h = x if rank else self.model.embed_tokens(x)
            places = torch.arange(T)[None]
            turn = self.model.rotary_emb(h, places)
            for layer in self.model.layers:
                h = layer(h, position_embeddings=turn, attention_mask=None, position_ids=places)
            return self.lm_head(self.model.norm(h)) if rank else h

    ids = torch.randint(61, (B, T), generator=torch.Generator().manual_seed(9))
    done = {}
    for config, kind in ((LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)):
        torch.manual_seed(1)
        part = ResidualBottleneck(32, 8, seed=2).cut(Part(kind(config(**sizes))), rank, 2)
        stage = Stage(part, rank, 2, CPU)
        schedule = Schedule1F1B(
            stage, M, loss_fn=lambda y, t: nn.functional.cross_entropy(y.flatten(0, 1), t.flatten())
        )
        optimizer = torch.optim.AdamW(part.parameters(), lr=1e-2)
        seen = []
        for _ in range(6):
            losses = []
            optimizer.zero_grad()
            schedule.step(*(() if rank else (ids,)), **(dict(target=ids, losses=losses) if rank else {}))
            optimizer.step()
            seen.append(sum(v.item() for v in losses) / M if losses else 0.0)
        done[kind.__name__] = dict(losses=seen, names=[n for n, _ in part.named_parameters()])
    return done


def tensorboard(rank):
    """Bytes of the links as a script logs them."""
    from torch.utils.tensorboard import SummaryWriter

    stage = Stage(cut(rank), rank, 2, CPU)
    with SummaryWriter(os.path.join(sys.argv[1], f"board{rank}")) as writer:
        for step in range(2):
            run(stage, steps=1)
            stage.log_traffic(writer, step)
    return {k: [t.forward, t.backward] for k, t in stage.traffic.items()}


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, said = dist.get_rank(), {}
    for case in (
        traced,
        codecs,
        other_codec,
        other_microbatches,
        wide_latents,
        features,
        language_models,
        tensorboard,
        alone,
        alone_traced,
    ):
        try:
            said[case.__name__] = case(rank)
        except Exception as e:
            said[case.__name__] = f"{type(e).__name__}: {e}"
            traceback.print_exc()
        print(case.__name__, "is over", flush=True)
        dist.barrier()
    if rank == 0:
        said["reference"], said["codecs reference"] = in_one_process(Whole()), codecs_reference()
    with open(os.path.join(sys.argv[1], f"{rank}.json"), "w") as f:
        json.dump(said, f)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
