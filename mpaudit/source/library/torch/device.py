"""Devices: the type ("cuda") that a string or a `torch.device` names."""

from __future__ import annotations

from collections.abc import Callable

from mpaudit.source.engine.path import Path
from mpaudit.source.engine.values import NONE, Choice, Const, Thing, Value


def device_type(device: Value | None, path: Path) -> Value:
    """The type of a device that is given as a string, NONE where it is not known."""
    if isinstance(device, Choice):
        return decided(device, lambda one: device_type(one, path))
    if isinstance(device, Thing):  # f"cuda:{rank}"
        device = path.known(device, "@begins")
        if not isinstance(device, Const) or ":" not in str(device.value):
            return NONE
    if isinstance(device, Const) and isinstance(device.value, str):
        return Const(device.value.partition(":")[0])
    return NONE


def decided(value: Value, answer: Callable[[Value], Value]) -> Value:
    """The answer for a value, for each side of a Choice where it is one."""
    if not isinstance(value, Choice):
        return answer(value)
    return Choice(value.condition, decided(value.yes, answer), decided(value.no, answer))
