"""The parts of torch.distributed.pipelining that :class:`resbm.torch.Stage` stands on, checked when it is imported.

They are private: another release may rename them or give them another meaning. Tested with the versions below.
"""

from __future__ import annotations

import inspect
import warnings

import torch
from torch.distributed import distributed_c10d
from torch.distributed.pipelining import PipelineStage, stage

TESTED = ("2.13.0",)

_METHODS = {
    "forward_one_chunk": ("fwd_chunk_id", "args", "kwargs"),
    "get_fwd_send_ops": ("fwd_chunk_id",),
    "get_fwd_recv_ops": ("fwd_chunk_id",),
    "get_bwd_send_ops": ("bwd_chunk_id",),
    "get_bwd_recv_ops": ("bwd_chunk_id",),
    "backward_one_chunk": ("bwd_chunk_id",),
    "set_local_fwd_input": ("prev_stage_outputs", "mb_index"),
    "set_local_bwd_input": ("next_stage_bwd_outputs", "mb_index"),
    "perform_reduce_grad": ("grad_scale_factor",),
    "clear_runtime_states": (),
    "_prepare_forward_infra": ("num_microbatches", "args", "kwargs", "has_backward"),
    "_resolve_peer_global_rank": ("stage_idx",),
    "_get_init_p2p_neighbors_ops": (),
}


def missing() -> list[str]:
    """What this release of torch lacks of it."""
    absent = [n for n in ("_PipelineStageBase", "_PipelineStage", "_RecvInfo") if not hasattr(stage, n)]
    base = getattr(stage, "_PipelineStageBase", PipelineStage)
    for name, arguments in _METHODS.items():
        method = getattr(base, name, None)
        if method is None:
            absent.append(f"_PipelineStageBase.{name}")
            continue
        has = inspect.signature(method).parameters
        absent += [f"{name}({a})" for a in arguments if a not in has]
    for name in ("_compute_outputs", "_warmup_forward_vote"):
        if not hasattr(PipelineStage, name):
            absent.append(f"PipelineStage.{name}")
    if not hasattr(distributed_c10d, "_get_default_store"):
        absent.append("distributed_c10d._get_default_store")
    return absent


def check() -> None:
    """ImportError when something is gone; a warning for a release that was never tested."""
    release = torch.__version__.split("+")[0]
    lacks = missing()
    if lacks:
        raise ImportError(
            f"resbm.torch.Stage was tested with torch {', '.join(TESTED)}; torch {release} lacks {', '.join(lacks)} of "
            "torch.distributed.pipelining. Install a tested release, or use the hooks of resbm.torch.hooks"
        )
    if release not in TESTED:
        warnings.warn(
            f"resbm.torch.Stage was tested with torch {', '.join(TESTED)}, this is {release}; its names are all there",
            stacklevel=3,
        )
