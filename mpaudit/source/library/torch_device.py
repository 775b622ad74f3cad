"""Devices: the type ("cuda") that a string or a `torch.device` names."""

from __future__ import annotations

from collections.abc import Callable

from mpaudit.source.values import NONE, Choice, Const, Value


def device_type(device: Value | None) -> Value:
    """The type of a device that is given as a string, NONE where it is not known."""
    if isinstance(device, Choice):
        return decided(device, device_type)
    if isinstance(device, Const) and isinstance(device.value, str):
        return Const(device.value.partition(":")[0])
    return NONE


def decided(value: Value, answer: Callable[[Value], Value]) -> Value:
    """The answer for a value, for each side of a Choice where it is one."""
    if not isinstance(value, Choice):
        return answer(value)
    return Choice(value.condition, decided(value.yes, answer), decided(value.no, answer))
