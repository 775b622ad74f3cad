"""The layers of a run, told apart as objects: two models may have layers of the same path."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from mpaudit.event import Ref
from mpaudit.finding import Span
from mpaudit.runtime.histogram import What
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.identity import ByObject

if TYPE_CHECKING:
    from mpaudit.runtime.keras.octaves import Octaves
    from mpaudit.runtime.keras.rounding import Rounding
    from mpaudit.runtime.keras.taps import Tap

Passage = Literal["forward", "evaluated", "backward", "weights", "entered", "uncast"]
"""Where a tap of a layer is: its outputs in training and outside of it, the gradients that come back
to them, those of its parameters, what comes in from no other layer, and inputs before a cast."""


COUNTED: dict[Passage, What] = {"forward": "activation", "backward": "gradient"}
"""The taps whose numbers are counted by power of two, and what they are there."""


class Watched(Struct):
    """A layer of the run; `known` says that the tracer lists it."""

    family: Family
    owner: weakref.ref[Any]
    ref: Ref
    path: str
    kind: str
    made: Span | None = None
    known: bool = False
    flows: set[tuple[str, str]] = field(default_factory=set)
    signatures: set[object] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    taps: dict[tuple[Passage, str], Tap] = field(default_factory=dict)
    octaves: dict[tuple[What, str, bool], Octaves] = field(default_factory=dict)
    rounding: Rounding | None = None
    calls: int = 0
    attempts: int = 0
    called: bool = False
    cast_at: Span | None = None  # where the user trains what casts its inputs to float16

    def counted(self, calls: int, attempts: int) -> int:
        """Calls per step in training, with those of one more interval of so many attempts.

        An attempt may end in the interval after the one of its calls.
        """
        self.calls += calls
        self.attempts += attempts if calls else min(attempts, self.called)
        self.called = bool(calls)
        return round(self.calls / max(self.attempts, 1))


class Register:
    """What is known of each layer, and of which layer a variable is."""

    def __init__(self) -> None:
        self.made = ByObject[Span]()
        self._gone: list[Watched] = []
        self._watched = ByObject[Watched](gone=self._gone.append)
        self._owners = ByObject[Watched]()
        self._paths: dict[str, Watched] = {}
        self._serial = 0

    def watched(self, family: Family, layer: Any) -> Watched:
        """What is known of `layer`."""
        found = self._watched.get(layer)
        if found is not None:
            return found
        self._serial += 1
        ref = Ref(("layer", self._serial), layer.name)
        kind = type(layer).__name__
        made = self.made.get(layer)
        return self._watched.put(layer, Watched(family, weakref.ref(layer), ref, "", kind, made))

    def entered(self, family: Family, layer: Any) -> Watched:
        """The same of a layer that is called, and so has a path."""
        watched = self.watched(family, layer)
        if not watched.path:
            watched.path = self._unique(family.path(layer, self._path), watched)
        return watched

    def _path(self, layer: Any) -> str:
        found = self._watched.get(layer)
        return str(layer.name) if found is None or not found.path else found.path

    def _unique(self, path: str, watched: Watched) -> str:
        """`path`, numbered where another layer that is still alive has it."""
        number, wanted = 1, path
        while (other := self._paths.get(wanted)) and other.owner() is not None:
            number += 1
            wanted = f"{path}#{number}"
        self._paths[wanted] = watched
        return wanted

    def own(self, layer: Any, watched: Watched) -> None:
        """Remember the variables of a layer that the tracer lists."""
        for variable in watched.family.variables(layer)[0]:
            self._owners.put(variable, watched)

    def owner(self, variable: Any) -> Watched | None:
        """The listed layer that a variable of Keras belongs to."""
        return self._owners.get(variable)

    def drain(self) -> list[tuple[Watched, bool]]:
        """All layers, and whether each is no more: then it is not given again."""
        gone = self._gone.copy()
        del self._gone[: len(gone)]
        alive = [(watched, False) for watched in self._watched.values()]
        return alive + [(watched, True) for watched in gone]
