"""Gradient accumulation: several backward passes of one place, then one step.

A group of micro-batches is seen as the same `backward()` coming again with no step between, before a
step under a condition that counts the passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from mpaudit.event import (
    Backward,
    Event,
    GradientsZeroed,
    LostSight,
    OptimizerStep,
    Ref,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Problem, Related, Span
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

EARLY = "mid-accumulation-step"
UNDIVIDED = "undivided-accumulation"
UNSCALE = "double-unscale"


class _Group(Struct, frozen=True):
    """The micro-batches since the last step.

    `repeated` is a backward that came again; `zeroed` the zero_grad() since the last backward, `wiped`
    the one that stood between two of them; `unscaled` the unscale_ before the last backward, `mixed`
    the one that stood between two of them.
    """

    backwards: tuple[Backward, ...] = ()
    repeated: Backward | None = None
    zeroed: GradientsZeroed | None = None
    wiped: GradientsZeroed | None = None
    unscaled: tuple[Unscaled, ...] = ()
    mixed: tuple[Unscaled, ...] = ()


class AccumulationProtocol(Protocol):
    """MP114, MP126, and MP106 where unscale_ runs for the first micro-batch only.

    State: "group" -> _Group; ("dirty", optimizer) -> its last step, until zero_grad(); ("stale",
    optimizer) -> a step on top of gradients that a step had used before; "last" -> where gradients
    were last dropped: a place after which micro-batches are added up is a good one.
    """

    __slots__ = ()

    takes = (
        Backward,
        GradientsZeroed,
        Unscaled,
        ScalerStep,
        ScalerUpdate,
        OptimizerStep,
        LostSight,
    )

    @property
    def _group(self) -> _Group:
        group = self.state.get("group")
        return group if isinstance(group, _Group) else _Group()

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        group = self._group
        match event:
            case Backward():
                last = self.state.get("last")
                self.state["group"] = after = _with_backward(group, event)
                if isinstance(last, Span) and after.repeated is event and group.zeroed is None:
                    yield Kept(EARLY, last)
            case GradientsZeroed():
                yield from self._zeroed(event)
                self.state["last"] = event.at
                if group.backwards:
                    self.state["group"] = replace(group, zeroed=event)
            case Unscaled(by_hand=False) if group.backwards:
                self.state["group"] = replace(group, unscaled=(*group.unscaled, event))
            case Unscaled() | OptimizerStep():
                self.state.clear()
            case LostSight() if event.objects & {ref.key for ref in self._watched(group)}:
                self.state.clear()
            case ScalerStep():
                yield from self._step(event, group)
            case ScalerUpdate():
                self.state.pop("group", None)

    def _watched(self, group: _Group) -> Iterator[Ref]:
        for key in self.state:
            if isinstance(key, tuple) and isinstance(key[1], Ref):
                yield key[1]
        for backward in group.backwards:
            yield from backward.scalers or ()
        for event in group.unscaled:
            if event.optimizer is not None:
                yield event.optimizer

    def _zeroed(self, event: GradientsZeroed) -> Iterator[Verdict]:
        for key, step in list(self.state.items()):
            if not isinstance(key, tuple) or event.optimizer not in (None, key[1]):
                continue
            del self.state[key]
            if key[0] == "stale" and isinstance(step, ScalerStep) and event.counted:
                yield _stepped_early(step, event)

    def _step(self, event: ScalerStep, group: _Group) -> Iterator[Verdict]:
        dirty = self.state.get(("dirty", event.optimizer))
        if isinstance(dirty, ScalerStep) and dirty.at == event.at and group.backwards:
            if not event.occasional:
                self.state[("stale", event.optimizer)] = event
        self.state[("dirty", event.optimizer)] = event
        first = group.repeated
        ours = first is not None and first.scalers is not None and event.scaler in first.scalers
        for unscaled in group.unscaled:
            if unscaled.optimizer == event.optimizer and unscaled not in group.mixed:
                yield Kept(UNSCALE, unscaled.at, occasional=True)
        if not ours or first is None:
            return
        for unscaled in group.mixed:
            if (unscaled.scaler, unscaled.optimizer) == (event.scaler, event.optimizer):
                yield _unscaled_early(unscaled, first, event)
        if not event.counted or first.occasional:
            return
        wiped = group.wiped
        if wiped is None:
            if first.whole:
                yield _undivided(first, event)
        elif not wiped.occasional and wiped.optimizer in (None, event.optimizer):
            yield _zeroed_early(wiped, first, event)


def _with_backward(group: _Group, event: Backward) -> _Group:
    """The group with one more micro-batch, if it is one."""
    again = any(before.at == event.at for before in group.backwards)
    backwards = group.backwards if again else (*group.backwards, event)
    return _Group(
        backwards,
        event if again else group.repeated,
        None,
        group.zeroed if again and group.zeroed is not None else group.wiped,
        group.unscaled,
        group.unscaled if again else group.mixed,
    )


def _subjects(scaler: Ref, optimizer: Ref | None) -> tuple[tuple[str, str], ...]:
    pairs = (("scaler", scaler), ("optimizer", optimizer))
    return tuple((name, ref.text) for name, ref in pairs if ref is not None and ref.text)


def _unscaled_early(unscaled: Unscaled, first: Backward, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            UNSCALE,
            unscaled.at,
            f"the gradients of `{event.optimizer.text}` are unscaled before all micro-batches are "
            "added up",
            "what is added later is 65536 times too large (at the initial scale)",
            (
                Related(first.at, "scaled gradients are added to unscaled ones here"),
                Related(event.at, "their sum is applied here, as if it were unscaled"),
            ),
            _subjects(event.scaler, event.optimizer),
        )
    )


def _zeroed_early(wiped: GradientsZeroed, first: Backward, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            EARLY,
            wiped.at,
            "the gradients are dropped for each micro-batch, and the step comes only after several",
            "only the last micro-batch of a group is learnt from: the work for the others is lost",
            (
                Related(first.at, "the gradients of one micro-batch are made here"),
                Related(event.at, "the step waits for several of them here"),
            ),
            _subjects(event.scaler, event.optimizer),
        )
    )


def _stepped_early(step: ScalerStep, event: GradientsZeroed) -> Broken:
    return Broken(
        Problem(
            EARLY,
            step.at,
            f"`{step.optimizer.text}` is stepped for each micro-batch, and its gradients are dropped "
            "only after several",
            "each step is made of one micro-batch alone: what the step before left behind is unscaled, "
            "65536 times too small (at the initial scale) to count",
            (Related(event.at, "the gradients are dropped here, once in a group"),),
            _subjects(step.scaler, step.optimizer),
        )
    )


def _undivided(first: Backward, event: ScalerStep) -> Broken:
    return Broken(
        Problem(
            UNDIVIDED,
            first.at,
            "the loss of each micro-batch is added up without being divided by their number",
            "the gradients of n micro-batches are n times too large: so is the update with SGD, and "
            "gradients overflow in float16 that much earlier",
            (Related(event.at, "the sum is applied here"),),
            _subjects(event.scaler, event.optimizer),
        )
    )
