"""The training loop as torch runs it: backward, clipping, optimizers and scalers as events."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable
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
from mpaudit.runtime.torch.progress import Progress, number
from mpaudit.runtime.torch.regions import MADE_IN, Made
from mpaudit.runtime.torch.watch import Known, Watch, unwatched

SCALED_BY = "mpaudit.scaled_by"
_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_TRANSPARENT = {"ToCopy", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "T"}
_NEAR = 64  # nodes of the graph behind a loss that are searched for a mark


class Loop:
    """Wraps what a training loop calls and feeds the protocols."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked_scale = False  # get_scale() since the last backward: something is done by hand
        self._built = Known()  # the optimizers there are
        self._progress = Progress(watch)
        watch.scaled_loss = self._progress.scaled
        patches = watch.patches
        scaler = torch.amp.grad_scaler.GradScaler
        patches.wrap(scaler, "__init__", self._scaler_made)
        patches.wrap(scaler, "step", self._scaler_step)
        self._methods = {"scale": self._scale, "unscale_": self._unscale, "update": self._update}
        self._owned = Known()  # classes of scalers whose own methods are watched
        for name in self._methods:
            patches.wrap(scaler, name, functools.partial(self._once, name))
        patches.wrap(scaler, "get_scale", self._get_scale)
        patches.wrap(torch.optim.Optimizer, "__init__", self._optimizer_built)
        patches.wrap(torch.Tensor, "backward", self._backward)
        patches.wrap(torch.autograd, "backward", self._autograd_backward)
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
        self._watch.tracer.feed(make(at=user_span(frame), moment=moment, **facts))

    def _ref(self, thing: object) -> Ref:
        return self._watch.ref(thing, user_frame())

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
            if self._live(scaler):
                self._watch.scalers.set(scaler, user_span())
                self._feed(ScalerMade, scaler=self._ref(scaler))
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
                    self._watch.patches.wrap(kind, name, functools.partial(self._once, name))

    def _once(self, name: str, original: Any, scaler: Any, *args: Any, **kwargs: Any) -> Any:
        """Tell of a method of a scaler once: it may call the one that it is in place of."""
        inside = self._watch.thread.inside

        def within(*args: Any, **kwargs: Any) -> Any:
            inside.append(name)
            try:
                return original(*args, **kwargs)
            finally:
                inside.remove(name)

        around = original if name in inside else functools.partial(self._methods[name], within)
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
        with self._watch.guard("GradScaler.unscale_"):
            if self._live(scaler) and not self._watch.thread.stepping:
                self._feed(Unscaled, scaler=self._ref(scaler), optimizer=self._ref(optimizer))
        original(scaler, optimizer)

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
            )
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
        original(scaler, new_scale)

    def _get_scale(self, original: Any, scaler: Any) -> Any:
        self._asked_scale = True
        return original(scaler)

    def _backward(self, original: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward([loss], original, loss, *args, **kwargs)

    def _autograd_backward(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward(_tensors(tensors), original, tensors, *args, **kwargs)

    def _run_backward(self, losses: Iterable[Any], original: Any, *args: Any, **kwargs: Any) -> Any:
        thread = self._watch.thread
        if thread.backward == 0 and not unwatched():
            with self._watch.guard("backward"):
                losses = list(losses)
                self._watch.backward(losses)
                self._progress.backward(losses, user_span())
                thread.optimizer.clear()
                again = bool(kwargs.get("create_graph") or any(args[3:4]))
                for loss in losses:
                    self._about_backward(loss, again)
        thread.backward += 1
        try:
            return original(*args, **kwargs)
        finally:
            thread.backward -= 1

    def _about_backward(self, loss: Any, again: bool) -> None:
        """Tell of a backward pass; where it is to be derived `again`, it is part of a forward pass."""
        scalers: tuple[Ref, ...] | None = None
        marks = list(_marks(loss.grad_fn))
        found = {mark[SCALED_BY] for mark in marks if SCALED_BY in mark}
        by_hand = self._asked_scale or loss.grad_fn.name() == "MulBackward0"
        if found or not by_hand:
            scalers = tuple(sorted(found, key=lambda ref: str(ref.key)))
        self._asked_scale = False
        made: Made | None = next((mark[MADE_IN] for mark in marks if MADE_IN in mark), None)
        thread = self._watch.thread
        entry = thread.numbers[-1] if thread.numbers else 0  # a library's own region is no mistake
        self._feed(
            Backward,
            loss=self._ref(loss),
            scalers=scalers,
            made_in=None if made is None else made.region,
            inside=self._watch.region if entry and not again else None,
            entry=entry or None,
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
                got = _activation(getattr(args[0], "grad_fn", None))
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
                self._feed(GradientsClipped, how=original.__name__, optimizers=owners or None)
        return original(parameters, *args, **kwargs)

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if unwatched():
            return
        thread = self._watch.thread
        with self._watch.guard("optimizer step"):
            if not thread.stepping and not thread.optimizer:
                self._feed(OptimizerStep, optimizer=self._ref(optimizer))
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
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors(each)]
    return []


def _parameters(optimizer: Any) -> Iterable[Any]:
    return (each for group in optimizer.param_groups for each in group["params"])


def _cast_when_used(optimizer: Any) -> bool:
    """Whether an optimizer changes weights of which autocast keeps copies."""
    return any(each.dtype is torch.float32 for each in _parameters(optimizer))


def _activation(node: Any) -> str | None:
    """The activation that a tensor is the result of, casts and views aside; None if unknown."""
    for _ in range(8):
        if node is None:
            return None
        name = node.name().removesuffix("0").removesuffix("Backward")
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        if name not in _TRANSPARENT:
            return None
        node = node.next_functions[0][0]
    return None


def _marks(node: Any) -> Iterable[dict[str, Any]]:
    """The marks on the graph behind `node`, the nearest first."""
    queue, seen = [node], {node}
    for near in queue:
        behind = near.next_functions if near is not None else ()
        if behind:  # the others are parameters, whose nodes outlive the step
            yield near.metadata
        for further, _ in behind:
            if further is not None and further not in seen and len(queue) < _NEAR:
                seen.add(further)
                queue.append(further)
