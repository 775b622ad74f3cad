"""The autocast region that Lightning itself enters around the steps of a module.

With precision "16-mixed" and "bf16-mixed", `training_step`, `validation_step` and their kin run in it, and
`manual_backward` with them. It keeps no cast copies of weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from mpaudit.source.engine.values import FALSE, NONE, TRUE, Const, Function, Thing, Value
from mpaudit.source.library.torch.device import decided
from mpaudit.source.library.trainers.lightning_names import chosen, option

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

AUTOCAST = ("float16", "bfloat16")
"""Precisions that cast operation by operation; the "true" ones convert the module instead."""
CUDA = ("auto", "gpu", "cuda")
_ELSEWHERE = ("tpu_cores", "ipus", "hpus", "num_processes")


def device(call: Call) -> Value:
    """What a Trainer trains on, as the type of torch's device; NONE where that is not known.

    Left to itself it takes the GPU, if there is one.
    """
    if any(option(call, name) != NONE for name in _ELSEWHERE):
        return NONE
    given = option(call, "accelerator")
    return Const("cuda") if given == NONE else decided(given, _type)


def _type(value: Value) -> Value:
    if not isinstance(value, Const):
        return NONE
    return Const("cuda") if value.value in CUDA else NONE


def within(call: Call, model: Thing, step: Function) -> Function:
    """A step of a module as Lightning runs it: in a region, where the precision asks for one."""
    path, trainer = call.path, call.path.known(model, "@trainer")
    dtype, place = chosen(call, model), None
    if isinstance(trainer, Thing):
        place = call.engine.places.get(trainer.uid)
    if dtype not in AUTOCAST or place is None:
        return step
    assert isinstance(trainer, Thing)
    number = call.engine.identities.number("region of", trainer)
    region = Thing(number, "autocast", trainer.since)
    path.learn(region, owned=trainer, enabled=TRUE, cache=FALSE, dtype=Const(dtype))
    path.learn(region, device=path.known(trainer, "@runs_on") or NONE)
    call.engine.places[region.uid] = place
    return replace(step, decorators=(*step.decorators, region))
