"""Names of Keras dtype policies: which there are, and what a value of the program says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpaudit.event import PolicyRefused
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.values import UNKNOWN, Const, External, Thing, Value
from mpaudit.source.library.keras.names import text

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

DTYPES = ("float16", "bfloat16", "float32", "float64", "half")
MIXED = ("mixed_float16", "mixed_bfloat16")
_VALID = re.compile(
    r"mixed_b?float16|b?float16|float(8|32|64)\w*|half|single|double|bool|string|u?int\d+|complex\d+"
    r"|variant|resource|_infer|\w+_from_\w+"
)
"""What one version of Keras or another takes for a dtype or a policy."""
FLOATX = ("bfloat16", "float16", "float32", "float64")


def policy_name(value: Value | None, path: Path) -> str | None:
    """The name of the policy that a value is or stands for, None if it is not known, or is none."""
    name = _named(value, path)
    return name if name is not None and not is_none(name) else None


def _named(value: Value | None, path: Path) -> str | None:
    if isinstance(value, External):
        name = last(value.name)
        return {"half": "float16"}.get(name, name) if name in DTYPES else None
    if isinstance(value, Thing):
        value = path.known(value, "@name") if value.kind == "DTypePolicy" else None
    name = text(value) or ""
    return {"half": "float16"}.get(name, name) if name and value != UNKNOWN else None


def is_none(name: str) -> bool:
    """Whether no version of Keras has a policy of that name."""
    return _VALID.fullmatch(name) is None


def compute_dtype(policy: str | None) -> str | None:
    """The dtype that layers of a policy compute in, None for policies that do otherwise."""
    name = (policy or "").removeprefix("mixed_")
    return name if name in DTYPES else None


def refuse(call: Call, given: Value | None, at: Span | None = None) -> None:
    """Tell the protocols of a name that Keras refuses; `at` is where it is given."""
    name = text(given)
    if name is not None and given != UNKNOWN and is_none(name):
        call.emit(PolicyRefused(at=at or call.span, occasional=call.occasional, given=name))


def refuse_floatx(call: Call, given: Value | None) -> None:
    """The same for `set_floatx`, which takes dtypes and no policies."""
    name = text(given)
    if name is not None and given != UNKNOWN and name not in FLOATX:
        call.emit(PolicyRefused(at=call.span, occasional=call.occasional, given=name))


def stated(name: str | None) -> Const:
    """A policy's name as a fact."""
    return UNKNOWN if name is None else Const(name)
