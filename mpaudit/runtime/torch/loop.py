"""The training loop as torch runs it: backward, clipping, optimizers and scalers as events."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from mpaudit.event import (
    Backward,
    CastCacheCleared,
    GradientsClipped,
    GradientsZeroed,
    LossComputed,
    LossScaled,
    LostSight,
    OptimizerStep,
    Ref,
    RegionBackward,
    RegionStep,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.finding import Moment
from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.repetition import may_repeat, stack
from mpaudit.runtime.torch.edited import Edits
from mpaudit.runtime.torch.graph import activation, marks_behind, maybe_scaled
from mpaudit.runtime.torch.guard import unseen_by
from mpaudit.runtime.torch.progress import Progress, number
from mpaudit.runtime.torch.regions import MADE_IN, SWITCHED_OFF, Made
from mpaudit.runtime.torch.watch import Known, Watch, unwatched

SCALED_BY = "mpaudit.scaled_by"


class Loop:
    """Wraps what a training loop calls and feeds the protocols."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked_scale = False  # get_scale() since the last update: something is done by hand
        self._built = Known()  # the optimizers there are
        self._done_without = False  # the script has switched a scaler off: it wants no scale
        self._edits = Edits(self._built)
        self._lanes: dict[Hashable, int] = {}  # scaler -> the thread that used it last
        self._progress = Progress(watch)
        watch.scaled_loss = self._progress.scaled
        patches = watch.patches
        scaler = torch.amp.grad_scaler.GradScaler
        patches.wrap(scaler, "__init__", self._scaler_made)
        patches.wrap(scaler, "step", self._scaler_step)
        self._methods = {"scale": self._scale, "unscale_": self._unscale, "update": self._update}
        self._owned = Known()  # classes of scalers whose own methods are watched
        for name in self._methods:
            patches.wrap(scaler, name, partial(self._once, name))
        patches.wrap(scaler, "get_scale", self._get_scale)
        patches.wrap(torch.optim.Optimizer, "__init__", self._optimizer_built)
        patches.wrap(torch.Tensor, "backward", self._backward)
        patches.wrap(torch.autograd, "backward", self._autograd_backward)
        patches.wrap(torch.autograd, "grad", self._grad)
        patches.wrap(torch.optim.Optimizer, "zero_grad", self._zero_grad)
        patches.wrap(torch.nn.Module, "zero_grad", self._zero_grad)
        for module in (torch.nn.utils, torch.nn.utils.clip_grad):
            for name in ("clip_grad_norm_", "clip_grad_value_"):
                patches.wrap(module, name, self._clip)
        patches.wrap(torch._C._nn, "cross_entropy_loss", self._cross_entropy)
        patches.wrap(torch, "clear_autocast_cache", self._copies_forgotten)
        patches.also(register_optimizer_step_pre_hook(self._before_step).remove)
        patches.also(register_optimizer_step_post_hook(self._after_step).remove)

    def _feed(self, make: Callable[..., Any], /, **facts: Any) -> None:
        frame = user_frame()
        moment = Moment(step=self._watch.tracer.step())
        lane, scaler = self._watch.thread.lane, facts.get("scaler")
        at, feed = user_span(frame), partial(self._watch.tracer.feed, threaded=True)
        if scaler is not None:
            if self._lanes.setdefault(scaler.key, lane) != lane:  # its order is whole in neither
                feed(LostSight(at=at, objects=frozenset({scaler.key})))
            self._lanes[scaler.key] = lane
        feed(make(at=at, moment=moment, **facts))

    def _ref(self, thing: object) -> Ref:
        return self._watch.spelled(thing) or self._watch.ref(thing, user_frame())

    def _live(self, scaler: Any) -> bool:
        return bool(scaler._enabled) and not unwatched()

    def _optimizer_built(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        self._built.set(optimizer, True)

    def built_before(self, optimizer: Any) -> None:
        """An optimizer that was there when the watch began."""
        self._built.set(optimizer, True)

    def _scaler_made(self, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> None:
        original(scaler, *args, **kwargs)
        with self._watch.guard("GradScaler"):
            self.scaler_built_before(scaler)
            enabled = args[5] if len(args) > 5 else kwargs.get("enabled", True)
            self._done_without |= not enabled
            if not enabled:
                self._watch.tracer.note(SWITCHED_OFF, True)
            if self._live(scaler):
                self._watch.scalers.set(scaler, user_span())
                way = hash(tuple(stack(user_frame()).values()))
                self._feed(ScalerMade, scaler=self._ref(scaler), way=way)
                kept = ("init_scale", "growth_factor", "backoff_factor", "growth_interval")
                given = {name: getattr(scaler, f"_{name}") for name in kept}
                self._watch.tracer.note("scaler", given)

    def scaler_built_before(self, scaler: Any) -> None:
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
                ours = self._ref(scaler)
                self._watch.scaled = True
                made = self._watch.scalers.get(scaler) or user_span()
                self._watch.tracer.asked_for_amp(made, "GradScaler")
                for loss, scaled in zip(_tensors(outputs), _tensors(result), strict=False):
                    if scaled.grad_fn is not None:
                        scaled.grad_fn.metadata[SCALED_BY] = ours
                    self._progress.scaled(loss, scaled)
                    self._feed(
                        LossScaled, scaler=ours, loss=self._ref(loss), result=self._ref(scaled)
                    )
        return result

    def _unscale(self, original: Any, scaler: Any, optimizer: Any) -> None:
        edited = True
        with self._watch.guard("GradScaler.unscale_"):
            if self._live(scaler) and not self._watch.thread.stepping:
                self._feed(Unscaled, scaler=self._ref(scaler), optimizer=self._ref(optimizer))
            edited = self._edits.edited(optimizer)
        original(scaler, optimizer)
        with self._watch.guard("GradScaler.unscale_"):
            if not edited:
                self._edits.touched([optimizer])

    def _scaler_step(
        self, original: Any, scaler: Any, optimizer: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not scaler._enabled:
            return original(scaler, optimizer, *args, **kwargs)
        with self._watch.guard("GradScaler.step"):
            held = [v for v in vars(optimizer).values() if isinstance(v, torch.optim.Optimizer)]
            self._feed(
                ScalerStep,
                scaler=self._ref(scaler),
                optimizer=self._ref(optimizer),
                wraps=tuple(self._ref(each) for each in held),
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
                self._feed(ScalerUpdate, scaler=self._ref(scaler), to_given_scale=given)
            self._asked_scale = False
        original(scaler, new_scale)

    def _get_scale(self, original: Any, scaler: Any) -> Any:
        self._asked_scale |= self._live(scaler)
        return original(scaler)

    def _backward(self, original: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward([loss], original, loss, *args, **kwargs)

    def _autograd_backward(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward(_tensors(tensors), original, tensors, *args, **kwargs)

    def _grad(self, original: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not unwatched():
            with self._watch.guard("autograd.grad"):
                marks = (mark for each in _tensors(outputs) for mark in marks_behind(each.grad_fn))
                self._watch.thread.derived |= any(SCALED_BY in mark for mark in marks)
        return original(outputs, *args, **kwargs)

    def _run_backward(self, losses: Iterable[Any], original: Any, *args: Any, **kwargs: Any) -> Any:
        thread = self._watch.thread
        if thread.backward == 0 and not unwatched():
            with self._watch.guard("backward"):
                losses = _tensors(list(losses))
                self._watch.backward(losses)
                self._progress.backward(losses, user_span())
                thread.optimizer.clear()
                again = bool(kwargs.get("create_graph") or any(args[3:4]))
                given = (*args[1:2], kwargs.get("gradient"), kwargs.get("grad_tensors"))
                weighted = any(each is not None for each in given)
                for loss in losses:
                    self._about_backward(loss, again, weighted)
                self._edits.backward_begins()
                thread.derived = False
        thread.backward += 1
        try:
            return original(*args, **kwargs)
        finally:
            thread.backward -= 1
            if thread.backward == 0 and not unwatched():
                with self._watch.guard("backward"):
                    self._edits.backward_ended()

    def _about_backward(self, loss: Any, again: bool, weighted: bool) -> None:
        """Tell of a backward pass; where it is to be derived `again`, it is part of a forward pass.

        Where it is `weighted`, the gradient of the loss is given, and not one.
        """
        scalers: tuple[Ref, ...] | None = None
        marks = list(marks_behind(loss.grad_fn))
        found = {mark[SCALED_BY] for mark in marks if SCALED_BY in mark}
        if found or not (weighted or self._asked_scale or maybe_scaled(loss)):
            scalers = tuple(sorted(found, key=lambda ref: str(ref.key)))
        made: Made | None = next((mark[MADE_IN] for mark in marks if MADE_IN in mark), None)
        thread = self._watch.thread
        entered = thread.entered[-1] if thread.entered else None  # a library's own is no mistake
        within = entered is not None and not again and not may_repeat(user_frame(), entered.stack)
        self._feed(
            Backward,
            loss=self._ref(loss),
            scalers=scalers,
            made_in=None if made is None or self._done_without else made.region,
            inside=self._watch.region if within else None,
            entry=None if entered is None else entered.number,
        )
        if made is not None and made.keeps and thread.regions and made.entry == thread.entries:
            self._feed(RegionBackward, entry=made.entry, region=made.outermost)

    def _copies_forgotten(self, original: Any) -> None:
        original()
        with self._watch.guard("clear_autocast_cache"):
            if self._watch.thread.regions and not unwatched():
                self._feed(CastCacheCleared)

    def _cross_entropy(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        with self._watch.guard("cross_entropy"):
            if not unwatched() and args:
                got = activation(getattr(args[0], "grad_fn", None))
                through = sys._getframe(3).f_code.co_filename  # who called functional.cross_entropy
                name = "CrossEntropyLoss" if through.endswith("loss.py") else "cross_entropy"
                self._feed(LossComputed, loss=name, wants="logits", got=got)
        return original(*args, **kwargs)

    def _zero_grad(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(owner, *args, **kwargs)
        with self._watch.guard("zero_grad"):
            if not unwatched():
                ours = None if isinstance(owner, torch.nn.Module) else self._ref(owner)
                to_none = args[0] if args else kwargs.get("set_to_none", True)
                self._feed(GradientsZeroed, optimizer=ours, to_none=bool(to_none))
                self._edits.touched(None if ours is None else [owner])
        return result

    def _clip(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # it may be a generator, which can be read only once
        with self._watch.guard("clip_grad"):
            limit = args[0] if args else kwargs.get("max_norm", kwargs.get("clip_value"))
            only_read = limit == math.inf  # the norm is asked for, and nothing is clipped
            if not unwatched() and not self._asked_scale and not only_read:
                ids = {id(each) for each in _tensors(parameters)}
                owners = tuple(
                    self._ref(optimizer)
                    for optimizer in self._built.things()
                    if any(id(each) in ids for each in _parameters(optimizer))
                )
                if owners:  # others are divided by nobody
                    self._feed(GradientsClipped, how=original.__name__, optimizers=owners)
            ours = [each for each in self._built.things() if not self._edits.edited(each)]
        result = original(parameters, *args, **kwargs)
        with self._watch.guard("clip_grad"):
            self._edits.touched(ours)
        return result

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if unwatched():
            return
        thread = self._watch.thread
        with self._watch.guard("optimizer step"):
            if not thread.stepping and not thread.optimizer:
                self._feed(
                    OptimizerStep,
                    optimizer=self._ref(optimizer),
                    apart=bool(self._built.get(optimizer)) and not self._edits.reached(optimizer),
                    edited=self._asked_scale or self._edits.edited(optimizer),
                )
            self._edits.stepped(optimizer)
            self._built.setdefault(optimizer, True)  # a copy is not built
            if thread.regions and not thread.optimizer and _cast_when_used(optimizer):
                self._feed(RegionStep, entry=thread.entries)
            thread.optimizer.append(id(optimizer))
            self._watch.index(optimizer)
            fused = getattr(optimizer, "grad_scale", None) is not None  # it divides itself
            self._watch.before_step(optimizer, not fused)

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if unwatched():
            return
        thread = self._watch.thread
        with self._watch.guard("optimizer step"):
            if id(optimizer) in thread.optimizer:
                del thread.optimizer[thread.optimizer.index(id(optimizer)) :]
            if not thread.stepping and not thread.optimizer:
                index = self._watch.index(optimizer)
                step = self._watch.tracer.attempted(index)
                self._watch.settled(index, step, True, None)


def _closure(optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """How a closure comes into `scaler.step(optimizer, ...)`, as `ScalerStep.closure` says it."""
    if "closure" in kwargs:
        return "keyword"
    if args and callable(args[0]) and type(optimizer).__module__.startswith("torch.optim"):
        return "positional"
    return "missing" if not args and isinstance(optimizer, torch.optim.LBFGS) else None


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if type(value) is not torch.Tensor:
            unseen_by(type(value))
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _parameters(optimizer: Any) -> Iterable[Any]:
    return (each for group in optimizer.param_groups for each in group["params"])


def _cast_when_used(optimizer: Any) -> bool:
    """Whether an optimizer changes weights of which autocast keeps copies."""
    return any(each.dtype is torch.float32 for each in _parameters(optimizer))
