"""Whether a file may change the dtype that `torch.autocast` takes when it is told none."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.api.deprecated import DEPRECATED
from mpaudit.source.text.argument import given
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

DEFAULT = {"cuda": ("float16", "half"), "cpu": ("bfloat16",)}
"""The dtype that a fresh process uses on each device, by all its names in `torch`."""

_AUTOCAST = frozenset({"torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast"})


def devices_with_another_dtype(module: Module) -> set[str]:
    """The devices whose autocast dtype is not the default everywhere in `module`, as far as seen.

    A region with a dtype changes the default for the regions inside it, `set_autocast_dtype` for
    all.
    """
    names = Names.of(module)
    found: set[str] = set()
    for call in module.every(ast.Call):
        name = names.resolve(call.func) or ""
        api = DEPRECATED.get(name)
        if name.startswith("torch.set_autocast_") and name.endswith("dtype"):
            found.update([api.device] if api else DEFAULT)
        elif api and api.is_autocast:
            found.update(_differing(given(call, "dtype", api.parameters), [api.device], names))
        elif name in _AUTOCAST:
            device = given(call, "device_type", ("device_type",))
            known = device.value if isinstance(device, ast.Constant) else None
            devices = [known] if isinstance(known, str) else [*DEFAULT]
            found.update(_differing(given(call, "dtype", ("device_type", "dtype")), devices, names))
    return found


def _differing(dtype: ast.expr | None, devices: list[str], names: Names) -> list[str]:
    if dtype is None:
        return []
    meant = names.resolve(dtype)
    return [
        each for each in devices if meant not in {f"torch.{name}" for name in DEFAULT.get(each, ())}
    ]
