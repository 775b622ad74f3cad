"""`torch.device` where the CPU stands in for GPUs: a number alone names a GPU there.

Torch itself has no accelerator then and refuses the number, which is what `device_map="auto"` comes to.
"""

from __future__ import annotations

import copyreg
from typing import Any

import torch

from mpaudit.runtime.torch.patch import Patches
from mpaudit.runtime.torch.place import is_device

_torchs = torch.device


class _Class(type):
    """The type of the class in the place of torch's: devices are of both, and it equals that one."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("device")
        if type(given) is int and given >= 0 and len(args) + len(kwargs) == 1:
            return _torchs("cuda", given)
        return _torchs(*args, **kwargs)

    def __instancecheck__(cls, value: object) -> bool:
        return is_device(value)

    def __subclasscheck__(cls, other: type) -> bool:
        return other is cls or issubclass(other, _torchs)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is _torchs

    def __hash__(cls) -> int:
        return hash(_torchs)


def number_gpus(patches: Patches) -> None:
    """Have `torch.device(0)` name the first GPU."""
    attributes = {"__module__": "torch", "__doc__": _torchs.__doc__, "__slots__": ()}
    made = _Class("device", (), attributes)
    patches.set(torch, "device", made)
    patches.known_to_torchscript(_torchs, made)
    before = copyreg.dispatch_table.get(_torchs)  # what is pickled is found by its name
    copyreg.pickle(_torchs, lambda device: (made, device.__reduce__()[1]))

    def undo() -> None:
        if before is None:
            copyreg.dispatch_table.pop(_torchs, None)
        else:
            copyreg.dispatch_table[_torchs] = before

    patches.also(undo)
