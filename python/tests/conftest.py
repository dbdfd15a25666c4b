"""Shared by the tests: Triton's interpreter, and torch on one thread so that several processes fit a small machine."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

torch.set_num_threads(1)
