"""How a Keras script trains: losses, tapes and optimizers, as the events that the protocols know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from mpaudit.event import (
    GradientsApplied,
    LossScaled,
    Ref,
    TapeGradient,
    TapeGradientsUnscaled,
)
from mpaudit.finding import Span
from mpaudit.runtime.frame import spelling
from mpaudit.runtime.keras.built import Built
from mpaudit.runtime.keras.clips import Clips
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.layers import Layers, recording
from mpaudit.runtime.keras.loss import Losses
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.nature import Mark
from mpaudit.runtime.keras.optimizer import Optimizers
from mpaudit.runtime.keras.output import Outputs, take
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import innermost, place
from mpaudit.runtime.keras.steps import Steps
from mpaudit.runtime.keras.tagged import GRADIENTS, SCALED, SCALINGS, UNSCALED, gradients, tag


class Events:
    """Watches losses, tapes and optimizers, and narrates what they do."""

    def __init__(
        self,
        patches: Patches,
        layers: Layers,
        built: Built,
        steps: Steps,
        narration: Narration,
        outputs: Outputs,
    ) -> None:
        self._patches = patches
        self._outputs = outputs
        self._tracer = patches.tracer
        self._layers = layers
        self._built = built
        self._steps = steps
        self._narration = narration
        self._losses = Losses(patches, narration, recording, take=take)
        self._optimizers = Optimizers(patches, narration)
        self._clips = Clips(patches, narration)
        self._scalings = 0
        self._open = set[int]()  # scalings whose result no gradient was taken of yet

    def install(self) -> None:
        """Watch tapes, and what clips their gradients, from now on."""
        self._patches.wrap(tf.GradientTape, "gradient", self._around_gradient)
        self._clips.install()

    def follow(self, family: Family) -> None:
        """Watch losses and optimizers of one Keras from now on."""
        wrap = self._patches.wrap
        self._losses.follow(family)
        self._optimizers.follow(family)
        for kind in (*family.plain, *family.scaling):
            if hasattr(kind, family.scale_loss):
                wrap(kind, family.scale_loss, partial(self._around_scale, family))
        if family.unscale is not None:
            for kind in family.scaling:
                wrap(kind, family.unscale, partial(self._around_unscale, family.unscale))

    def _around_scale(self, family: Family, original: Call) -> Call:
        def scale_loss(optimizer: Any, loss: Any) -> Any:
            result = original(optimizer, loss)
            with self._patches.guarded(family.scale_loss):
                at, scales = place(family.scale_loss), family.scales(optimizer)
                self._steps.scaled |= scales
                if scales and at is not None:
                    self._scalings += 1
                    self._open.add(self._scalings)
                    tag(result, SCALINGS, (*getattr(loss, SCALINGS, ()), self._scalings))
                    tag(result, UNSCALED, loss)
                    ref = self._optimizers.ref(optimizer)
                    tag(result, SCALED, (*getattr(loss, SCALED, ()), ref))
                    before, after = Ref(("loss", at), "loss"), Ref(("scaled", at), "scaled loss")
                    self._narration.tell(LossScaled(at=at, scaler=ref, loss=before, result=after))
            return result

        return scale_loss

    def _around_unscale(self, name: str, original: Call) -> Call:
        def unscale(optimizer: Any, grads: Any) -> Any:
            grads = list(grads)
            result = original(optimizer, grads)
            with self._patches.guarded(name):
                at, before = place(name), gradients(grads)
                if at is not None and before is not None:
                    after = Ref(("unscaled", at, before.key), "gradients")
                    for each in result:
                        tag(each, GRADIENTS, after)
                    ref = self._optimizers.ref(optimizer)
                    self._narration.tell(
                        TapeGradientsUnscaled(at=at, optimizer=ref, gradients=before, result=after)
                    )
            return result

        return unscale

    def _around_gradient(self, original: Call) -> Call:
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            before = self._outputs.taking()
            outputs: list[Mark] = []
            try:
                result = original(tape, target, sources, *args, **kwargs)
            finally:
                outputs = self._outputs.taken(before)
            with self._patches.guarded("tape.gradient"):
                at, unscaled = place("gradient"), getattr(target, UNSCALED, target)
                self._steps.taken(unscaled, at, scaled=unscaled is not target)
                if at is not None:
                    self._taken(at, target, sources, result, outputs)
            return result

        return gradient

    def _taken(
        self, at: Span, target: Any, sources: Any, result: Any, outputs: Sequence[Mark]
    ) -> None:
        taken = Ref(("gradients", at), "gradients")
        for each in tf.nest.flatten(result):
            tag(each, GRADIENTS, taken)
        targets = tf.nest.flatten(target)
        marks = [ref for each in targets for ref in getattr(each, SCALED, ())]
        owners = [self._built.owner(each) for each in tf.nest.flatten(sources)]
        models = list(dict.fromkeys(ref for ref in owners if ref is not None))
        scaled_by = tuple(marks if len(targets) == 1 else dict.fromkeys(marks))
        self._open.difference_update(n for each in targets for n in getattr(each, SCALINGS, ()))
        known = marks or not self._open  # what was scaled and never seen again may be in it
        loss = Ref(("loss", at), spelling(target, innermost()))
        if models:  # of anything but parameters there may be a penalty, and no loss
            for mark in outputs:
                self._losses.by_hand(at, mark)
        self._narration.tell(
            TapeGradient(
                at=at,
                loss=loss,
                gradients=taken,
                model=models[0] if models else None,
                others=tuple(models[1:]),
                scaled_by=scaled_by if known else None,
            )
        )

    def applied(
        self, family: Family, optimizer: Any, grads: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        """Gradients go to an optimizer: the end of an iteration."""
        scales, unscaled = family.scales(optimizer), family.unscaled(optimizer)
        pairs = zip(grads, variables, strict=False)
        self._layers.gradients_of(pairs, measured=scales, unscaled=unscaled)
        at = place("apply_gradients", "apply")
        if at is None:
            return
        self._narration.tell(
            GradientsApplied(
                at=at,
                optimizer=self._optimizers.ref(optimizer),
                scales=scales,
                gradients=gradients(grads),
                made=self._optimizers.made(optimizer),
                keras=family.number,
            )
        )
        self._narration.ended(lambda: self._steps.attempts(optimizer))
