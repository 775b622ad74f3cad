"""Where tensors would be if there were a GPU: in the host's memory or on one of the GPUs.

What is known is kept for a tensor's memory, so that views of it, a `detach()` and a parameter that was
made of it are where it is. A script says it by what it makes and moves. Of what operations compute
nothing is known: once something is on a GPU, most of it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from mpaudit.runtime.torch.cuda import Chosen
from mpaudit.runtime.torch.patch import Patches

HOST = -1
"""The place of what is in the host's memory; those of GPUs are their indices."""
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_FEW = 128  # memories that are kept before those are dropped that are no more


_device = torch.device  # torch's own: another class may be in its place


def is_device(value: object) -> bool:
    """Whether something is a `torch.device`."""
    return isinstance(value, _device)


def is_cuda(device: object) -> bool:
    """Whether a device argument names a GPU ("cuda", "cuda:0", a torch.device, an index)."""
    if isinstance(device, _device):
        return str(device.type) == "cuda"
    if isinstance(device, str):
        return device.split(":")[0] == "cuda"
    return isinstance(device, int) and not isinstance(device, bool)


def is_host(device: object) -> bool:
    """Whether a device argument names the CPU."""
    if isinstance(device, _device):
        return str(device.type) == "cpu"
    return isinstance(device, str) and device.split(":")[0] == "cpu"


class Places:
    """Keeps where tensors would be, and has them say so.

    Torch's own code is answered with the truth, as it means to work with them. Loaders' processes,
    which are forked, are too: no GPU is used there.
    """

    def __init__(self, patches: Patches, chosen: Chosen) -> None:
        self.used = False  # something was sent to a GPU
        self._patches = patches
        self._chosen = chosen
        self._process = os.getpid()
        self._kept: dict[int, int] = {}  # the address of a memory that is held on to -> its place
        self._limit = _FEW
        patches.also(self._drop_all)

    def of(self, tensor: Any) -> int | None:
        """Where a tensor would be; None if that is not known."""
        memory = _memory(tensor)
        return None if memory is None else self._kept.get(memory._cdata)

    def put(self, tensor: Any, place: int) -> None:
        """A tensor would be at a place from now on."""
        memory = _memory(tensor)
        if memory is None:
            return
        address = memory._cdata
        if address not in self._kept:
            # The address is held on to, so that no other memory can have it. Torch's own object for
            # that takes three times as much as all else that is kept, for each weight of a model.
            memory._weak_ref()
        self._kept[address] = place
        if len(self._kept) > self._limit:
            for each in list(self._kept):
                if torch.UntypedStorage._expired(each):
                    self._drop(each)
            self._limit = max(_FEW, 2 * len(self._kept))

    def _drop(self, address: int) -> None:
        if self._kept.pop(address, None) is not None:  # no other thread has done it
            torch.UntypedStorage._free_weak_ref(address)

    def _drop_all(self) -> None:
        for each in list(self._kept):
            self._drop(each)

    def copies(self, tensor: Any, place: int) -> bool:
        """Whether a move there would copy.

        A leaf of which nothing is known stays what it is on its way to a GPU: its gradient has to
        come there, and a script that trains it can only have made it there.
        """
        known = self.of(tensor)
        if known is None:
            trained = tensor.requires_grad and torch.is_grad_enabled()
            return self.used and (place == HOST or not trained)
        return known != place

    def index(self, device: Any) -> int:
        """The place that a device argument names which `is_cuda`."""
        self._chosen.send(device)
        return self._chosen.last

    def sent(self) -> None:
        """Something is on a GPU: from here on tensors say so."""
        if self.used:
            return
        self.used = True
        told: dict[str, Callable[[Any, Any], Any]]
        told = {"device": self._device, "is_cuda": self._is_cuda}
        for name, answer in told.items():
            original = getattr(torch.Tensor, name)
            reading = property(partial(answer, original.__get__), doc=original.__doc__)
            self._patches.set(torch.Tensor, name, reading)
        self._patches.wrap(torch.Tensor, "get_device", self._get_device)

    def _device(self, was: Any, tensor: Any) -> Any:
        """What a tensor says where it is."""
        device = was(tensor)
        place = HOST if device.type != "cpu" else self._told(tensor)
        return device if place == HOST else torch.device("cuda", place)

    def _is_cuda(self, was: Any, tensor: Any) -> bool:
        return bool(was(tensor)) or (tensor.is_cpu and self._told(tensor) != HOST)

    def _get_device(self, original: Any, tensor: Any) -> int:
        return self._told(tensor) if tensor.is_cpu else int(original(tensor))

    def _told(self, tensor: Any) -> int:
        """The place that is told to whoever has asked."""
        frame = sys._getframe(1)
        while frame.f_globals.get("__name__") in _OWN and frame.f_back is not None:
            frame = frame.f_back
        reader = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if reader in ("torch", "mpaudit") or os.getpid() != self._process:
            return HOST
        place = self.of(tensor)
        return self._chosen.last if place is None else place


_OWN = (__name__, "mpaudit.runtime.torch.patch")


def _memory(tensor: Any) -> Any:
    """The memory of a tensor; None if it has none of its own (sparse, not initialised)."""
    try:
        if type(tensor) in _PLAIN and not torch._C._len_torch_function_stack():
            return tensor.untyped_storage()
        with torch._C.DisableTorchFunction():  # the user's own classes and modes see nothing of it
            return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):
        return None
