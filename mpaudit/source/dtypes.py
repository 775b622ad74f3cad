"""The dtype of a tensor, as far as the source tells, and the place where it became so.

A dtype is a plain name ("float16"). It is kept as the hidden fact `@dtype` of a thing; no fact means
that nothing is known, and nothing is reported of such a tensor. What autocast does to an operation's
inputs and result stands in `mpaudit.source.library.torch_tensor`.
"""

from __future__ import annotations

from mpaudit.finding import Span
from mpaudit.source.path import Path
from mpaudit.source.values import Const, Thing, Value

HALF = ("float16", "bfloat16")


def dtype_of(value: Value | None, path: Path) -> str | None:
    """The dtype of a tensor on this path, None where it is not known or depends on an open question."""
    fact = None if value is None else path.known(value, "@dtype")
    return str(fact.value) if isinstance(fact, Const) else None


def since(value: Value | None, path: Path) -> Span | None:
    """The place that gave a tensor its dtype: a region, a cast, a constructor."""
    fact = None if value is None else path.known(value, "@dtype_at")
    return fact.value if isinstance(fact, Const) and isinstance(fact.value, Span) else None


def typed(made: Thing, dtype: str, at: Span | None, path: Path) -> Thing:
    """Note the dtype of a tensor. Returns the tensor."""
    return path.learn(made, dtype=Const(dtype), dtype_at=Const(at))
