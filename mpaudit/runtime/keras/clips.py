"""Where a script clips the gradients of a tape by its own hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import tensorflow as tf

from mpaudit.event import Ref, TapeGradientsClipped
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import place
from mpaudit.runtime.keras.tagged import GRADIENTS, gradients, tag

_LARGE = 1e4  # a threshold from here on may have been multiplied by the loss scale as well
_CLIPS = ("clip_by_global_norm", "clip_by_norm", "clip_by_average_norm", "clip_by_value")
_GIVEN = ("t_list", "t", "name")


class Clips:
    """Narrates the functions of TensorFlow that clip what came from a tape."""

    def __init__(self, patches: Patches, narration: Narration) -> None:
        self._patches = patches
        self._narration = narration

    def install(self) -> None:
        """Watch them from now on, under the names that scripts call them by."""
        for module in (tf, tf.compat.v1):
            for name in _CLIPS:
                if hasattr(module, name):
                    self._patches.wrap(module, name, partial(self._around_clip, name))

    def _around_clip(self, name: str, original: Call) -> Call:
        def clip(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            with self._patches.guarded(name):
                given = args[0] if args else kwargs.get("t_list", kwargs.get("t"))
                before = gradients(tf.nest.flatten(given))
                limits = (*args[1:], *(v for k, v in kwargs.items() if k not in _GIVEN))
                at = place(name) if before is not None and all(map(_plain, limits)) else None
                if before is not None and at is not None:
                    clipped = result[0] if name == "clip_by_global_norm" else result
                    self._clipped(name, at, before, tf.nest.flatten(clipped))
            return result

        return clip

    def _clipped(self, name: str, at: Any, before: Ref, clipped: list[Any]) -> None:
        after = Ref(("clipped", at, before.key), "gradients")
        for each in clipped:
            tag(each, GRADIENTS, after)
        self._narration.tell_once(
            TapeGradientsClipped(at=at, how=f"tf.{name}", gradients=before, result=after)
        )


def _plain(limit: object) -> bool:
    """Whether a threshold is certainly not scaled too; None stands for one that was not given."""
    return limit is None or (isinstance(limit, int | float) and abs(limit) < _LARGE)
