"""Calls of layers and dtypes that flowed: counted as they come, made rows when they are written."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from mpaudit.runtime.record import Flow, Flowed, Layer


class Tally:
    """Counts; `flows` and `layers` hand out what has changed since they were asked last."""

    def __init__(self) -> None:
        self._called: Counter[str] = Counter()
        self._before: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._now: dict[str, tuple[int, int]] = {}
        self._flowed: Counter[tuple[str, Flow, str]] = Counter()
        self._new_calls: set[str] = set()
        self._new_flows: set[tuple[str, Flow, str]] = set()

    def called(self, layer: str, step: int, *, training: bool) -> int:
        """Count a call; returns which training call of this step it is, from 0."""
        at, before = self._now.get(layer, (step, 0))
        if at != step:
            self._before[layer][before] += 1
            before = 0
        self._now[layer] = (step, before + training)
        self._called[layer] += 1
        self._new_calls.add(layer)
        return before

    def saw(self, layer: str, flow: Flow, dtype: str, count: int = 1) -> None:
        """Count tensors."""
        self._flowed[layer, flow, dtype] += count
        self._new_flows.add((layer, flow, dtype))

    def flows(self) -> Iterator[Flowed]:
        """The dtypes that flowed."""
        for key in self._new_flows:
            yield Flowed(*key, self._flowed[key])
        self._new_flows = set()

    def layers(self, known: Mapping[str, Layer]) -> Iterator[Layer]:
        """The layers with their calls, and the commonest number of calls of a step."""
        for path in self._new_calls:
            counted = self._before[path] or Counter({self._now[path][1]: 1})
            usual = max(counted, key=lambda calls: (counted[calls], calls))
            yield replace(known[path], calls=self._called[path], calls_per_step=usual)
        self._new_calls = set()
