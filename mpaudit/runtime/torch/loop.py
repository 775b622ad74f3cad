"""The training loop as torch runs it: backward, clipping and optimizers as events."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
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
from mpaudit.runtime.frame import frame_span, user_frame
from mpaudit.runtime.repetition import may_repeat
from mpaudit.runtime.torch.edited import Edits
from mpaudit.runtime.torch.graph import activation, marks_behind, maybe_scaled
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.narration import Narration, tensors_in
from mpaudit.runtime.torch.progress import Progress
from mpaudit.runtime.torch.regions import MADE_IN, Made
from mpaudit.runtime.torch.scaler import SCALED_BY, Scalers
from mpaudit.runtime.torch.watch import Watch, unwatched


class Loop:
    """Wraps what a training loop calls and feeds the protocols."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._edits = Edits()
        self._backward_guard = watch.guard("backward")
        self._zero_guard = watch.guard("zero_grad")
        self._loss_guard = watch.guard("cross_entropy")
        self._step_guard = watch.guard("optimizer step")
        self._progress = Progress(watch)
        watch.scaled_loss = self._progress.scaled
        self._made_after = Known()  # an optimizer -> how many others had been stepped
        self._stepped = 0
        self._tell = Narration(watch)
        self.scalers = Scalers(watch, self._tell, self._edits, self._progress)
        patches = watch.patches
        patches.wrap(torch.optim.Optimizer, "__init__", self._optimizer_built)
        patches.wrap(torch.Tensor, "backward", self._run_backward)
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
        self._edits.built(optimizer)
        self._made_after.set(optimizer, self._stepped)
        self._progress.optimized()

    def _autograd_backward(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if self._watch.thread.backward:  # it does the work of the method of a tensor
            return original(tensors, *args, **kwargs)
        return self._run_backward(original, tensors, *args, **kwargs)

    def _grad(self, original: Any, outputs: Any, *args: Any, **kwargs: Any) -> Any:
        if not unwatched():
            with self._watch.guard("autograd.grad"):
                marks = (
                    mark for each in tensors_in(outputs) for mark in marks_behind(each.grad_fn)
                )
                self._watch.thread.derived |= any(SCALED_BY in mark for mark in marks)
        return original(outputs, *args, **kwargs)

    def _run_backward(self, original: Any, given: Any, *args: Any, **kwargs: Any) -> Any:
        thread = self._watch.thread
        outermost = thread.backward == 0 and not unwatched()
        if outermost:
            with self._backward_guard:
                losses, frame = tensors_in(given), user_frame()
                self._watch.backward(losses)
                self._progress.backward(losses, frame_span(frame))
                thread.optimizer.clear()
                again, weighted = _how(args, kwargs) if args or kwargs else (False, False)
                for loss in losses:
                    self._about_backward(loss, frame, again, weighted)
                self._edits.backward_begins()
                thread.derived = False
        thread.backward += 1
        try:
            return original(given, *args, **kwargs)
        finally:
            thread.backward -= 1
            if outermost:
                with self._backward_guard:
                    self._edits.backward_ended()

    def _about_backward(
        self, loss: Any, frame: FrameType | None, again: bool, weighted: bool
    ) -> None:
        """Tell of a backward pass; where it is to be derived `again`, it is part of a forward pass.

        Where it is `weighted`, the gradient of the loss is given, and not one.
        """
        scalers: tuple[Ref, ...] | None = None
        found, made = self._marked(loss)
        if found or not (weighted or self.scalers.by_hand or maybe_scaled(loss)):
            scalers = found
        thread = self._watch.thread
        entered = thread.entered[-1] if thread.entered else None  # a library's own is no mistake
        within = entered is not None and not again and not may_repeat(frame, entered.stack)
        self._tell.feed(
            Backward,
            frame,
            loss=self._tell.ref(loss, frame),
            scalers=scalers,
            made_in=None if made is None or self.scalers.done_without else made.region,
            inside=self._watch.region if within else None,
            entry=None if entered is None else entered.number,
        )
        if made is not None and made.keeps and thread.regions and made.entry == thread.entries:
            self._tell.feed(RegionBackward, frame, entry=made.entry, region=made.outermost)

    def _marked(self, loss: Any) -> tuple[tuple[Ref, ...], Made | None]:
        """The scalers that have scaled a loss, and where it was made.

        It is not searched for more scalers than there are that have scaled anything.
        """
        scalers, marks, node = self.scalers.used, self._watch.marks, loss.grad_fn
        if not marks and scalers == 1 and node is not None and SCALED_BY in node.metadata:
            return (node.metadata[SCALED_BY],), None
        found: set[Ref] = set()
        made: Made | None = None
        if scalers or marks:
            for mark in marks_behind(node):
                if SCALED_BY in mark:
                    found.add(mark[SCALED_BY])
                if made is None and MADE_IN in mark:
                    made = mark[MADE_IN]
                if len(found) == scalers and (made is not None or not marks):
                    break
        return tuple(sorted(found, key=_key)), made

    def _copies_forgotten(self, original: Any) -> None:
        original()
        if self._watch.thread.regions:
            with self._watch.guard("clear_autocast_cache"):
                if not unwatched():
                    self._tell.feed(CastCacheCleared, user_frame())

    def _cross_entropy(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        with self._loss_guard:
            if not unwatched() and args:
                got = activation(getattr(args[0], "grad_fn", None))
                through = sys._getframe(3).f_code.co_filename  # who called functional.cross_entropy
                name = "CrossEntropyLoss" if through.endswith("loss.py") else "cross_entropy"
                frame = user_frame()
                self._tell.feed(LossComputed, frame, loss=name, wants="logits", got=got)
        return original(*args, **kwargs)

    def _zero_grad(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(owner, *args, **kwargs)
        with self._zero_guard:
            self._progress.over()
            if not unwatched():
                frame = user_frame()
                ours = None if isinstance(owner, torch.nn.Module) else self._tell.ref(owner, frame)
                to_none = args[0] if args else kwargs.get("set_to_none", True)
                self._tell.feed(GradientsZeroed, frame, optimizer=ours, to_none=bool(to_none))
                self._edits.touched(None if ours is None else [owner])
        return result

    def _clip(self, original: Any, parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, torch.Tensor):
            parameters = list(parameters)  # it may be a generator, which can be read only once
        with self._watch.guard("clip_grad"):
            limit = args[0] if args else kwargs.get("max_norm", kwargs.get("clip_value"))
            only_read = limit == math.inf  # the norm is asked for, and nothing is clipped
            if not unwatched() and not self.scalers.by_hand and not only_read:
                ids, frame = {id(each) for each in tensors_in(parameters)}, user_frame()
                owners = tuple(
                    self._tell.ref(optimizer, frame)
                    for optimizer in self._edits.optimizers()
                    if any(id(each) in ids for each in _parameters(optimizer))
                )
                if owners:  # others are divided by nobody
                    how = original.__name__
                    self._tell.feed(GradientsClipped, frame, how=how, optimizers=owners)
            ours = [each for each in self._edits.optimizers() if not self._edits.edited(each)]
        result = original(parameters, *args, **kwargs)
        with self._watch.guard("clip_grad"):
            self._edits.touched(ours)
        return result

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if unwatched():
            return
        thread = self._watch.thread
        with self._step_guard:
            if not thread.stepping and not thread.optimizer:
                frame = user_frame()
                self._tell.feed(
                    OptimizerStep,
                    frame,
                    optimizer=self._tell.ref(optimizer, frame),
                    apart=self._edits.apart(optimizer),
                    edited=self.scalers.by_hand or self._edits.edited(optimizer),
                )
            if thread.unscaled is not None:
                self.scalers.unscaled(thread)
            self._edits.stepped(optimizer, built=True)
            if thread.regions and not thread.optimizer and _cast_when_used(optimizer):
                self._tell.feed(RegionStep, user_frame(), entry=thread.entries)
            thread.optimizer.append(id(optimizer))
            self._watch.index(optimizer)
            fused = getattr(optimizer, "grad_scale", None) is not None  # it divides itself
            self._watch.before_step(optimizer, not fused)

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if unwatched():
            return
        thread = self._watch.thread
        if id(optimizer) in thread.optimizer:
            del thread.optimizer[thread.optimizer.index(id(optimizer)) :]
        if not thread.stepping and not thread.optimizer:
            with self._step_guard:
                index = self._watch.index(optimizer)
                step = self._watch.tracer.attempted(index)
                if not step:
                    after = self._made_after.drop(optimizer)
                    self._watch.tracer.stepped(index, frame_span(user_frame()), after)
                    self._stepped += 1
                self._progress.over()
                self._watch.settled(index, step, True, None)


def _how(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a backward pass is to be derived again, and whether the gradient of the loss is given.

    `args` are those behind the loss.
    """
    again = bool(kwargs.get("create_graph") or any(args[2:3]))
    given = (*args[:1], kwargs.get("gradient"), kwargs.get("grad_tensors"))
    return again, any(each is not None for each in given)


def _key(ref: Ref) -> str:
    return str(ref.key)


def _parameters(optimizer: Any) -> Iterable[Any]:
    return (each for group in optimizer.param_groups for each in group["params"])


def _cast_when_used(optimizer: Any) -> bool:
    """Whether an optimizer changes weights of which autocast keeps copies."""
    return any(each.dtype is torch.float32 for each in _parameters(optimizer))
