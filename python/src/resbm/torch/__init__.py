"""Residual bottlenecks in PyTorch pipelines.

:class:`ResidualBottleneck` narrows the activation between two stages, :class:`Stage` takes the place of
``torch.distributed.pipelining.PipelineStage`` and sends it packed.
"""

from .bottleneck import ResidualBottleneck
from .codec import BACKWARD, FORWARD, Codec, CodecError
from .hooks import ReceiveEnd, SendEnd, attach
from .link import Traffic
from .llama import Llama
from .optim import Optimizers, optimizers
from .plain import Functions, functions
from .run_optimizer import RunOptimizer, train_step
from .shards import Shards
from .stage import Stage, TracedStage, build_stage

__all__ = [
    "BACKWARD",
    "FORWARD",
    "Codec",
    "CodecError",
    "Functions",
    "Llama",
    "Optimizers",
    "ReceiveEnd",
    "ResidualBottleneck",
    "RunOptimizer",
    "SendEnd",
    "Shards",
    "Stage",
    "TracedStage",
    "Traffic",
    "attach",
    "build_stage",
    "functions",
    "optimizers",
    "train_step",
]
