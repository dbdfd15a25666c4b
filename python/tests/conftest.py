"""Shared by the tests: torch on one thread, so that several processes fit a small machine."""

import torch

torch.set_num_threads(1)
