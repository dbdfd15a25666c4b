"""Shared by the tests: Triton's interpreter, and torch on one thread so that several processes fit a small machine."""

import os

os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import launch
import torch

launch.prepare()
torch.set_num_threads(1)
