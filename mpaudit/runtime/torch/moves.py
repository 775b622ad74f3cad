"""Tensors and modules that a script moves between the CPU and GPUs, where the CPU stands in for those.

What a GPU's memory would make a copy of is one here too: weights that were kept with `.cpu()` stay what
they were, and a batch that is changed on the GPU leaves the data set alone. Where a GPU would give the
same tensor, this does. The graph gets the nodes that it would get there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import rnn
from torch.utils import data
from torch.utils.data import _utils, dataloader

from mpaudit.runtime.frame import asking
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.place import HOST, Places, is_cuda, is_host
from mpaudit.runtime.torch.watch import Watch

_CARRYING = ("torch.nn.modules.module", "torch.nn.utils.rnn")
"""Modules of torch that move tensors where the script says; others go by the device of another one,
and are told that it is the CPU."""
_CPU = torch.device("cpu")
_device, _dtype = torch.device, torch.dtype


def torchs_own() -> bool:
    """Whether code of torch itself has called, for a reason of its own."""
    name = asking()
    return name.partition(".")[0] == "torch" and name not in _CARRYING


class Moves:
    """Follows `.to`, `.cuda`, `.cpu` and the like; `used` is told that the script uses a GPU."""

    def __init__(self, watch: Watch, places: Places, used: Callable[[], None]) -> None:
        self._watch = watch
        self._places = places
        self._used = used
        self._copy = torch.Tensor.to  # torch's own
        self._pinning = Known()  # loaders, and what they are iterated by, that pin memory
        wrap = watch.patches.wrap
        wrap(torch.Tensor, "to", self._to)
        wrap(torch.Tensor, "cuda", self._cuda)
        wrap(torch.Tensor, "cpu", self._cpu)
        wrap(torch.Tensor, "type", self._typed)
        wrap(torch.Tensor, "numpy", self._numpy)
        wrap(torch.Tensor, "pin_memory", self._pinned)
        lazy = torch.nn.parameter.UninitializedTensorMixin._allowed_methods
        moves = [torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu]
        lazy.extend(moves)
        watch.patches.also(lambda: [lazy.remove(each) for each in moves])
        # Its own method asks where it is, and is told that it is on the CPU.
        wrap(rnn.PackedSequence, "cpu", lambda _, packed, **given: packed.to("cpu", **given))
        wrap(torch.nn.Module, "to", self._module_to)
        wrap(torch.nn.Module, "cuda", self._module_cuda)
        wrap(torch.nn.Module, "__setstate__", self._restored)
        wrap(data.DataLoader, "__init__", self._loader)
        wrap(dataloader._BaseDataLoaderIter, "__init__", self._iterated)
        wrap(dataloader._BaseDataLoaderIter, "__next__", self._next)

    def sent(self, device: Any) -> int:
        """The script has something on a GPU; returns which one `device` names."""
        self._used()
        self._places.sent()
        return self._places.index(device)

    def held(self, given: Any, made: torch.Tensor, place: int) -> torch.Tensor:
        """What was `made` at a place of what was `given` there: on its way it was copied."""
        if isinstance(given, torch.Tensor):
            shared = made is given or (made.is_cpu and made.data_ptr() == given.data_ptr())
            if shared and self._places.copies(given, place):
                made = self._copy(made, _CPU, copy=True)
        elif place != HOST:
            made = self._copy(made, _CPU, copy=True)
        return made

    def _to(self, original: Callable[..., Any], tensor: Any, /, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("device")
        if first is None and "tensor" in kwargs:
            first = kwargs["tensor"]
        if first is None or type(first) is _dtype:
            return original(tensor, *args, **kwargs)
        if type(first) is _device and first.type == "cpu" and not self._places.used:
            return original(tensor, *args, **kwargs)
        place: int | None = None
        options = 2  # what may stand in front of `copy`
        if isinstance(first, torch.Tensor):
            place = self._places.of(first)
        elif is_cuda(first):
            options, place = 3, self.sent(first)
            if args:
                args = (_CPU, *args[1:])
            else:
                kwargs["device"] = _CPU
        elif is_host(first) and self._places.used and not torchs_own():
            options, place = 3, HOST
        if place is None:
            return original(tensor, *args, **kwargs)
        if self._places.copies(tensor, place):
            args, kwargs = args[:options], {**kwargs, "copy": True}
        return self._arrived(original(tensor, *args, **kwargs), place)

    def _arrived(self, tensor: Any, place: int) -> Any:
        if isinstance(tensor, torch.nn.Parameter):
            self._watch.cuda_made |= place != HOST
        self._places.put(tensor, place)
        return tensor

    def _cuda(
        self, _: Callable[..., Any], tensor: Any, device: Any = None, *__: Any, **kwargs: Any
    ) -> Any:
        place = self.sent(device)
        if self._places.copies(tensor, place):
            tensor = self._copy(tensor, _CPU, **{**kwargs, "copy": True})
        return self._arrived(tensor, place)

    def _cpu(self, original: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._places.used or torchs_own():
            return original(tensor, *args, **kwargs)
        if self._places.copies(tensor, HOST):
            tensor = self._copy(tensor, _CPU, copy=True, **kwargs)
        return self._arrived(tensor, HOST)

    def _typed(self, original: Callable[..., Any], tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not (args and isinstance(args[0], str) and args[0].startswith("torch.cuda.")):
            return original(tensor, *args, **kwargs)
        place = self.sent(None)
        made = original(tensor, args[0].replace("torch.cuda.", "torch."), *args[1:], **kwargs)
        return self._arrived(self.held(tensor, made, place), place)

    def _numpy(self, original: Callable[..., Any], tensor: Any, **kwargs: Any) -> Any:
        forced = kwargs.get("force") and self._places.used and not torchs_own()
        if forced and self._places.copies(tensor, HOST):
            tensor = self._copy(tensor.detach(), _CPU, copy=True)
        return original(tensor, **kwargs)

    def _pinned(self, _: Callable[..., Any], tensor: Any, *__: Any) -> Any:
        """Memory that is pinned is other memory; no device is here that it could be pinned for."""
        if tensor.requires_grad:
            return tensor
        pinned = tensor.clone()
        self._places.put(pinned, HOST)
        return pinned

    def _module_to(
        self, original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if args and is_cuda(args[0]):
            args = (torch.device("cuda", self.sent(args[0])), *args[1:])
        elif is_cuda(kwargs.get("device")):
            kwargs["device"] = torch.device("cuda", self.sent(kwargs["device"]))
        return original(owner, *args, **kwargs)

    def _module_cuda(self, original: Callable[..., Any], owner: Any, device: Any = None) -> Any:
        self.sent(device)
        return original(owner, device)

    def _restored(self, original: Callable[..., Any], module: Any, state: Any) -> None:
        """A module is a copy, or comes from a file: where it is nobody said."""
        original(module, state)
        with self._watch.guard("Module.__setstate__"):
            for parameter in module._parameters.values():
                if parameter is not None:
                    self._watch.restored.set(parameter, True)

    def _loader(self, original: Callable[..., Any], loader: Any, *args: Any, **kwargs: Any) -> None:
        asked = args[7] if len(args) > 7 else kwargs.get("pin_memory")
        if len(args) > 7:
            args = (*args[:7], False, *args[8:])
        else:
            kwargs["pin_memory"] = False
        original(loader, *args, **kwargs)
        if asked:
            self._pinning.set(loader, True)

    def _iterated(self, original: Callable[..., Any], batches: Any, loader: Any) -> None:
        original(batches, loader)
        if self._pinning.get(loader):
            self._pinning.set(batches, True)

    def _next(self, original: Callable[..., Any], batches: Any) -> Any:
        batch = original(batches)
        return _utils.pin_memory.pin_memory(batch) if self._pinning.get(batches) else batch
