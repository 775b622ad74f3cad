"""Checkpoints: what has to be saved together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Event,
    LostSight,
    ScalerMade,
    ScalerStateTaken,
    ScalerStep,
    StateSaved,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Noted, Protocol, Verdict

RULE = "scaler-not-checkpointed"


class CheckpointProtocol(Protocol):
    """MP112. Whether a scaler's state is saved can stand anywhere: it is judged at the end.

    A checkpoint whose optimizer is never loaded is there for its weights: nothing is lost.

    State: ("stepper", optimizer) -> the scaler that stepped it last. Facts: ("made", scaler) -> where.
    """

    __slots__ = ()

    takes = (ScalerMade, ScalerStep, ScalerStateTaken, StateSaved, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Note who steps whom, and what is saved."""
        if isinstance(event, LostSight):
            if not event.elsewhere:
                yield Noted(CheckpointProtocol, event.objects, RULE)
        elif isinstance(event, (ScalerMade, ScalerStep, ScalerStateTaken, StateSaved)):
            if isinstance(event, ScalerMade):
                self.facts[("made", event.scaler)] = event.at
            elif isinstance(event, ScalerStep):
                yield from self._renewed(event)
            # Where less is followed, a scaler's state may be saved beside what was met.
            rule = "" if isinstance(event, StateSaved) else RULE
            yield Noted(CheckpointProtocol, replace(event, occasional=False), rule)

    def _renewed(self, event: ScalerStep) -> Iterator[Verdict]:
        """A scaler that its loop makes anew (MP109): its state would be thrown away after a resume, too."""
        made = self.facts.get(("made", event.scaler))
        earlier = self.state.get(("stepper", event.optimizer))
        self.state[("stepper", event.optimizer)] = event.scaler
        if isinstance(made, Span) and earlier not in (None, event.scaler):
            if self.facts.get(("made", earlier)) == made:
                yield Noted(CheckpointProtocol, made, RULE)

    @classmethod
    def conclude(cls, facts: Sequence[Hashable]) -> Iterator[Problem]:
        """The optimizers whose state is saved without that of the scaler that steps them."""
        seen = _Seen.gather(facts)
        reported: dict[tuple[Hashable, str], list[tuple[Span, StateSaved, ScalerStep]]] = {}
        for saved in seen.saved:
            for step in seen.steps:
                if not _same(saved, step) or seen.cared_for(saved, step):
                    continue
                scaler = seen.made.get(step.scaler.key, step.scaler.key)
                at = seen.home(saved, step)
                reported.setdefault((scaler, at.filename), []).append((at, saved, step))
        for found in reported.values():
            yield _problem(sorted(found, key=lambda each: each[0]), seen)


class _Seen(Struct):
    """What all paths of the program have noted; scalers are the same if one place made them.

    `kept` are the scalers whose state is taken, or that went where nobody can tell, by key and by the
    place that made them, and the places that make one anew in a loop; `unseen` are the files in which
    some scaler's state is taken. What nobody reads again is not among the `saved`.
    """

    made: dict[Hashable, Span]
    steps: list[ScalerStep]
    saved: list[StateSaved]
    kept: set[Hashable]
    unseen: set[str]

    @classmethod
    def gather(cls, facts: Sequence[Hashable]) -> _Seen:
        made = {e.scaler.key: e.at for e in facts if isinstance(e, ScalerMade)}
        taken = [e for e in facts if isinstance(e, ScalerStateTaken)]
        kept: set[Hashable] = {e.scaler.key for e in taken if e.scaler is not None}
        kept = kept.union(*(fact for fact in facts if isinstance(fact, frozenset)))
        kept |= {made[key] for key in kept & made.keys()}
        kept |= {fact for fact in facts if isinstance(fact, Span)}
        steps = [e for e in facts if isinstance(e, ScalerStep)]
        saved = [e for e in facts if isinstance(e, StateSaved) and e.resumed]
        return cls(made, steps, saved, kept, {e.at.filename for e in taken if e.scaler is None})

    def cared_for(self, saved: StateSaved, step: ScalerStep) -> bool:
        """Whether the scaler's state is or may be saved."""
        made = self.made.get(step.scaler.key)
        if step.scaler.key in self.kept or made in self.kept:
            return True
        return bool(self.unseen & {place.filename for place in (*saved.taken, *self._homes(step))})

    def home(self, saved: StateSaved, step: ScalerStep) -> Span:
        """The innermost place of a save that stands in a file which knows the scaler."""
        files = {place.filename for place in self._homes(step)}
        return next((place for place in saved.taken if place.filename in files), saved.taken[0])

    def _homes(self, step: ScalerStep) -> list[Span]:
        made = self.made.get(step.scaler.key)
        return [step.at] if made is None else [step.at, made]


def _same(saved: StateSaved, step: ScalerStep) -> bool:
    """Whether the optimizer is the one; of one that nobody saw, its spelling in the file decides."""
    if saved.optimizer.key == step.optimizer.key:
        return True
    spelled = step.optimizer.text == saved.optimizer.text
    return saved.unseen and spelled and saved.taken[0].filename == step.at.filename


def _problem(found: list[tuple[Span, StateSaved, ScalerStep]], seen: _Seen) -> Problem:
    at, saved, step = found[0]
    scaler = step.scaler.text or "scaler"
    others = dict.fromkeys(place for place, _, _ in found if place != at)
    related = [Related(step.at, f"`{scaler}` steps this optimizer here")]
    made = seen.made.get(step.scaler.key)
    if made is not None:
        related.append(Related(made, "the GradScaler is built here"))
    related += [Related(place, "saved without the scaler here too") for place in others]
    optimizer = saved.optimizer.text or step.optimizer.text
    return Problem(
        RULE,
        at,
        f"the state of `{optimizer}` is saved, that of `{scaler}` is not",
        "a resumed run starts at the initial scale of 65536 again: steps that overflow are skipped "
        "until the scale has settled anew",
        tuple(related),
        (("scaler", scaler), ("optimizer", optimizer)),
    )
