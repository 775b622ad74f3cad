"""Keras 3 on torch: what the torch probe is told, and what only Keras knows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mpaudit.runtime.advice import Advice
from mpaudit.runtime.keras.built import Built
from mpaudit.runtime.keras.casts import Casts
from mpaudit.runtime.keras.loss import Losses
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.on_torch.family import Keras3OnTorch
from mpaudit.runtime.keras.on_torch.layers import Layers, Sizes
from mpaudit.runtime.keras.on_torch.steps import Steps
from mpaudit.runtime.keras.patch import Patches
from mpaudit.runtime.keras.register import Register
from mpaudit.runtime.keras.remedy import Remedy
from mpaudit.runtime.torch.watch import Watch


def follow(watch: Watch, remedy: Advice | None = None) -> Callable[[], None]:
    """Have the torch probe `watch` Keras, with a `remedy` put into effect; what comes back ends it."""
    tracer, family = watch.tracer, Keras3OnTorch()
    watch.framework = "keras"
    versions = tracer.fact("versions") or {}
    tracer.note("versions", {**versions, family.name: family.version})
    patches, register, narration = (
        Patches(tracer, torch.compiler.is_compiling),
        Register(),
        Narration(tracer),
    )
    # Wrapped casts, which are in every layer, have torch compile in other parts, with other rounding.
    around_casts = Patches(tracer, torch.compiler.is_compiling)
    watch.on_compile.append(around_casts.restore)
    casts = Casts(patches, Sizes())
    casts.follow(family, around_casts)
    layers = Layers(patches, register, family, watch, casts)
    built = Built(patches, register, narration, layers.mark)
    layers.on_call = built.called
    built.follow(family)
    Losses(patches, narration, torch.is_grad_enabled, layers.mark).follow(family)
    Steps(patches, watch, family, layers, built, narration)
    if remedy is not None:  # last: the others are to see what it changes
        Remedy(remedy, patches, register).follow(family)
    tracer.draining += [narration.drain, casts.drain]
    settled = watch.after_step

    def over(index: int, step: int, applied: bool | None, scaled: bool, checked: bool) -> list[str]:
        casts.over()
        return settled(index, step, applied, scaled, checked)

    watch.after_step = over
    watch.own.foreign = layers

    def end() -> None:
        for drain in (narration.drain, casts.drain):
            drain()
            tracer.draining.remove(drain)
        around_casts.restore()
        patches.restore()

    return end
