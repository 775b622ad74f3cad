"""How TensorFlow says that it refuses a floating dtype: what is in the text of the exception."""

from __future__ import annotations

import re
from typing import Literal

HALF = frozenset({"float16", "bfloat16"})
_NAMES = {"half": "float16", "float": "float32", "double": "float64"}
"""Of dtypes, as the core of TensorFlow calls them."""
_FLOATS = HALF | {"float32", "float64"}

Kind = Literal["mixed", "taken", "converted"]
_FORMS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "mixed",
        re.compile(
            r"Input '\w+' of '(?P<op>\w+)' Op has type (\w+) that does not match type (\w+) of"
        ),
    ),
    (
        "mixed",
        re.compile(
            r"list passed to '\w+' of '(?P<op>\w+)' Op have types \[([\w, ]+)\] that don't all"
        ),
    ),
    (
        "mixed",
        re.compile(
            r"cannot compute (?:_Mkl)?(?P<op>\w+) as input #[1-9]\d*\(zero-based\) was expected to be "
            r"an? (\w+) tensor but is an? (\w+) tensor"
        ),
    ),
    (
        "taken",
        re.compile(
            r"cannot compute (?P<op>\w+) as input #0\(zero-based\) was expected to be "
            r"an? (\w+) tensor but is an? (\w+) tensor"
        ),
    ),
    (
        "taken",
        re.compile(
            r"Input '\w+' of '(?P<op>\w+)' Op has type (\w+) that does not match expected type of (\w+)"
        ),
    ),
    ("taken", re.compile(r"No OpKernel was registered to support Op '(?P<op>\w+)' .*\bT=DT_(\w+)")),
    ("taken", re.compile(r"Could not find device for node: .* = (?P<op>\w+)\[[^\]]*\bT=DT_(\w+)")),
    (
        "taken",
        re.compile(r"Value passed to parameter '\w+' has DataType (\w+) not in list of allowed"),
    ),
    (
        "converted",
        re.compile(r"Tensor conversion requested dtype (\w+) for Tensor with dtype (\w+)"),
    ),
    ("converted", re.compile(r"TensorArray dtype is (\w+) but Op is trying to write dtype (\w+)")),
)
"""What TensorFlow says, each with its dtypes: of two that do not mix, of one that an operation does not
take, of a conversion that it does not make."""


def read(text: str) -> tuple[Kind, str | None, tuple[str, ...]] | None:
    """What happened, to which operation and dtypes, if these are floats that differ, and one has 16 bits."""
    for kind, form in _FORMS:
        if (found := form.search(text)) is None:
            continue
        named = found.groupdict().get("op")
        rest = [each for each in found.groups() if each != named]
        words = [word.strip().lower() for each in rest for word in each.split(",")]
        if len(words) == 1:
            words.append("float32")  # which every operation takes that takes floats
        dtypes = tuple(dict.fromkeys(_NAMES.get(word, word) for word in words))
        if len(dtypes) == 2 and _FLOATS.issuperset(dtypes) and not HALF.isdisjoint(dtypes):
            return kind, named, dtypes
    return None
