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
            r"Input '\w+' of '(?P<op>\w+)' Op has type (?P<second>\w+) that does not match "
            r"type (?P<first>\w+) of"
        ),
    ),
    (
        "mixed",
        re.compile(
            r"list passed to '\w+' of '(?P<op>\w+)' Op have types \[(?P<first>[\w, ]+)\] that don't all"
        ),
    ),
    (
        "mixed",
        re.compile(
            r"cannot compute (?:_Mkl)?(?P<op>\w+) as input #[1-9]\d*\(zero-based\) was expected to be "
            r"an? (?P<first>\w+) tensor but is an? (?P<second>\w+) tensor"
        ),
    ),
    (
        "taken",
        re.compile(
            r"cannot compute (?P<op>\w+) as input #0\(zero-based\) was expected to be "
            r"an? (?P<first>\w+) tensor but is an? (?P<second>\w+) tensor"
        ),
    ),
    (
        "taken",
        re.compile(
            r"Input '\w+' of '(?P<op>\w+)' Op has type (?P<first>\w+) that does not match "
            r"expected type of (?P<second>\w+)"
        ),
    ),
    (
        "taken",
        re.compile(
            r"No OpKernel was registered to support Op '(?P<op>\w+)' .*\bT=DT_(?P<first>\w+)"
        ),
    ),
    (
        "taken",
        re.compile(
            r"Could not find device for node: .* = (?P<op>\w+)\[[^\]]*\bT=DT_(?P<first>\w+)"
        ),
    ),
    (
        "taken",
        re.compile(
            r"Value passed to parameter '\w+' has DataType (?P<first>\w+) not in list of allowed"
        ),
    ),
    (
        "taken",
        re.compile(r"The `real` and `imag` components have incorrect types: (?P<first>\w+) "),
    ),
    (
        "taken",
        re.compile(
            r"(?P<op>\w+) requires tf\.float32 or tf\.float64 inputs, got: .*?\bdtype=(?P<first>\w+)",
            re.S,
        ),
    ),
    (
        "converted",
        re.compile(
            r"Tensor conversion requested dtype (?P<first>\w+) for Tensor with dtype (?P<second>\w+)"
        ),
    ),
    (
        "converted",
        re.compile(
            r"TensorArray dtype is (?P<first>\w+) but Op is trying to write dtype (?P<second>\w+)"
        ),
    ),
)
"""What TensorFlow says, each with its dtypes: of two that do not mix, of one that an operation does not
take, of a conversion that it does not make."""


def read(text: str) -> tuple[Kind, str | None, tuple[str, ...]] | None:
    """What happened, to which operation, and the dtypes in its order.

    Only of floats that differ, of which one has 16 bits.
    """
    for kind, form in _FORMS:
        if (found := form.search(text)) is None:
            continue
        said = found.groupdict()
        words = f"{said['first']},{said.get('second') or ''}".lower().split(",")
        dtypes = [_NAMES.get(word, word) for word in map(str.strip, words) if word]
        if len(dtypes) == 1:
            dtypes.append("float32")  # which every operation takes that takes floats
        two = tuple(dict.fromkeys(dtypes))
        if len(two) == 2 and _FLOATS.issuperset(two) and not HALF.isdisjoint(two):
            return kind, said.get("op"), two
    return None
