"""A tensor in 16 bits that TensorFlow refused: which it was, what it met, and what made it.

The text of the exception has the operation and the dtypes. The tensors are still held by the frames of
TensorFlow that the exception, and those behind it, went through; what a tensor is called, by the frames of
the user around them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from mpaudit.runtime.keras.nature import mark_of
from mpaudit.runtime.keras.upstream import Frame, assigned, made_at, stack, walked, within
from mpaudit.runtime.keras.wording import HALF, Kind, read

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
    """`operation` (None: it is not known) got a tensor in 16 bits that it does not take.

    It is either "mixed" with `other`; or "taken", if at all, in the dtype of `other`; or to be "converted"
    to that. `at` is the place in the user's code; `in_layer`: within the `call` of a layer.
    """

    kind: Kind
    operation: str | None
    half: Operand
    other: Operand
    at: str | None
    in_layer: bool

    @property
    def rule(self) -> str | None:
        """The name of the rule whose page has more on it."""
        if self.in_layer:
            return None if self.kind == "taken" else "hardcoded-layer-dtype"
        if self.half.layer is None:
            return None
        whole = self.kind == "taken" and self.half.direct
        return "output-not-float32" if whole else "raw-loss-on-half-output"

    def lines(self) -> Iterator[str]:
        """What happened, what made the tensor in 16 bits, and what to do."""
        half = self.half
        yield self._happened()
        if not self.in_layer:
            subject = f"`{half.name}`" if half.name else "it"
            made = "" if half.made in (None, self.at) else f", at {half.made}"
            if half.layer is not None and (half.name or not half.direct):
                how = "is what" if half.direct else "is computed from what"
                yield f"  {subject} {how} layer '{half.layer}' gives, in {half.dtype} by its policy{made}"
            elif made:
                yield f"  {subject} comes from {half.made}"
        yield f"  to mend it: {self._remedy()}"

    def _happened(self) -> str:
        half, other = self.half, self.other
        place = "" if self.at is None else f" at {self.at}"
        if self.kind == "converted":
            return f"{half.told} was to become {other.dtype}{place}: TensorFlow converts no tensor by itself"
        operation = self.operation or "an operation"
        if self.kind == "taken":
            return f"{operation} got {half.told}{place}: it takes {other.dtype}, and nothing converts it"
        return (
            f"{operation} got {half.told} and {other.told}{place}: "
            "TensorFlow does not convert one to the dtype of the other"
        )

    def _remedy(self) -> str:
        half, other = self.half, self.other
        if self.in_layer and self.kind == "taken":
            return f"tf.cast to {other.dtype} before, and the result to `self.compute_dtype`"
        if self.in_layer:
            name = f"`{other.name}`" if other.name else f"the one in {other.dtype}"
            return f"cast {name} to `self.compute_dtype`, with tf.cast"
        name = f"`{half.name}`" if half.name else f"the one in {half.dtype}"
        there = "there" if half.made not in (None, self.at) else "first"
        cast = f"tf.cast {name} to {other.dtype} {there}"
        return f'{cast}, or make that layer with dtype="{other.dtype}"' if half.layer else cast


def refusal(error: BaseException) -> Refusal | None:
    """What TensorFlow refused to mix, if that is what an exception says."""
    if (said := read(str(error))) is None:
        return None
    kind, operation, dtypes = said
    users = stack(error)
    found = {each.dtype.name: each for each in reversed(list(_tensors(error, dtypes)))}
    half = next(each for each in dtypes if each in HALF)
    other = next(each for each in dtypes if each != half)
    at = users[-1].place if users else None
    sides = users[-1].operands if users and kind == "mixed" else None
    texts = dict(zip(dtypes, sides or (), strict=False))
    return Refusal(
        kind,
        operation,
        _operand(half, found.get(half), users, texts.get(half)),
        _operand(other, found.get(other), users, texts.get(other)),
        at,
        _CALLED in str(error),
    )


def _operand(dtype: str, tensor: Any, users: Sequence[Frame], text: str | None) -> Operand:
    """What is known of a tensor, None if it was not found, that `text` computes."""
    if tensor is None:
        return Operand(dtype, text)
    name = next(
        (name for frame in reversed(users) for name, held in frame.names.items() if held is tensor),
        text,
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
