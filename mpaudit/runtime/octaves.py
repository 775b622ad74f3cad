"""A sample of a tensor, counted by power of two: the row of counts that every probe makes."""

from __future__ import annotations

from collections.abc import Sequence

SAMPLE = 16384  # numbers of one tensor that are counted, at most
LOWEST = -149  # exponent of float32's smallest subnormal
NORMAL = -126  # and of its smallest normal number
INF = 129 - LOWEST  # behind the last exponent, 127
BINS = INF + 2
"""Zeros, 277 exponents, inf, NaN."""


def read(found: Sequence[float]) -> tuple[int, tuple[int, ...], int, int, int]:
    """Of such counts: the first exponent, the counts from there on; zeros, infs and NaNs."""
    there = [place for place, count in enumerate(found[:INF]) if count and place]
    apart = int(found[0]), int(found[INF]), int(found[INF + 1])
    if not there:
        return 0, (), *apart
    inside = tuple(map(int, found[there[0] : there[-1] + 1]))
    return there[0] + LOWEST - 1, inside, *apart
