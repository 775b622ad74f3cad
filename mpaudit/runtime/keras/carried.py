"""What is computed from the output of a layer by one function, inside of the layer or model around it.

A model of one's own often ends in `tf.nn.softmax(self.head(x))`: no layer makes what leaves it, and it is
still the head that made it float16.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import tensorflow as tf
from msgspec.structs import replace

from mpaudit.runtime.keras.nature import MARK, Mark, nature_of
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import place

CARRIED = "_mpaudit_carried"
"""The attribute of a tensor with the `Mark` of what it was computed from, as far as it still holds."""

_OPERATIONS = {
    "gen_nn_ops": ("softmax", "log_softmax"),
    "gen_math_ops": ("sigmoid",),
    "gen_array_ops": ("expand_dims", "reshape", "squeeze", "transpose"),
}
"""Functions of one tensor that `tf`, `tf.nn` and Keras call by way of these modules. Others, as `tf.tanh`,
are the very functions of these modules, under a name of their own: those are not seen."""
_SAME = frozenset(_OPERATIONS["gen_array_ops"])
"""The numbers are the same, in another shape."""


def carried(tensor: object) -> Mark | None:
    """What is known of a tensor that left no layer by itself."""
    found = getattr(tensor, CARRIED, None)
    return found if isinstance(found, Mark) else None


class Carriers:
    """Watches those functions; `inside` says whether a layer is being called, `take` is told of both
    tensors where one stands for the other."""

    def __init__(
        self, patches: Patches, inside: Callable[[], bool], take: Callable[[Any, Any], None]
    ) -> None:
        self._patches = patches
        self._inside = inside
        self._take = take

    def install(self) -> None:
        """Watch them from now on."""
        for module, names in _OPERATIONS.items():
            owner = import_module(f"tensorflow.python.ops.{module}")
            for name in names:
                self._patches.wrap(owner, name, self._around(name))

    def _around(self, name: str) -> Callable[[Call], Call]:
        def around(original: Call) -> Call:
            def compute(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                if self._inside() and not self._patches.busy:
                    given = next(iter((*args, *kwargs.values())), None)
                    mark = getattr(given, MARK, None) or carried(given)
                    if mark is not None and result is not given and isinstance(result, tf.Tensor):
                        with self._patches.guarded(name):
                            self._carry(name, given, mark, result)
                return result

            return compute

        return around

    def _carry(self, name: str, given: Any, mark: Mark, result: Any) -> None:
        if result.dtype != given.dtype:
            return
        if name not in _SAME:
            got = nature_of(name)
            mark = replace(mark, got=got, shown=place(name) if got else None)
        setattr(result, CARRIED, mark)
        self._take(given, result)
