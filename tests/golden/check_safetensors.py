"""Reads the file that safetensors_test wrote with the Python package `safetensors` and compares every value.

    ctest -R safetensors_test                          runs it with .venv/bin/python, or what RESBM_PYTHON names
    python check_safetensors.py python.safetensors                by hand
"""
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

path = sys.argv[1]
want = {
    "u8": np.arange(5, dtype=np.uint8),
    "f32": (np.arange(6, dtype=np.float32) / 4).reshape(2, 3),
    "i64": np.array([-3, 1 << 40], dtype=np.int64),
    "f64": np.array(0.1, dtype=np.float64),
}
got = load_file(path)
assert set(got) == set(want), (sorted(got), sorted(want))
for name, value in want.items():
    assert got[name].dtype == value.dtype and got[name].shape == value.shape, (name, got[name].dtype, got[name].shape)
    assert (got[name] == value).all(), (name, got[name])
save_file(want, path + ".python")  # which the test reads in turn
print("safetensors", path, "ok")
