"""The codec of libresbm through ctypes: pointers and sizes, no copies. Contracts are those of include/resbm.h."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char, c_char_p, c_int, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path


class CodecError(RuntimeError):
    """A fault that libresbm reported, in its own words."""


class _Error(ctypes.Structure):
    _fields_ = (("code", c_int), ("text", c_char * 1020))


_SIGNATURES: dict[str, tuple[type | None, list[object]]] = {
    "resbm_version": (c_char_p, []),
    "resbm_codec_open": (c_int, [c_char_p, c_int, c_uint64, c_uint32, POINTER(c_void_p), POINTER(_Error)]),
    "resbm_codec_close": (None, [c_void_p]),
    "resbm_codec_steps": (c_int, [c_void_p, c_void_p, c_int64, POINTER(_Error)]),
    "resbm_packed_bytes": (c_int64, [c_void_p, c_int64, c_int64, c_int64]),
    "resbm_pack": (
        c_int,
        [
            c_void_p,
            c_void_p,
            c_int64,
            c_int64,
            c_int64,
            c_uint64,
            c_uint64,
            c_void_p,
            c_int64,
            POINTER(_Error),
        ],
    ),
    "resbm_unpack": (
        c_int,
        [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, POINTER(_Error)],
    ),
    "resbm_code_sums": (
        c_int,
        [c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p, POINTER(_Error)],
    ),
    "resbm_steps_update": (
        c_int,
        [c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_uint64, POINTER(_Error)],
    ),
}


def _load() -> ctypes.CDLL:
    """The wheel's own library, or what RESBM_LIBRARY names (a build of the whole libresbm.so does too)."""
    path = os.environ.get("RESBM_LIBRARY") or str(Path(__file__).with_name("libresbm_codec.so"))
    try:
        lib = ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"{path}: {e}. Install the package (pip install ./python) or set RESBM_LIBRARY") from e
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(lib, name)
        except AttributeError as e:
            raise ImportError(f"{path} has no {name}: it is of another version than this package") from e
        function.restype, function.argtypes = result, arguments
    return lib


_lib = _load()


def version() -> str:
    """Version of the library that was loaded."""
    text: bytes = _lib.resbm_version()
    return text.decode()


def _check(status: int, error: _Error) -> None:
    if status:
        raise CodecError(error.text.decode(errors="replace"))


class Handle:
    """One codec in one direction, on host memory. For one thread at a time."""

    def __init__(self, name: str, direction: int, seed: int, boundary: int) -> None:
        self._p = c_void_p()
        error = _Error()
        status = _lib.resbm_codec_open(name.encode(), direction, seed, boundary, self._p, error)
        _check(status, error)

    def __del__(self) -> None:
        if getattr(self, "_p", None):
            _lib.resbm_codec_close(self._p)

    def steps(self, address: int, k: int) -> None:
        """Take k learned steps from `address` (0: back to scales per token)."""
        error = _Error()
        _check(_lib.resbm_codec_steps(self._p, address, k, error), error)

    def packed_bytes(self, b: int, t: int, k: int) -> int:
        """Exact length of a packed (b,t,k)."""
        n: int = _lib.resbm_packed_bytes(self._p, b, t, k)
        if n < 0:
            raise CodecError(f"({b},{t},{k}) is empty or too large to pack")
        return n

    def pack(self, x: int, shape: tuple[int, int, int], step: int, sequence: int, out: int, n: int) -> None:
        """n bytes at `out` from f32 numbers at x."""
        error = _Error()
        _check(_lib.resbm_pack(self._p, x, *shape, step, sequence, out, n, error), error)

    def unpack(self, data: int, n: int, shape: tuple[int, int, int], x: int) -> None:
        """F32 numbers at x from n bytes at `data`."""
        error = _Error()
        _check(_lib.resbm_unpack(self._p, data, n, *shape, x, error), error)

    def code_sums(self, data: int, n: int, shape: tuple[int, int, int], sums: int) -> None:
        """Add the squares of each coordinate's codes to k i64 at `sums`."""
        error = _Error()
        _check(_lib.resbm_code_sums(self._p, data, n, *shape, sums, error), error)

    def steps_update(self, steps: int, sums: int, k: int, tokens: int, updates: int) -> None:
        """New steps in place at `steps`, from the sums over `tokens` tokens."""
        error = _Error()
        _check(_lib.resbm_steps_update(self._p, steps, sums, k, tokens, updates, error), error)
