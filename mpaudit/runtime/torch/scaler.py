"""What a script does with its GradScalers, and how the steps that they make end."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from mpaudit.event import LossScaled, ScalerMade, ScalerStep, ScalerUpdate, Unscaled
from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.repetition import stack
from mpaudit.runtime.torch.edited import Edits
from mpaudit.runtime.torch.narration import Narration, tensors_in
from mpaudit.runtime.torch.progress import Progress, number
from mpaudit.runtime.torch.regions import SWITCHED_OFF
from mpaudit.runtime.torch.watch import Known, Watch, unwatched

SCALED_BY = "mpaudit.scaled_by"


class Scalers:
    """Wraps the methods of GradScaler, and of classes that are made of it."""

    def __init__(self, watch: Watch, tell: Narration, edits: Edits, progress: Progress) -> None:
        self._watch = watch
        self._tell = tell
        self._edits = edits
        self._progress = progress
        self.by_hand = False
        """get_scale() was called since the last update: something is done by hand."""
        self.done_without = False
        """The script has switched a scaler off: it wants no scale."""
        patches, scaler = watch.patches, torch.amp.grad_scaler.GradScaler
        patches.wrap(scaler, "__init__", self._made)
        patches.wrap(scaler, "step", self._step)
        self._methods = {"scale": self._scale, "unscale_": self._unscale, "update": self._update}
        self._owned = Known()  # classes of scalers whose own methods are watched
        for name in self._methods:
            patches.wrap(scaler, name, partial(self._once, name))
        patches.wrap(scaler, "get_scale", self._get_scale)

    def _live(self, scaler: Any) -> bool:
        return bool(scaler._enabled) and not unwatched()

    def _made(self, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> None:
        original(scaler, *args, **kwargs)
        with self._watch.guard("GradScaler"):
            self.built_before(scaler)
            enabled = args[5] if len(args) > 5 else kwargs.get("enabled", True)
            self.done_without |= not enabled
            if not enabled:
                self._watch.tracer.note(SWITCHED_OFF, True)
            if self._live(scaler):
                self._watch.scalers.set(scaler, user_span())
                way = hash(tuple(stack(user_frame()).values()))
                self._tell.feed(ScalerMade, scaler=self._tell.ref(scaler), way=way)
                kept = ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
                given = {name: getattr(scaler, f"_{name}") for name in kept}
                self._watch.tracer.note("scaler", given)

    def built_before(self, scaler: Any) -> None:
        """Watch the methods that the class of a scaler has in place of torch's, as for shards."""
        kinds = type(scaler).__mro__
        for kind in kinds[: kinds.index(torch.amp.grad_scaler.GradScaler)]:
            if self._owned.get(kind) is None:
                self._owned.set(kind, True)
                for name in self._methods.keys() & vars(kind).keys():
                    self._watch.patches.wrap(kind, name, partial(self._once, name))

    def _once(self, name: str, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> Any:
        """Tell of a method of a scaler once: it may call the one that it is in place of."""
        inside = self._watch.thread.inside

        def within(*args: Any, **kwargs: Any) -> Any:
            inside.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                inside.remove(name)

        around = original if name in inside else partial(self._methods[name], within)
        return around(scaler, *args, **kwargs)

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        result = original(scaler, outputs)
        with self._watch.guard("GradScaler.scale"):
            if self._live(scaler):
                ours = self._tell.ref(scaler)
                self._watch.scaled = True
                made = self._watch.scalers.get(scaler) or user_span()
                self._watch.tracer.asked_for_amp(made, "GradScaler")
                for loss, scaled in zip(tensors_in(outputs), tensors_in(result), strict=False):
                    if scaled.grad_fn is not None:
                        scaled.grad_fn.metadata[SCALED_BY] = ours
                    self._progress.scaled(loss, scaled)
                    self._tell.feed(
                        LossScaled,
                        scaler=ours,
                        loss=self._tell.ref(loss),
                        result=self._watch.ref(scaled),  # nobody can have named it yet
                    )
        return result

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> None:
        edited = True
        with self._watch.guard("GradScaler.unscale_"):
            if self._live(scaler) and not self._watch.thread.stepping:
                self._tell.feed(
                    Unscaled, scaler=self._tell.ref(scaler), optimizer=self._tell.ref(optimizer)
                )
            edited = self._edits.edited(optimizer)
        original(scaler, optimizer)
        with self._watch.guard("GradScaler.unscale_"):
            if not edited:
                self._edits.touched([optimizer])

    def _step(self, original: Any, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not scaler._enabled:
            return original(scaler, optimizer, *args, **kwargs)
        with self._watch.guard("GradScaler.step"):
            held = [v for v in vars(optimizer).values() if isinstance(v, torch.optim.Optimizer)]
            self._tell.feed(
                ScalerStep,
                scaler=self._tell.ref(scaler),
                optimizer=self._tell.ref(optimizer),
                wraps=tuple(self._tell.ref(each) for each in held),
                closure=_closure(optimizer, args, kwargs),
                edited=self._edits.edited(optimizer),
            )
            self._edits.stepped(optimizer)
        self._watch.thread.stepping += 1
        try:
            result = original(scaler, optimizer, *args, **kwargs)
        finally:
            self._watch.thread.stepping -= 1
        with self._watch.guard("GradScaler.step"):
            self._settle(scaler, optimizer)
        return result

    def _settle(self, scaler: Any, optimizer: Any) -> None:
        """Record how the attempt ended; on a GPU the numbers are read later, without waiting."""
        tracer = self._watch.tracer
        index = self._watch.index(optimizer)
        step = tracer.attempted(index)
        self._progress.over()
        tracer.stepped(index, user_span())
        found = list(scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values())
        if scaler._scale.device.type == "cpu":
            applied = not any(map(number, found))
            self._watch.attempted(optimizer, step, applied)
            if not applied:
                self._watch.skipped(optimizer, step)
            self._watch.settled(index, step, applied, scaler._scale.tolist())
            return
        self._watch.attempted(optimizer, step, None)
        skipped = torch.stack([each.to(scaler._scale.device) for each in found]).sum()
        self._watch.numbers.later(
            torch.stack([skipped, scaler._scale]),
            lambda row: self._watch.settled(index, step, row[0] == 0, row[1]),
        )
        tracer.flush_if_due()

    def _update(self, original: Any, scaler: Any, new_scale: Any = None) -> None:
        with self._watch.guard("GradScaler.update"):
            if self._live(scaler):
                given = new_scale is not None
                self._tell.feed(ScalerUpdate, scaler=self._tell.ref(scaler), to_given_scale=given)
            self.by_hand = False
        original(scaler, new_scale)

    def _get_scale(self, original: Any, scaler: Any) -> Any:
        self.by_hand |= self._live(scaler)
        return original(scaler)


def _closure(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """How a closure comes into `scaler.step(optimizer, ...)`, as `ScalerStep.closure` says it."""
    if "closure" in kwargs:
        return "keyword"
    if args and callable(args[0]) and type(optimizer).__module__.startswith("torch.optim"):
        return "positional"
    return "missing" if not args and isinstance(optimizer, torch.optim.LBFGS) else None
