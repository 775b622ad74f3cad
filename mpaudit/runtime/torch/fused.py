"""One pass over a tensor on a GPU, in one kernel: largest finite magnitude, how many are not finite.

Importing this needs Triton.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]

BLOCK = 2048  # numbers that one program looks at at a time: 16 bytes of float16 for each thread
WARPS = 8
PROGRAMS = 8  # of one multiprocessor: all its threads are at work


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def numbers(source, row, elements, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: N803
    """Join what `elements` numbers from `source` on hold to a row of four float64, at first zeros.

    They are: the largest finite magnitude; how many are inf, NaN, -inf.
    """
    infinity = float("inf")
    amax = tl.zeros([BLOCK], tl.float64 if source.dtype.element_ty == tl.float64 else tl.float32)
    plus = tl.zeros([BLOCK], tl.int32)
    nan = tl.zeros([BLOCK], tl.int32)
    minus = tl.zeros([BLOCK], tl.int32)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    for start in range(first, elements, tl.num_programs(0).to(tl.int64) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(source + at, mask=at < elements, other=0.0).to(amax.dtype)
        magnitude = tl.abs(value)
        amax = tl.maximum(amax, tl.where(magnitude < infinity, magnitude, 0.0))
        plus += (value == infinity).to(tl.int32)
        nan += (value != value).to(tl.int32)
        minus += (value == -infinity).to(tl.int32)
    tl.atomic_max(row, tl.max(amax, 0).to(tl.float64), sem="relaxed")
    bad = tl.sum(plus + nan + minus, 0)
    if bad > 0:
        tl.atomic_add(row + 1, tl.sum(plus, 0).to(tl.float64), sem="relaxed")
        tl.atomic_add(row + 2, tl.sum(nan, 0).to(tl.float64), sem="relaxed")
        tl.atomic_add(row + 3, tl.sum(minus, 0).to(tl.float64), sem="relaxed")


def join(tensor: torch.Tensor, row: torch.Tensor, processors: int) -> None:
    """Launch `numbers` on a tensor that has no gaps in memory, on a device of so many processors."""
    elements = tensor.numel()
    programs = min(-(-elements // BLOCK), processors * PROGRAMS)
    numbers[(programs,)](tensor, row, elements, BLOCK=BLOCK, num_warps=WARPS)
