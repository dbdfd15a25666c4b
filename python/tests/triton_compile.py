"""Compiles the kernels for an NVIDIA GPU, which needs none, and prints what could round otherwise than C does."""

import warnings

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from resbm.torch import triton_codec as codec

warnings.simplefilter("ignore")
TYPES = {"x": "*fp32", "out": "*u8", "steps": "*fp32", "data": "*u8"}
#: (h + 1/2) 2^-16 is exact, so adding it fused or not gives the same bits.
EXACT = "0f37800000"


def build(kernel, **constants):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else TYPES.get(n, "i32") for n in names}
    values = {(names.index(n),): v for n, v in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    for line in made.asm["ptx"].splitlines():
        if "div.full" in line or "div.approx" in line or ("fma" in line and EXACT not in line):
            print("inexact", kernel.__name__, line.strip())
    print("compiled", kernel.__name__, len(made.asm["cubin"]) > 0)


build(codec._units_kernel, QMAX=7, UNITS=16, MOST=256)
build(codec._pack_kernel, BITS=4, QMAX=7, STEP=False, STOCHASTIC=True, BLOCK=256)
build(codec._pack_kernel, BITS=8, QMAX=127, STEP=True, STOCHASTIC=False, BLOCK=256)
build(codec._unpack_kernel, BITS=4, QMAX=7, STEP=False, BLOCK=256)
TYPES["out"] = "*i16"
build(codec._to_bf16_kernel, BLOCK=256)
