"""Layers and dtypes that flowed: counted as they come, made rows when they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

from mpaudit.runtime.record import Flow, Flowed, Layer


class _Known(Struct):
    """A layer and its calls; there is one for every layer of a run.

    `times` steps before had `usual` training calls, as most layers have the same in all; where steps
    differ, `counts` has how many had how many.
    """

    type: str
    position: int
    filename: str | None
    row: int | None
    calls: int = 0
    step: int = 0
    now: int = 0
    usual: int = 0
    times: int = 0
    counts: Counter[int] | None = None
    new: bool = True

    def over(self) -> None:
        """The step is over."""
        if self.counts is None and self.now != self.usual and self.times:
            self.counts = Counter({self.usual: self.times})
        if self.counts is not None:
            self.counts[self.now] += 1
        else:
            self.usual, self.times = self.now, self.times + 1

    @property
    def commonest(self) -> int:
        """The commonest number of training calls of a step; the larger of equally common ones."""
        if self.counts is not None:
            return max((times, calls) for calls, times in self.counts.items())[1]
        return self.usual if self.times else self.now

    def as_row(self, path: str) -> Layer:
        """The row of a trace."""
        at = self.filename, self.row
        return Layer(path, self.type, self.position, self.calls, self.commonest, *at)


class Tally:
    """Counts; `flows` and `layers` hand out what has come since they were asked last."""

    def __init__(self) -> None:
        self._layers: dict[str, _Known] = {}
        self._flowed: Counter[tuple[str, Flow, str]] = Counter()

    def __contains__(self, path: str) -> bool:
        return path in self._layers

    def __len__(self) -> int:
        return len(self._layers)

    def layer(self, path: str, kind: str, filename: str | None, row: int | None) -> None:
        """Make a layer known that was not."""
        self._layers[path] = _Known(kind, len(self._layers), filename, row)

    def known(self, path: str) -> Layer:
        """A layer that was made known, with its calls so far."""
        return self._layers[path].as_row(path)

    def called(self, layer: str, step: int, *, training: bool) -> int:
        """Count a call of a known layer; returns which training call of this step it is, from 0."""
        known = self._layers[layer]
        if known.step != step:
            if known.calls:
                known.over()
            known.step, known.now = step, 0
        before = known.now
        known.now += training
        known.calls += 1
        known.new = True
        return before

    def counted(self, layer: str, calls: int, per_step: int) -> None:
        """Add calls of a known layer that were counted elsewhere, and say how many a step has."""
        known = self._layers[layer]
        known.calls += calls
        known.usual, known.times, known.new = per_step, 1, True

    def saw(self, layer: str, flow: Flow, dtype: str, count: int = 1) -> None:
        """Count tensors."""
        self._flowed[layer, flow, dtype] += count

    def flows(self) -> Iterator[Flowed]:
        """The dtypes that flowed since the last time."""
        flowed, self._flowed = self._flowed, Counter()
        for key, count in flowed.items():
            yield Flowed(*key, count)

    def layers(self) -> Iterator[Layer]:
        """The layers that came or were called since the last time."""
        for path, known in self._layers.items():
            if known.new:
                known.new = False
                yield known.as_row(path)
