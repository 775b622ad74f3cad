"""Models called in one region without gradients and with them, under a torch that mixes both up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import CachingForward
from mpaudit.source.engine.site import unrecorded
from mpaudit.source.engine.torch_version import torch_of
from mpaudit.source.library.torch.layers import multiplies
from mpaudit.source.library.torch.region import caches, compiled, entry

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call
    from mpaudit.source.engine.values import Thing

MENDED = (2, 10)
"""The first (major, minor) of torch released after the copies were made with gradients always."""


def caching_forward(call: Call, model: Thing) -> None:
    """Tell of `model(x)` in a region that keeps the weights it casts."""
    path, engine = call.path, call.engine
    around = entry(call)
    region = engine.region(path)
    if around is None or region is None or not caches(call, region) or compiled(call):
        return
    if path.known(model, "@param_dtype") is not None or not multiplies(model, engine, path):
        return
    floor = torch_of(path.frame.module).floor
    described = engine.describe(path.regions[0], path)
    if described is None or (floor is not None and floor >= MENDED):
        return
    call.emit(
        CachingForward(
            at=call.span,
            occasional=call.occasional,
            model=call.ref(model, call.node.func),
            entry=around,
            region=described,
            gradients=not unrecorded(call.sites),
        )
    )
