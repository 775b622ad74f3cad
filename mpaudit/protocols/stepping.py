"""What is stepped, and when: several optimizers of one scaler, closures, gradients that are gone."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from mpaudit.event import (
    Backward,
    Event,
    GradientsZeroed,
    LostSight,
    Ref,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

UPDATE = "repeated-scaler-update"
EMPTY = "step-without-gradients"
CLOSURE = "closure-with-scaler"


class SteppingProtocol(Protocol):
    """MP108, MP118 and MP122.

    State: "open" -> True from a backward until the update after it; ("zeroed", optimizer) -> its
    zero_grad() in that time; ("unscaled", optimizer); ("stepped", scaler) -> the steps since its last
    update; ("updated", scaler) -> the update, and the steps before it, until the next backward;
    ("blamed", scaler) -> the place of an update that was reported since.
    """

    __slots__ = ()

    takes = (Backward, GradientsZeroed, ScalerStep, ScalerUpdate, Unscaled, LostSight)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        match event:
            case Backward():
                yield from self._backward()
            case GradientsZeroed(optimizer=Ref() as optimizer):
                if "open" in self.state and ("stepped", optimizer) not in self.state:
                    self.state[("zeroed", optimizer)] = event
            case GradientsZeroed(optimizer=None) if "open" in self.state:
                for optimizer in event.emptied:
                    if ("stepped", optimizer) not in self.state:
                        self.state[("zeroed", optimizer)] = event
            case Unscaled(optimizer=Ref() as optimizer) if "open" in self.state:
                self.state[("unscaled", optimizer)] = event.at
            case ScalerStep():
                yield from self._step(event)
            case ScalerUpdate():
                self._update(event)
            case LostSight():
                self._lost(event)

    def _backward(self) -> Iterator[Verdict]:
        for key, value in list(self.state.items()):
            if isinstance(key, tuple) and key[0] == "updated" and isinstance(value, tuple):
                if self.state.get(("blamed", key[1])) != value[0].at:
                    yield Kept(UPDATE, value[0].at)
        self._drop("zeroed", "updated", "blamed", "unscaled")
        self.state["open"] = True

    def _step(self, event: ScalerStep) -> Iterator[Verdict]:
        if event.closure is not None:
            yield _closure(event)
        zeroed = self.state.get(("zeroed", event.optimizer))
        checked = self.state.get(("unscaled", event.optimizer))
        checked = checked if isinstance(checked, Span) else None
        if isinstance(zeroed, GradientsZeroed) and not event.edited:
            yield _empty(zeroed, event, checked)
        else:
            yield Kept(EMPTY, event.at)
            if checked is not None:  # who drops gradients instead of this means to pass over them
                yield Kept(EMPTY, checked)
        earlier = self.state.get(("updated", event.scaler))
        if isinstance(earlier, tuple):
            update, *steps = earlier
            if event.optimizer not in {step.optimizer for step in steps}:
                yield _repeated(update, steps[-1], event)
                self.state[("blamed", event.scaler)] = update.at
        stepped = self.state.get(("stepped", event.scaler))
        steps = [*stepped] if isinstance(stepped, tuple) else []
        self.state[("stepped", event.scaler)] = (*steps, event)

    def _update(self, event: ScalerUpdate) -> None:
        steps = self.state.pop(("stepped", event.scaler), ())
        self._drop("zeroed", "unscaled")
        self.state.pop("open", None)
        if isinstance(steps, tuple) and steps and not event.to_given_scale:
            self.state[("updated", event.scaler)] = (event, *steps)

    def _drop(self, *kinds: str) -> None:
        for key in [k for k in self.state if isinstance(k, tuple) and k[0] in kinds]:
            del self.state[key]

    def _lost(self, event: LostSight) -> None:
        """Who knows whether a backward ran there, for the objects that went there or for others."""
        self._drop("zeroed")
        for key in [k for k in self.state if _about(k, event)]:
            del self.state[key]


def _about(key: Hashable, event: LostSight) -> bool:
    refs = key if isinstance(key, tuple) else ()
    return any(isinstance(ref, Ref) and ref.key in event.objects for ref in refs)


def _repeated(update: ScalerUpdate, before: ScalerStep, event: ScalerStep) -> Broken:
    scaler, first, second = event.scaler.text, before.optimizer.text, event.optimizer.text
    steps = (
        f"the steps of `{first}` and `{second}`" if first != second else "the steps of optimizers"
    )
    return Broken(
        Problem(
            UPDATE,
            update.at,
            f"`{scaler}.update()` comes between {steps} whose gradients were multiplied by the same "
            "scale",
            "where the first of them overflows, the scale is halved, and the update of the other one "
            "is 2 times too large; the scale also grows twice as often",
            (
                Related(before.at, "stepped here, before the update"),
                Related(event.at, "stepped here, after it, with no backward between"),
            ),
            (("scaler", scaler), ("optimizer", event.optimizer.text)),
        ),
        grounded=not event.occasional,
    )


def _empty(zeroed: GradientsZeroed, event: ScalerStep, checked: Span | None) -> Broken:
    """`checked` is the place of unscale_(), after which such a step raises nothing."""
    scaler, optimizer = event.scaler.text, event.optimizer.text
    consequence = "the step is made without gradients: the parameters never move"
    if zeroed.to_none and checked is None:
        consequence = 'it raises "No inf checks were recorded for this optimizer."'
    return Broken(
        Problem(
            EMPTY,
            event.at,
            f"`{scaler}.step({optimizer})` finds no gradients: they were dropped since backward",
            consequence,
            (Related(zeroed.at, "the gradients are dropped here"),),
            (("scaler", scaler), ("optimizer", optimizer)),
        ),
        judged=checked,
    )


def _closure(event: ScalerStep) -> Broken:
    scaler, optimizer = event.scaler.text, event.optimizer.text
    message, consequence = {
        "keyword": (
            f"`{scaler}.step({optimizer}, closure=...)`: a GradScaler takes no closure",
            'it raises "Closure use is not currently supported if GradScaler is enabled."',
        ),
        "missing": (
            f"`{scaler}.step({optimizer})`: this optimizer cannot step without a closure, and a "
            "GradScaler takes none",
            "it raises \"LBFGS.step() missing 1 required positional argument: 'closure'\"",
        ),
    }.get(
        event.closure or "",
        (
            f"`{scaler}.step({optimizer}, closure)`: the closure runs after the gradients were "
            "unscaled and checked",
            "the gradients that the closure makes are 65536 times too large (at the initial scale) "
            "where it scales its loss, and are not checked for inf",
        ),
    )
    return Broken(
        Problem(
            CLOSURE,
            event.at,
            message,
            consequence,
            (),
            (("scaler", scaler), ("optimizer", optimizer)),
        ),
        grounded=True,
    )
