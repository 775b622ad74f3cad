"""Two floating dtypes that TensorFlow refused to mix: which tensors had them, and what made these.

The text of the exception has the operation and the dtypes. The tensors are still held by the frames of
TensorFlow that the exception, and those behind it, went through; what a tensor is called, by the frames of
the user around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from mpaudit.runtime.keras.nature import mark_of
from mpaudit.runtime.keras.upstream import Frame, assigned, made_at, stack, walked, within

HALF = frozenset({"float16", "bfloat16"})
_NAMES = {"half": "float16", "float": "float32", "double": "float64"}
"""Of dtypes, as the core of TensorFlow calls them."""
_FLOATS = HALF | {"float32", "float64"}
_FORMS = tuple(
    map(
        re.compile,
        (
            r"Input '\w+' of '(?P<op>\w+)' Op has type (\w+) that does not match type (\w+) of argument",
            r"list passed to '\w+' of '(?P<op>\w+)' Op have types \[([\w, ]+)\] that don't all match",
            r"cannot compute (?:_Mkl)?(?P<op>\w+) as input #\d+\(zero-based\) was expected to be "
            r"an? (\w+) tensor but is an? (\w+) tensor",
            r"Tensor conversion requested dtype (\w+) for Tensor with dtype (\w+)",
            r"TensorArray dtype is (\w+) but Op is trying to write dtype (\w+)",
        ),
    )
)
_BACK = 200  # tensors that are gone back through, from one to the layer that it comes from
_OPERANDS = 64  # of an operation, that are looked at
_CALLED = "Exception encountered when calling "
"""What Keras begins an error within the `call` of a layer with."""
_OF_TENSORFLOW = "tensorflow"


class Operand(Struct, frozen=True):
    """One of the tensors: its dtype, what the user calls it, the layer it is of, and where it was made.

    What is not known is None. `direct` says that it is what the layer gave, not computed from that.
    """

    dtype: str
    name: str | None = None
    layer: str | None = None
    direct: bool = True
    made: str | None = None

    @property
    def told(self) -> str:
        """The tensor in words."""
        if self.name is not None:
            return f"`{self.name}` in {self.dtype}"
        made_by = (
            f"the output of layer '{self.layer}'" if self.layer and self.direct else "a tensor"
        )
        return f"{made_by} in {self.dtype}"


class Refusal(Struct, frozen=True):
    """`operation` (None: a conversion) got a tensor in 16 bits, and another with which it is not mixed.

    `at` is the place in the user's code; `in_layer`: within the `call` of a layer.
    """

    operation: str | None
    half: Operand
    other: Operand
    at: str | None
    in_layer: bool

    @property
    def rule(self) -> str | None:
        """The name of the rule whose page has more on it."""
        if self.in_layer:
            return "hardcoded-layer-dtype"
        return None if self.half.layer is None else "raw-loss-on-half-output"

    def lines(self) -> Iterator[str]:
        """What happened, what made the tensor in 16 bits, and what to do."""
        half, other = self.half, self.other
        place = "" if self.at is None else f" at {self.at}"
        if self.operation is None:
            yield (
                f"{half.told} was to be used as {other.dtype}{place}: "
                "TensorFlow converts no tensor by itself"
            )
        else:
            yield (
                f"{self.operation} got {half.told} and {other.told}{place}: "
                "TensorFlow does not convert one to the dtype of the other"
            )
        subject = f"`{half.name}`" if half.name else "the first"
        elsewhere = half.made if half.made not in (None, self.at) else None
        made = "" if elsewhere is None else f", at {elsewhere}"
        if half.layer is not None and (half.name or not half.direct):
            how = "is what" if half.direct else "is computed from what"
            yield f"  {subject} {how} layer '{half.layer}' gives, in {half.dtype} by its policy{made}"
        elif elsewhere is not None:
            yield f"  {subject} comes from {elsewhere}"
        yield f"  to mend it: {self._remedy(there=bool(elsewhere))}"

    def _remedy(self, *, there: bool) -> str:
        half, other = self.half, self.other
        if self.in_layer:
            name = f"`{other.name}`" if other.name else f"the one in {other.dtype}"
            return f"cast {name} to `self.compute_dtype`, with tf.cast"
        name = f"`{half.name}`" if half.name else f"the one in {half.dtype}"
        cast = f"tf.cast {name} to {other.dtype} {'there' if there else 'first'}"
        return f'{cast}, or make that layer with dtype="{other.dtype}"' if half.layer else cast


def refusal(error: BaseException) -> Refusal | None:
    """What TensorFlow refused to mix, if that is what an exception says."""
    if (read := _read(str(error))) is None:
        return None
    operation, dtypes = read
    users = stack(error)
    found = {each.dtype.name: each for each in reversed(list(_tensors(error, dtypes)))}
    half = next(each for each in dtypes if each in HALF)
    other = next(each for each in dtypes if each != half)
    at = users[-1].place if users else None
    return Refusal(
        operation,
        _operand(half, found.get(half), users),
        _operand(other, found.get(other), users),
        at,
        _CALLED in str(error),
    )


def _read(text: str) -> tuple[str | None, tuple[str, ...]] | None:
    """The operation and the dtypes in an error text, if these are floats that differ, and one has 16 bits."""
    for form in _FORMS:
        if (found := form.search(text)) is None:
            continue
        named = found.groupdict().get("op")
        rest = [each for each in found.groups() if each != named]
        words = [word.strip() for each in rest for word in each.split(",")]
        dtypes = tuple(dict.fromkeys(_NAMES.get(word, word) for word in words))
        if len(dtypes) == 2 and _FLOATS.issuperset(dtypes) and not HALF.isdisjoint(dtypes):
            return named, dtypes
    return None


def _operand(dtype: str, tensor: Any, users: Sequence[Frame]) -> Operand:
    if tensor is None:
        return Operand(dtype)
    name = next(
        (name for frame in reversed(users) for name, held in frame.names.items() if held is tensor),
        None,
    )
    layer, direct = _layer(tensor)
    made = made_at(tensor, users) or assigned(tensor, users)
    return Operand(dtype, name, layer, direct, made)


def _layer(tensor: Any) -> tuple[str | None, bool]:
    """The layer that a tensor left, or one was computed from without leaving its dtype."""
    dtype, waiting, seen = tensor.dtype, [tensor], 0
    while waiting and seen < _BACK:
        each = waiting.pop(0)
        seen += 1
        if (mark := mark_of(each)) is not None:
            return mark.path, each is tensor
        waiting += [before for before in within(each) if before.dtype == dtype]
    return None, False


def _tensors(error: BaseException, dtypes: Sequence[str]) -> Iterator[Any]:
    """Tensors of these dtypes that TensorFlow held when it raised; those of the innermost frames first."""
    for frame in walked(error):
        if not str(frame.f_globals.get("__name__", "")).startswith(_OF_TENSORFLOW):
            continue
        for held in list(frame.f_locals.values()):
            yield from (each for each in _held(held) if _is_one(each, dtypes))


def _held(value: Any, depth: int = 2) -> Iterator[Any]:
    """A value, or what is in it: TensorFlow has operands in lists, and these by the name of an argument."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, (list, tuple)):
        yield value
    elif depth:
        for each in value[:_OPERANDS]:
            yield from _held(each, depth - 1)


def _is_one(value: Any, dtypes: Sequence[str]) -> bool:
    ours = type(value).__module__.startswith(_OF_TENSORFLOW)
    return ours and getattr(getattr(value, "dtype", None), "name", None) in dtypes
