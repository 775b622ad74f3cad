"""Losses of Keras: where each is made, and what it is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from mpaudit.event import LossComputed
from mpaudit.finding import Span
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.nature import Mark, mark_of
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import constructor, place

_PROBABILITIES = {
    "categorical_crossentropy": "softmax",
    "categorical_focal_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
    "binary_focal_crossentropy": "sigmoid",
}
"""What the losses of Keras take unless `from_logits` is set; of others it is not known."""


class Losses:
    """Narrates the losses that are computed while `recording` says that gradients will be taken.

    `take` is told of all that a loss of Keras is given, `mark` says what that is.
    """

    def __init__(
        self,
        patches: Patches,
        narration: Narration,
        recording: Callable[[], bool],
        mark: Callable[[object], Mark | None] = mark_of,
        take: Callable[[Iterable[Any]], None] = lambda _: None,
    ) -> None:
        self._mark = mark
        self._take = take
        self._patches = patches
        self._narration = narration
        self._recording = recording
        self._made = ByObject[Span | None]()

    def follow(self, family: Family) -> None:
        """Watch the losses of one Keras from now on."""
        self._patches.wrap(family.loss, "__init__", self._around_made)
        self._patches.wrap(family.loss, "__call__", partial(self._around_loss, family))

    def _around_made(self, original: Call) -> Call:
        def init(loss: Any, *args: Any, **kwargs: Any) -> None:
            original(loss, *args, **kwargs)
            with self._patches.guarded("loss made"):
                at = place(type(loss).__name__, frame=constructor(loss))
                self._made.put(loss, at)

        return init

    def _around_loss(self, family: Family, original: Call) -> Call:
        def call(loss: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> Any:
            with self._patches.guarded("loss"):
                self._take(family.flatten(y_pred))
                mark = self._mark(y_pred)
                if mark is not None and self._recording():
                    self._computed(family, loss, mark)
            return original(loss, y_true, y_pred, *args, **kwargs)

        return call

    def by_hand(self, at: Span, mark: Mark) -> None:
        """Gradients are taken at a place of what something computed from an output that nothing of
        Keras has taken."""
        self._narration.tell(
            LossComputed(
                at=at,
                loss="loss",
                wants=None,
                got=mark.got,
                shown=mark.shown,
                output=mark.layer,
                by_hand=True,
            )
        )

    def _computed(self, family: Family, loss: Any, mark: Mark) -> None:
        function = getattr(getattr(loss, "fn", None), "__name__", "")
        at = place()
        if at is None:
            return
        wants = _PROBABILITIES.get(function)
        if wants is not None and loss._fn_kwargs.get("from_logits", False):
            wants = "logits"
        by_name = type(loss) is family.loss_by_name
        self._narration.tell(
            LossComputed(
                at=at,
                loss=(function if by_name else "") or type(loss).__name__,
                wants=wants,
                got=mark.got,
                shown=mark.shown,
                made=self._made.get(loss),
                output=mark.layer,
            )
        )
