"""Optimizers of Keras: where each is made, and which of them scales losses for which."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from mpaudit.event import OptimizerWrapped, Ref
from mpaudit.finding import Span
from mpaudit.runtime.frame import spelling
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import by_hand, constructor, innermost, place


class Optimizers:
    """Narrates the loss scale optimizers that are made, and knows every optimizer by a name."""

    def __init__(self, patches: Patches, narration: Narration) -> None:
        self._patches = patches
        self._narration = narration
        self._numbers = ByObject[int]()
        self._made = ByObject[Span | None]()
        self._serial = 0

    def follow(self, family: Family) -> None:
        """Watch the optimizers of one Keras from now on."""
        for kind in family.plain:
            self._patches.wrap(kind, "__init__", self._around_made)
        for kind in family.scaling:
            self._patches.wrap(kind, "__init__", partial(self._around_scaling_made, family))

    def made(self, optimizer: Any) -> Span | None:
        """Where an optimizer was made."""
        return self._made.get(optimizer)

    def ref(self, optimizer: Any) -> Ref:
        """The optimizer as events name it."""
        number = self._numbers.get(optimizer)
        if number is None:
            self._serial += 1
            number = self._numbers.put(optimizer, self._serial)
        return Ref(("optimizer", number), spelling(optimizer, innermost()))

    def _around_made(self, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            with self._patches.guarded("optimizer made"):
                self._made.put(optimizer, place(frame=constructor(optimizer)))

        return init

    def _around_scaling_made(self, family: Family, original: Call) -> Call:
        def init(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            original(optimizer, *args, **kwargs)
            with self._patches.guarded("loss scale optimizer made"):
                at = self._made.put(optimizer, place(frame=constructor(optimizer)))
                start, interval = family.start(optimizer)
                told = {"init_scale": start, "growth_interval": interval}
                self._patches.tracer.note("scaler", told)
                if at is not None:
                    self._wrapped(family, optimizer, at, by_hand(inspect.getfile(type(optimizer))))

        return init

    def _wrapped(self, family: Family, optimizer: Any, at: Span, by_hand: bool) -> None:
        inner = optimizer.inner_optimizer
        self._narration.tell(
            OptimizerWrapped(
                at=at,
                optimizer=self.ref(optimizer),
                inner=self.ref(inner),
                nested=isinstance(inner, family.scaling),
                by_hand=by_hand,
            )
        )
