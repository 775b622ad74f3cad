"""One of the runs that are compared: what is to be done in it, and what it recorded."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, convert, field, to_builtins

from mpaudit.finding import Position, Span
from mpaudit.runtime.target import How

Kind = Literal["plain", "float32", "rounded", "trial"]
Sketch = list[float]


class Plan(Struct, frozen=True):
    """What one rehearsal does.

    `kind`: "plain" is the script as it is, "float32" the same in float32, "rounded" that one with
    products and casts rounded to `digits` significant bits. It ends after `steps` attempts to step of
    one optimizer; a "trial" does only that, with the fact `applied`, see `launch.run`. `skips` are
    attempts that are skipped, by index of the optimizer.
    """

    kind: Kind
    steps: int
    record: str
    name: str
    argv: list[str]
    how: How = "script"
    device: str = "auto"
    source: str | None = None
    digits: int = 11
    skips: dict[str, list[int]] = field(default_factory=dict)
    applied: dict[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write the plan for the process that follows it."""
        path.write_text(json.dumps(to_builtins(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """The plan that `write` wrote."""
        return convert(json.loads(path.read_text(encoding="utf-8")), cls)


class Loss(Struct):
    """The value that one backward pass began with; `place` is the number of a place in the script."""

    place: int
    step: int
    value: float


class Step(Struct):
    """One attempt: sketches of the gradients (of an applied one), by number of the parameter."""

    optimizer: int
    number: int
    applied: bool
    place: int
    gradients: list[Sketch | None]


class Output(Struct):
    """A sketch of what one call of a layer gave; `layer` is its path."""

    layer: str
    step: int
    sketch: Sketch


class Record(Struct):
    """What a rehearsal saw, in the order of the run.

    `start` is the state at the first forward pass: sketches of parameters and inputs, and a digest of
    the random state. `dtypes` are the low-precision ones that flowed. `places` are spans.
    """

    start: dict[str, Any] = field(default_factory=dict)
    dtypes: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    places: list[list[Any]] = field(default_factory=list)
    framework: str | None = None
    stopped: bool = False

    def place(self, at: Span) -> int:
        """The number of a place; it is made known."""
        data = [at.filename, at.start.row, at.start.column, at.end.row, at.end.column]
        if data not in self.places:
            self.places.append(data)
        return self.places.index(data)

    def span(self, place: int) -> Span:
        """The place with a number."""
        filename, row, column, end_row, end_column = self.places[place]
        return Span(filename, Position(row, column), Position(end_row, end_column))

    def write(self, path: str) -> None:
        """Write the record at once, whole or not at all; of nothing only where there is none.

        A script may import a framework that it does not train with.
        """
        if not self.steps and Path(path).exists():
            return
        part = Path(f"{path}.part")
        part.write_text(json.dumps(to_builtins(self)), encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record that `write` wrote."""
        return convert(json.loads(path.read_text(encoding="utf-8")), cls)


def leave(record: Record, plan: Plan) -> None:
    """Enough was seen: write the record and end the process, before the script goes on."""
    record.stopped = True
    record.write(plan.record)
    sys.stderr.flush()
    os._exit(0)
