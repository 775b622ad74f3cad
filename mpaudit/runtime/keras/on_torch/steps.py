"""How a Keras script trains on torch: every attempt to step, and the gradients that come to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from mpaudit.event import GradientsApplied, LossScaled, Ref, TapeGradient
from mpaudit.finding import Span
from mpaudit.runtime.frame import spelling, user_frame
from mpaudit.runtime.keras.built import Built
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.on_torch.layers import Layers
from mpaudit.runtime.keras.optimizer import Optimizers
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import place
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.watch import Watch


class _Backward(NamedTuple):
    """A backward pass: `scaled_by` is None where it is not known what was multiplied."""

    at: Span
    loss: Ref
    scaled_by: tuple[Ref, ...] | None


class _Thread(threading.local):
    def __init__(self) -> None:
        self.inside = False  # of an attempt
        self.backward: _Backward | None = None  # the last one, if no attempt came after it


class Steps:
    """Wraps what applies gradients and what scales losses, of a Keras whose tensors are torch's."""

    def __init__(
        self,
        patches: Patches,
        watch: Watch,
        family: Family,
        layers: Layers,
        built: Built,
        narration: Narration,
    ) -> None:
        self._patches = patches
        self._watch = watch
        self._family = family
        self._layers = layers
        self._built = built
        self._narration = narration
        self._optimizers = Optimizers(patches, narration)
        self._scaled = Known()  # a scaled loss -> by which optimizers
        self._thread = _Thread()
        self._optimizers.follow(family)
        for kind in (*family.plain, *family.scaling):
            watch.patches.wrap(kind, family.apply, self._apply)
            watch.patches.wrap(kind, family.scale_loss, self._scale_loss)
        watch.backward = self._backward

    def _scale_loss(self, original: Call, optimizer: Any, loss: Any) -> Any:
        result = original(optimizer, loss)
        with self._patches.guarded("scale_loss"):
            at = place(self._family.scale_loss)
            if isinstance(result, torch.Tensor) and self._family.scales(optimizer):
                ref = self._optimizers.ref(optimizer)
                self._scaled.set(result, (*(self._scaled.get(loss) or ()), ref))
                self._watch.scaled = True
                self._watch.scaled_loss(loss, result)
                if at is not None:
                    before, after = Ref(("loss", at), "loss"), Ref(("scaled", at), "scaled loss")
                    self._narration.tell(LossScaled(at=at, scaler=ref, loss=before, result=after))
        return result

    def _backward(self, losses: Sequence[Any]) -> None:
        at = place("backward")
        if at is None or not losses:
            return
        found = [ref for loss in losses for ref in self._scaled.get(loss) or ()]
        by_hand = any(_multiplied(loss) for loss in losses) and not found
        text = spelling(losses[0], user_frame())
        known = None if by_hand else tuple(dict.fromkeys(found))
        self._thread.backward = _Backward(at, Ref(("loss", at), text), known)

    def _apply(self, original: Call, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if self._thread.inside:  # of the inner optimizer, or through super()
            return original(optimizer, *args, **kwargs)
        before: Any = None
        with self._patches.guarded("optimizer"):
            args, kwargs = self._family.listed(args, kwargs)
            grads, variables = self._family.pairs(optimizer, (args, kwargs))
            before = self._before(optimizer, grads, variables)
        self._thread.inside = True
        thread, scaled = self._watch.thread, before is not None and before[0] is not None
        thread.stepping += scaled
        try:
            result = original(optimizer, *args, **kwargs)
        finally:
            thread.stepping -= scaled
            self._thread.inside = False
            with self._patches.guarded("optimizer step"):
                self._layers.attempted()
        if before is not None:
            with self._patches.guarded("optimizer step"):
                self._settle(optimizer, *before)
                self._watch.ended()
        return result

    def _before(
        self, optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Loss scale, progress and gradients before an attempt."""
        pairs = list(zip(variables, grads, strict=False))
        self._narrate(optimizer, pairs)
        scale = self._family.scale(optimizer)
        if isinstance(scale, torch.Tensor):
            scale = scale.clone()
        self._layers.attempt(optimizer, pairs)
        thread = self._watch.thread
        thread.stepping += scale is not None
        try:
            self._watch.before_step(optimizer, scale is None)
        finally:
            thread.stepping -= scale is not None
        return scale, self._family.progress(optimizer), pairs

    def _settle(self, optimizer: Any, scale: Any, progress: Any, pairs: Sequence[Any]) -> None:
        """Record how the attempt ended; on a GPU that is read later, without waiting."""
        watch = self._watch
        index = watch.index(optimizer)
        step = watch.tracer.attempted(index)
        if (at := place("apply_gradients", "apply", "fit", "train_on_batch")) is not None:
            watch.tracer.stepped(index, at)
        if watch.compiles:  # `jit_compile`: layers are called in compiled code, where nobody looks
            watch.tracer.note("compiled", True)
        applied = self._family.applied(optimizer, progress, self._family.progress(optimizer))
        self._layers.attempt(optimizer, pairs)
        if applied.device.type == "cpu":
            done = bool(applied.tolist())
            in_force = scale.tolist() if isinstance(scale, torch.Tensor) else scale
            if scale is not None:
                watch.attempted(optimizer, step, done)
            if not done:
                watch.skipped(optimizer, step)
            watch.settled(index, step, done, in_force)
        else:
            if scale is not None:
                watch.attempted(optimizer, step, None)
            self._settle_later(index, step, scale, applied)
        self._layers.attempted()
        watch.tracer.flush_if_due()

    def _settle_later(self, index: int, step: int, scale: Any, applied: Any) -> None:
        in_force = torch.as_tensor(0.0 if scale is None else scale, device=applied.device)
        row = torch.stack([applied.to(torch.float32), in_force.to(torch.float32)])
        self._watch.numbers.later(
            row,
            lambda row: self._watch.settled(
                index, step, bool(row[0]), None if scale is None else row[1]
            ),
        )

    def _narrate(self, optimizer: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Gradients go to an optimizer: the end of an iteration."""
        taken, self._thread.backward = self._thread.backward, None
        at = place("apply_gradients", "apply")
        if at is None:
            return
        given = [each for each in pairs if each[1] is not None]
        own = all(gradient is self._family.value(each).grad for each, gradient in given)
        gradients = None
        if taken is not None and own:
            gradients = Ref(("gradients", taken.at), "gradients")
            owners = [self._built.owner(variable) for variable, _ in given]
            models = list(dict.fromkeys(ref for ref in owners if ref is not None))
            self._narration.tell(
                TapeGradient(
                    at=taken.at,
                    loss=taken.loss,
                    gradients=gradients,
                    model=models[0] if models else None,
                    others=tuple(models[1:]),
                    scaled_by=taken.scaled_by,
                )
            )
        self._narration.tell(
            GradientsApplied(
                at=at,
                optimizer=self._optimizers.ref(optimizer),
                scales=self._family.scales(optimizer),
                gradients=gradients,
                made=self._optimizers.made(optimizer),
                keras=self._family.number,
            )
        )
        watch = self._watch
        self._narration.ended(lambda: watch.tracer.step(watch.index(optimizer)))


def _multiplied(loss: Any) -> bool:
    """Whether the last thing that was done to a loss is what scaling by hand is."""
    node = getattr(loss, "grad_fn", None)
    return node is not None and node.name() in ("MulBackward0", "DivBackward0")
