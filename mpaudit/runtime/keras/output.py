"""What a model gives out in float16, and whether gradients are taken of it by hand.

A loss of Keras is watched where it is called. One that is a function, or a line of arithmetic, is not:
what tells of it is the gradient that comes back to an output which nothing of Keras has taken.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from msgspec import Struct

from mpaudit.runtime.keras.nature import Mark, mark_of
from mpaudit.runtime.keras.patch import Call, Patches

OUTPUT = "_mpaudit_output"
"""The attribute of a tensor in float16 with its `Output`."""

_LOSSES = (
    "tensorflow.python.ops.nn",
    "keras.src.losses.",
    "keras.src.backend.tensorflow.nn",
    "tf_keras.src.losses",
    "tf_keras.src.backend",
)
_METRICS = ("keras.src.metrics.", "tf_keras.src.metrics.")
_INSIDE = (*_LOSSES, *_METRICS)
"""Beginnings of modules whose casts are their own affair: what they are given is float16 all the same."""

_BACK = frozenset({"mean", "var", "std"})
"""Functions of `keras.ops` that compute in float32, and give what they were given: float16."""


class Output(Struct, eq=False):
    """A tensor that left a layer in float16, in a graph (None: in eager mode).

    `mark` says what it is, once it has left the outermost of the layers that were being called; `casts` is
    how many there were by hand until then. `taken`: by another layer, or by a loss that tells of itself.
    """

    graph: object
    mark: Mark | None = None
    casts: int = 0
    taken: bool = False

    @classmethod
    def new(cls) -> Output:
        """One that leaves a layer now."""
        return cls(_graph())


class _Thread(threading.local):
    depth = 0  # of layers that are being called
    casts = 0  # from float16, outside of layers, losses and metrics

    def __init__(self) -> None:
        self.back: list[Output] = []


class Outputs:
    """Follows them: what takes them, and what gradients come back to."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches
        self._thread = _Thread()

    def install(self) -> None:
        """Every cast of TensorFlow goes by way of one function."""
        from tensorflow.python.ops import gen_math_ops

        self._patches.wrap(gen_math_ops, "cast", self._around_cast)

    def entered(self, tensors: Iterable[Any]) -> None:
        """A layer is called with these."""
        self._thread.depth += 1
        take(tensors)

    def inside(self) -> bool:
        """Whether a layer is being called."""
        return self._thread.depth > 0

    def left(self) -> None:
        """The call is over, whatever came of it."""
        self._thread.depth -= 1

    def given(self, tensors: Iterable[Any]) -> None:
        """The layer whose call is over gives these."""
        if not self._thread.depth:
            for each in tensors:
                if (output := getattr(each, OUTPUT, None)) is not None:
                    output.mark, output.casts = mark_of(each), self._thread.casts

    def came_back(self, output: Output) -> None:
        """A gradient comes back to it."""
        self._thread.back.append(output)

    def taking(self) -> tuple[list[Output], int]:
        """Gradients are being taken from now on; gives what was so far, for `taken`."""
        before, self._thread.back = self._thread.back, []
        return before, self._thread.casts

    def taken(self, before: tuple[list[Output], int]) -> list[Mark]:
        """They are: the outputs that a loss was computed from of which nothing has told.

        `before` is what `taking` gave. What was cast since an output left its layer may well have been
        computed from it: then nothing is known of that output.
        """
        back, (self._thread.back, casts) = self._thread.back, before
        here = _graph()
        free = [each for each in back if each.graph is here and not each.taken]
        marks = [each.mark for each in free if each.casts == casts]
        return list(dict.fromkeys(mark for mark in marks if mark is not None))

    def _around_cast(self, original: Call) -> Call:
        def cast(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not (self._thread.depth or self._patches.busy) and _wider(args[0], result):
                self._thread.casts += not _inside()
            return result

        return cast


def _wider(given: Any, result: Any) -> bool:
    """Whether several numbers in float16 became others; one alone is a loss."""
    if getattr(given, "dtype", None) != tf.float16 or given.shape.rank == 0:
        return False
    return bool(result.dtype.is_floating) and result.dtype != tf.float16


def take(tensors: Iterable[Any]) -> None:
    """Something that is watched takes these: it tells what is to be told."""
    for each in tensors:
        if (output := getattr(each, OUTPUT, None)) is not None:
            output.taken = True


def carry(given: Any, result: Any) -> None:
    """One was computed from the other, and stands for it from now on: gradients of it are gradients of
    that."""
    if (output := getattr(given, OUTPUT, None)) is not None:
        setattr(result, OUTPUT, output)


def _graph() -> object:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def _inside() -> bool:
    """Whether a loss or a metric casts what it was given."""
    frame = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith(_INSIDE):
            return True
        if name == "keras.src.ops.numpy" and frame.f_code.co_name in _BACK:
            return True
        if not name.startswith(("tensorflow.", "keras.", "tf_keras.", "mpaudit.")):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False
