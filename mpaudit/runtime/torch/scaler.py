"""What a script does with its GradScalers, and how the steps that they make end."""

from __future__ import annotations

from functools import partial
from types import FrameType
from typing import Any

import torch

from mpaudit.event import (
    LossScaled,
    Ref,
    ScalerLoaded,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.runtime.frame import frame_span, user_frame
from mpaudit.runtime.repetition import stack
from mpaudit.runtime.torch.edited import Edits
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.narration import Narration, tensors_in
from mpaudit.runtime.torch.progress import Progress, number
from mpaudit.runtime.torch.regions import SWITCHED_OFF
from mpaudit.runtime.torch.watch import Thread, Watch, unwatched

_LBFGS = torch.optim.LBFGS
_GradScaler = torch.amp.grad_scaler.GradScaler
SCALED_BY = "mpaudit.scaled_by"


class Scalers:
    """Wraps the methods of GradScaler, and of classes that are made of it."""

    def __init__(self, watch: Watch, tell: Narration, edits: Edits, progress: Progress) -> None:
        self._watch = watch
        self._tell = tell
        self._edits = edits
        self._progress = progress
        self._scaled_by = Known()  # scalers that have scaled something
        self.used = 0
        """How many have scaled something so far."""
        self.by_hand = False
        """get_scale() was called since the last update: something is done by hand."""
        self.done_without = False
        """The script has switched a scaler off: it wants no scale."""
        patches, scaler = watch.patches, _GradScaler
        patches.wrap(scaler, "__init__", self._made)
        patches.wrap(scaler, "step", self._step)
        self._methods = {"scale": self._scale, "unscale_": self._unscale, "update": self._update}
        self._scale_guard = watch.guard("GradScaler.scale")
        self._unscale_guard = watch.guard("GradScaler.unscale_")
        self._step_guard = watch.guard("GradScaler.step")
        self._update_guard = watch.guard("GradScaler.update")
        self._wrapped = (
            Known()
        )  # optimizer -> how many attributes it has, and the optimizers in them
        self._owned = Known()  # classes of scalers whose own methods are watched
        for name, method in self._methods.items():
            patches.wrap(scaler, name, method)
        patches.wrap(scaler, "get_scale", self._get_scale)
        patches.wrap(scaler, "load_state_dict", self._loaded)

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
                frame = user_frame()
                self._watch.scalers.set(scaler, frame_span(frame))
                way = hash(tuple(stack(frame).values()))
                self._tell.feed(ScalerMade, frame, scaler=self._tell.ref(scaler, frame), way=way)
                kept = ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
                given = {name: getattr(scaler, f"_{name}") for name in kept}
                self._watch.tracer.note("scaler", given)

    def built_before(self, scaler: Any) -> None:
        """Watch the methods that the class of a scaler has in place of torch's, as for shards."""
        kinds = type(scaler).__mro__
        for kind in kinds[: kinds.index(_GradScaler)]:
            if self._owned.get(kind) is None:
                self._owned.set(kind, True)
                for name in self._methods.keys() & vars(kind).keys():
                    self._watch.patches.wrap(kind, name, partial(self._once, name))

    def _once(self, name: str, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> Any:
        """Tell of a class's own method once: it may call the one that it is in place of."""
        if self._inside(name):
            return original(scaler, *args, **kwargs)
        within = partial(self._within, name, original)
        return self._methods[name](within, scaler, *args, **kwargs)

    def _within(self, name: str, original: Any, *args: Any, **kwargs: Any) -> Any:
        inside = self._watch.thread.inside
        inside.append(name)
        try:
            return original(*args, **kwargs)
        finally:
            inside.remove(name)

    def _inside(self, name: str) -> bool:
        """Whether the class's own method of this name calls the one that it is in place of."""
        return name in self._watch.thread.inside

    def _scale(self, original: Any, scaler: Any, outputs: Any) -> Any:
        result = original(scaler, outputs)
        if type(scaler) is not _GradScaler and self._inside("scale"):
            return result
        with self._scale_guard:
            if scaler._enabled and not unwatched():
                frame = user_frame()
                ours = self._tell.ref(scaler, frame)
                if not self._scaled_by.get(scaler):
                    self._scaled_by.set(scaler, True)
                    self.used += 1
                    made = self._watch.scalers.get(scaler) or frame_span(frame)
                    self._watch.tracer.asked_for_amp(made, "GradScaler")
                self._watch.scaled = True
                for loss, scaled in zip(tensors_in(outputs), tensors_in(result), strict=False):
                    if scaled.grad_fn is not None:
                        scaled.grad_fn.metadata[SCALED_BY] = ours
                    self._progress.scaled(loss, scaled)
                    self._tell.feed(
                        LossScaled,
                        frame,
                        scaler=ours,
                        loss=self._tell.ref(loss, frame),
                        result=self._watch.ref(scaled),  # nobody can have named it yet
                    )
        return result

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> None:
        thread, edited = self._watch.thread, True
        if type(scaler) is not _GradScaler and self._inside("unscale_"):
            original(scaler, optimizer)
            return
        if thread.stepping:
            original(scaler, optimizer)
            thread.unscaled = None if thread.edited else optimizer
            return
        with self._unscale_guard:
            if self._live(scaler):
                frame = user_frame()
                self._tell.feed(
                    Unscaled,
                    frame,
                    scaler=self._tell.ref(scaler, frame),
                    optimizer=self._tell.ref(optimizer, frame),
                )
            edited = self._edits.edited(optimizer)
        original(scaler, optimizer)
        if not edited:
            with self._unscale_guard:
                self._edits.touched([optimizer])

    def unscaled(self, thread: Thread) -> None:
        """A scaler's step has divided gradients, which nobody had edited before it."""
        optimizer, thread.unscaled = thread.unscaled, None
        self._edits.touched([optimizer])

    def _step(self, original: Any, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if not scaler._enabled:
            return original(scaler, optimizer, *args, **kwargs)
        thread, frame = self._watch.thread, None
        thread.edited, thread.unscaled = True, None
        with self._step_guard:
            frame = user_frame()
            edited = self._edits.steps(optimizer)
            self._tell.feed(
                ScalerStep,
                frame,
                scaler=self._tell.ref(scaler, frame),
                optimizer=self._tell.ref(optimizer, frame),
                wraps=self._wraps(optimizer, frame),
                closure=_closure(optimizer, args, kwargs),
                edited=edited,
            )
            thread.edited = edited
        thread.stepping += 1
        try:
            result = original(scaler, optimizer, *args, **kwargs)
        finally:
            thread.stepping -= 1
        with self._step_guard:
            self._settle(scaler, optimizer, frame)
        return result

    def _wraps(self, optimizer: Any, frame: FrameType | None) -> tuple[Ref, ...]:
        """The optimizers that an optimizer has within it; looked for where it has got other attributes."""
        kept = vars(optimizer)
        count, found = self._wrapped.get(optimizer) or (-1, ())
        if count != len(kept):
            held = [each for each in kept.values() if isinstance(each, torch.optim.Optimizer)]
            found = tuple(self._tell.ref(each, frame) for each in held)
            self._wrapped.set(optimizer, (len(kept), found))
        return found

    def _settle(self, scaler: Any, optimizer: Any, frame: FrameType | None) -> None:
        """Record how the attempt ended; on a GPU the numbers are read later, without waiting."""
        if self._watch.thread.unscaled is not None:
            self.unscaled(self._watch.thread)
        tracer = self._watch.tracer
        index = self._watch.index(optimizer)
        step = tracer.attempted(index)
        self._progress.over()
        if not step:
            tracer.stepped(index, frame_span(frame))
        found = scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        if scaler._scale.is_cpu:
            applied = True
            for each in found.values():
                applied = applied and not number(each)
            self._watch.attempted(optimizer, step, applied)
            if not applied:
                self._watch.skipped(optimizer, step)
            self._watch.settled(index, step, applied, scaler._scale.tolist())
            return
        self._watch.attempted(optimizer, step, None)
        skipped = torch.stack([each.to(scaler._scale.device) for each in found.values()]).sum()
        self._watch.numbers.later(
            torch.stack([skipped, scaler._scale]),
            lambda row: self._watch.settled(index, step, row[0] == 0, row[1]),
        )
        tracer.flush_if_due()

    def _update(self, original: Any, scaler: Any, new_scale: Any = None) -> None:
        if type(scaler) is not _GradScaler and self._inside("update"):
            original(scaler, new_scale)
            return
        with self._update_guard:
            if scaler._enabled and not unwatched():
                given, frame = new_scale is not None, user_frame()
                ours = self._tell.ref(scaler, frame)
                self._tell.feed(ScalerUpdate, frame, scaler=ours, to_given_scale=given)
            self.by_hand = False
        original(scaler, new_scale)

    def _loaded(self, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> None:
        original(scaler, *args, **kwargs)
        with self._watch.guard("GradScaler.load_state_dict"):
            if self._live(scaler):
                frame = user_frame()
                self._tell.feed(ScalerLoaded, frame, scaler=self._tell.ref(scaler, frame))

    def _get_scale(self, original: Any, scaler: Any) -> Any:
        self.by_hand |= self._live(scaler)
        return original(scaler)


def _closure(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """How a closure comes into `scaler.step(optimizer, ...)`, as `ScalerStep.closure` says it."""
    if "closure" in kwargs:
        return "keyword"
    if args and callable(args[0]) and type(optimizer).__module__.startswith("torch.optim"):
        return "positional"
    return "missing" if not args and isinstance(optimizer, _LBFGS) else None
