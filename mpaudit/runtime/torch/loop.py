"""The training loop as torch runs it: backward, clipping and optimizers as events."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
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
    OptimizerStep,
    Ref,
    RegionBackward,
    RegionStep,
)
from mpaudit.runtime.frame import user_frame, user_span
from mpaudit.runtime.repetition import may_repeat
from mpaudit.runtime.torch.edited import Edits
from mpaudit.runtime.torch.graph import activation, marks_behind, maybe_scaled
from mpaudit.runtime.torch.narration import Narration, tensors_in
from mpaudit.runtime.torch.progress import Progress
from mpaudit.runtime.torch.regions import MADE_IN, Made
from mpaudit.runtime.torch.scaler import SCALED_BY, Scalers
from mpaudit.runtime.torch.watch import Known, Watch, unwatched


class Loop:
    """Wraps what a training loop calls and feeds the protocols."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._built = Known()  # the optimizers there are
        self._edits = Edits(self._built)
        self._progress = Progress(watch)
        watch.scaled_loss = self._progress.scaled
        self._tell = Narration(watch)
        self.scalers = Scalers(watch, self._tell, self._edits, self._progress)
        patches = watch.patches
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

    def _optimizer_built(self, original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        original(optimizer, *args, **kwargs)
        self.built_before(optimizer)
        with self._watch.guard("optimizer"):
            self._watch.optimizer_made(optimizer)

    def built_before(self, optimizer: Any) -> None:
        """An optimizer that was there when the watch began."""
        self._built.set(optimizer, True)
        self._progress.optimized()

    def _backward(self, original: Any, loss: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward([loss], original, loss, *args, **kwargs)

    def _autograd_backward(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run_backward(tensors_in(tensors), original, tensors, *args, **kwargs)

    def _grad(self, original: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not unwatched():
            with self._watch.guard("autograd.grad"):
                marks = (
                    mark for each in tensors_in(outputs) for mark in marks_behind(each.grad_fn)
                )
                self._watch.thread.derived |= any(SCALED_BY in mark for mark in marks)
        return original(outputs, *args, **kwargs)

    def _run_backward(self, losses: Iterable[Any], original: Any, *args: Any, **kwargs: Any) -> Any:
        thread = self._watch.thread
        if thread.backward == 0 and not unwatched():
            with self._watch.guard("backward"):
                losses = tensors_in(list(losses))
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
        if found or not (weighted or self.scalers.by_hand or maybe_scaled(loss)):
            scalers = tuple(sorted(found, key=lambda ref: str(ref.key)))
        made: Made | None = next((mark[MADE_IN] for mark in marks if MADE_IN in mark), None)
        thread = self._watch.thread
        entered = thread.entered[-1] if thread.entered else None  # a library's own is no mistake
        within = entered is not None and not again and not may_repeat(user_frame(), entered.stack)
        self._tell.feed(
            Backward,
            loss=self._tell.ref(loss),
            scalers=scalers,
            made_in=None if made is None or self.scalers.done_without else made.region,
            inside=self._watch.region if within else None,
            entry=None if entered is None else entered.number,
        )
        if made is not None and made.keeps and thread.regions and made.entry == thread.entries:
            self._tell.feed(RegionBackward, entry=made.entry, region=made.outermost)

    def _copies_forgotten(self, original: Any) -> None:
        original()
        with self._watch.guard("clear_autocast_cache"):
            if self._watch.thread.regions and not unwatched():
                self._tell.feed(CastCacheCleared)

    def _cross_entropy(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        with self._watch.guard("cross_entropy"):
            if not unwatched() and args:
                got = activation(getattr(args[0], "grad_fn", None))
                through = sys._getframe(3).f_code.co_filename  # who called functional.cross_entropy
                name = "CrossEntropyLoss" if through.endswith("loss.py") else "cross_entropy"
                self._tell.feed(LossComputed, loss=name, wants="logits", got=got)
        return original(*args, **kwargs)

    def _zero_grad(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(owner, *args, **kwargs)
        with self._watch.guard("zero_grad"):
            self._progress.over()
            if not unwatched():
                ours = None if isinstance(owner, torch.nn.Module) else self._tell.ref(owner)
                to_none = args[0] if args else kwargs.get("set_to_none", True)
                self._tell.feed(GradientsZeroed, optimizer=ours, to_none=bool(to_none))
                self._edits.touched(None if ours is None else [owner])
        return result

    def _clip(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # it may be a generator, which can be read only once
        with self._watch.guard("clip_grad"):
            limit = args[0] if args else kwargs.get("max_norm", kwargs.get("clip_value"))
            only_read = limit == math.inf  # the norm is asked for, and nothing is clipped
            if not unwatched() and not self.scalers.by_hand and not only_read:
                ids = {id(each) for each in tensors_in(parameters)}
                owners = tuple(
                    self._tell.ref(optimizer)
                    for optimizer in self._built.things()
                    if any(id(each) in ids for each in _parameters(optimizer))
                )
                if owners:  # others are divided by nobody
                    self._tell.feed(GradientsClipped, how=original.__name__, optimizers=owners)
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
                self._tell.feed(
                    OptimizerStep,
                    optimizer=self._tell.ref(optimizer),
                    apart=bool(self._built.get(optimizer)) and not self._edits.reached(optimizer),
                    edited=self.scalers.by_hand or self._edits.edited(optimizer),
                )
            self._edits.stepped(optimizer)
            self._built.setdefault(optimizer, True)  # a copy is not built
            if thread.regions and not thread.optimizer and _cast_when_used(optimizer):
                self._tell.feed(RegionStep, entry=thread.entries)
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
                self._progress.over()
                self._watch.settled(index, step, True, None)


def _parameters(optimizer: Any) -> Iterable[Any]:
    return (each for group in optimizer.param_groups for each in group["params"])


def _cast_when_used(optimizer: Any) -> bool:
    """Whether an optimizer changes weights of which autocast keeps copies."""
    return any(each.dtype is torch.float32 for each in _parameters(optimizer))
