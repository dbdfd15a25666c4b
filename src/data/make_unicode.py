#!/usr/bin/env python3
"""Writes unicode_ranges.h: the letters (\\p{L}), numbers (\\p{N}) and white space (\\s) that the tokenizers package's
regular expressions see, as sorted ranges of code points. Asking the package itself keeps its Unicode version.

    .venv/bin/python src/data/make_unicode.py > src/data/unicode_ranges.h"""
import tokenizers
from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))


def members(pattern):
    kept = pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(TEXT)
    rest = set()
    for _, (a, b) in kept:
        rest.update(CODE_POINTS[a:b])
    return [c for c in CODE_POINTS if c not in rest]


def ranges(points):
    out = []
    for c in points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


print(f"/* Written by make_unicode.py from tokenizers {tokenizers.__version__}; do not edit. First and last code point of each range. */")
print("#ifndef RB_DATA_UNICODE_RANGES_H\n#define RB_DATA_UNICODE_RANGES_H\n\n#include <stdint.h>")
for name, pattern in (("letter", r"\p{L}"), ("number", r"\p{N}"), ("space", r"\s")):
    r = ranges(members(pattern))
    print(f"\nstatic const uint32_t rb_{name}_ranges[{len(r)}][2] = {{ /* clang-format off */")
    cells = [f"{{0x{a:X}, 0x{b:X}}}," for a, b in r]
    line = "   "
    for cell in cells:
        if len(line) + 1 + len(cell) > 108:
            print(line)
            line = "   "
        line += " " + cell
    print(line + "\n}; /* clang-format on */")
print("\n#endif")
