"""Gradients that a library has scaled and not unscaled yet: neither to be clipped nor to be read."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Event,
    GradientRead,
    GradientsClipped,
    GradientsZeroed,
    OwnedBackward,
    OwnedClip,
    OwnedStep,
    OwnedUnscaled,
    Ref,
    Unscaled,
)
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict

Touch = GradientsClipped | GradientRead | OwnedClip
MANY = 4


class _Gradients(Struct, frozen=True):
    """Gradients that carry a scale: who made them, and what was done with them since."""

    backward: OwnedBackward
    touched: tuple[Touch, ...] = ()


class OwnedGradientsProtocol(Protocol):
    """MP605. State: ("scaled", owner) -> _Gradients, from its backward until it unscales or steps.

    What clips or reads is judged by the step: then the optimizer is known whose step it spoils.
    """

    __slots__ = ()

    takes = (
        OwnedBackward,
        OwnedUnscaled,
        OwnedStep,
        OwnedClip,
        GradientsClipped,
        GradientRead,
        GradientsZeroed,
        Unscaled,
    )

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case OwnedBackward(scaled=True):
                before = self._known(event.owner)
                touched = before.touched if before is not None else ()
                self.state[("scaled", event.owner)] = _Gradients(event, touched)
            case OwnedUnscaled():
                known = self._known(event.owner)
                self.state.pop(("scaled", event.owner), None)
                if known is not None and known.touched:
                    self.state[("spoilt", event.owner)] = known
            case OwnedStep():
                for word in ("scaled", "spoilt"):
                    known = self._known(event.owner, word)
                    self.state.pop((word, event.owner), None)
                    for touch in known.touched if known is not None else ():
                        yield _problem(touch, known, event)
            case GradientsClipped() | GradientRead():
                self._touch(event)
            case OwnedClip():
                self._touch(event, event.owner)
            case GradientsZeroed() | Unscaled():
                self.state.clear()

    def _known(self, owner: Ref, word: str = "scaled") -> _Gradients | None:
        known = self.state.get((word, owner))
        return known if isinstance(known, _Gradients) else None

    def _touch(self, event: Touch, owner: Ref | None = None) -> None:
        for key, known in list(self.state.items()):
            if isinstance(known, _Gradients) and isinstance(key, tuple) and key[0] == "scaled":
                if owner in (None, known.backward.owner) and len(known.touched) < MANY:
                    self.state[key] = replace(known, touched=(*known.touched, event))


def _problem(touch: Touch, known: _Gradients | None, step: OwnedStep) -> Broken:
    assert known is not None
    reads = isinstance(touch, GradientRead)
    library = step.library
    verb = "reads" if reads else "clips"
    consequence = (
        "the value is 65536 times too large at the initial scale, and jumps by a factor of two whenever "
        "the scale does"
        if reads
        else "the norm is that of gradients 65536 times too large at the initial scale: a limit of 1 cuts "
        "every update to almost nothing"
    )
    return Broken(
        Problem(
            "lightning-raw-clip",
            touch.at,
            f"`{touch.how}` {verb} gradients that {library} has not divided by the loss scale yet",
            consequence,
            (
                *known.backward.because,
                Related(known.backward.at, f"{library} scales the loss and runs backward here"),
                Related(step.at, f"{library} unscales the gradients and steps here"),
            ),
            (
                ("library", library),
                ("owner", known.backward.owner.text),
                ("optimizer", step.optimizer.text),
            ),
        ),
        grounded=True,
    )
