"""What went wrong in a run, and what of it a lower loss scale does not help."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from mpaudit.finding import Position, Problem, Span
from mpaudit.runtime import collapse
from mpaudit.runtime.record import Attempts, Incident, Row
from mpaudit.runtime.tally import Tally

Runs = Sequence[Sequence[Attempts]]
"""The attempts of each optimizer."""
_NOWHERE = Span("<unknown>", Position(1, 1), Position(1, 1))


class Incidents:
    """One row for each kind of what went wrong at each layer, by its key."""

    def __init__(self) -> None:
        self._rows: dict[Hashable, Incident] = {}
        self._made_in: dict[Hashable, str] = {}
        self._beyond: set[Hashable] = set()  # what is no calibration any more

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, incident: Incident, made_in: str | None) -> tuple[Hashable, Incident]:
        """Add one; returns the row that it is a part of, and its key.

        `made_in` is the dtype in which the layer itself made the numbers, None if they came to it.
        """
        key = (Incident, incident.rule, incident.kind, incident.layer)
        first_made = made_in is not None and key not in self._made_in
        if made_in is not None and first_made:
            self._made_in[key] = made_in
        if (known := self._rows.get(key)) is not None:
            known = replace(known, message=incident.message) if first_made else known
            judgement = known.judgement  # the first counts here; a fall is judged at its end
            incident = replace(known.joined(incident), judgement=judgement)
        self._rows[key] = incident
        return key, incident

    def problems(
        self, runs: Runs, layers: Tally, stepped_at: Mapping[int, Span]
    ) -> Iterator[Problem]:
        """What is to be said of loss scales that fall; `stepped_at` says where optimizers step."""
        for fell in self._falls(runs):
            bad = self._fallen(fell)
            made = [each for key, each in bad.items() if self._made_in.get(key) == "float16"]
            others = [each for each in bad.values() if each not in made]
            there = made and made[0].layer in layers
            layer = layers.known(made[0].layer) if there else None
            at = stepped_at.get(fell.optimizer, _NOWHERE)
            yield from collapse.problems(fell, made, others, layer, at)

    def turned(self, runs: Runs) -> dict[Hashable, Incident]:
        """The rows, by key, that are to be read otherwise than when this was asked last."""
        beyond = {key for fell in self._falls(runs) for key in self._fallen(fell, whole=True)}
        changed = {key: self._rows[key] for key in beyond ^ self._beyond}
        self._beyond = beyond
        return changed

    def judged(self, key: Hashable, row: Row, rank: int) -> Row:
        """A row as it is to be read: what a scaler does not get past is not benign."""
        if isinstance(row, Incident):
            beyond = key in self._beyond and row.judgement == "benign"
            return replace(row, judgement="defect" if beyond else row.judgement, rank=rank)
        return row

    def _falls(self, runs: Runs) -> list[collapse.Fall]:
        """The loss scales that are in free fall, those aside that another finding explains."""
        return collapse.falls(runs, list(self._rows.values()))

    def _fallen(self, fell: collapse.Fall, *, whole: bool = False) -> dict[Hashable, Incident]:
        """What went wrong in the last step of a fall, or in any of its steps, by its key."""
        bad = collapse.during(fell, self._rows.values(), whole=whole)
        return {key: row for key, row in self._rows.items() if row in bad}
