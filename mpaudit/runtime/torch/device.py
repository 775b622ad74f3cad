"""A script's cuda calls on a machine without CUDA: they run on the CPU, with CUDA's autocast.

`torch.device("cuda")` stays what it is, so that the script takes the same branches as on a GPU;
where a device is used (`.to`, `.cuda`, `device=`), the CPU takes its place. What the script asks of
the CPU itself is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import data
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils.checkpoint import DefaultDeviceType

from mpaudit.runtime.torch.casts import Casts
from mpaudit.runtime.torch.cuda import Chosen, answer_as_gpus
from mpaudit.runtime.torch.emulation import Emulation
from mpaudit.runtime.torch.policy import CudaPolicy
from mpaudit.runtime.torch.watch import Watch

_FACTORIES = """arange as_tensor asarray empty empty_like empty_strided eye full full_like linspace
logspace ones ones_like rand rand_like randint randint_like randn randn_like randperm range tensor
tril_indices triu_indices zeros zeros_like scalar_tensor normal frombuffer empty_permuted
empty_quantized sparse_coo_tensor sparse_csr_tensor sparse_csc_tensor sparse_bsr_tensor
sparse_bsc_tensor sparse_compressed_tensor bartlett_window blackman_window hamming_window hann_window
kaiser_window fft.fftfreq fft.rfftfreq nested.nested_tensor nested.as_nested_tensor"""
_METHODS = "new_empty new_full new_ones new_tensor new_zeros new_empty_strided"


def is_cuda(device: object) -> bool:
    """Whether a device argument names a GPU ("cuda", "cuda:0", a torch.device, an index)."""
    if isinstance(device, torch.device):
        return str(device.type) == "cuda"
    if isinstance(device, str):
        return device.split(":")[0] == "cuda"
    return isinstance(device, int) and not isinstance(device, bool)


class Remap:
    """Puts the CPU in the place of CUDA until the patches are undone."""

    def __init__(self, watch: Watch, casts: Casts, used: Callable[[], None]) -> None:
        self._watch = watch
        self._tell: Callable[[], None] | None = used  # told when the first cuda call is remapped
        self._policy = CudaPolicy(casts)
        watch.emulated = True
        watch.patches.also(self._policy.deactivate)
        self._tensors()
        self._factories()
        self._modules()
        self._distributed()
        self._chosen = Chosen()
        answer_as_gpus(watch.patches, self._chosen)
        self._emulation = Emulation(watch.patches, self._policy, self._used, self._chosen)

    def _moved(self, original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
        """`.to(...)` of a tensor or a module."""
        cuda = any(is_cuda(each) for each in (*args[:1], kwargs.get("device")))
        if cuda:
            self._used()
            self._chosen.send(next(filter(is_cuda, (*args[:1], kwargs.get("device")))))
            args = (torch.device("cpu"), *args[1:]) if args and is_cuda(args[0]) else args
            if is_cuda(kwargs.get("device")):
                kwargs["device"] = torch.device("cpu")
            self._mark(owner)
        return original(owner, *args, **kwargs)

    def _mark(self, owner: Any) -> None:
        self._emulation.sent()
        if isinstance(owner, torch.nn.Module):
            for parameter in owner.parameters():
                self._watch.on_cuda.set(parameter, True)
        elif isinstance(owner, torch.nn.Parameter):
            self._watch.cuda_made = True

    def _restored(self, original: Callable[..., Any], module: Any, state: Any) -> None:
        """A module is a copy, or comes from a file: where it is nobody said."""
        original(module, state)
        with self._watch.guard("Module.__setstate__"):
            for parameter in module._parameters.values():
                if parameter is not None:
                    self._watch.on_cuda.setdefault(parameter, False)

    def _cuda(
        self, _original: Callable[..., Any], owner: Any, device: Any = None, *_: Any, **__: Any
    ) -> Any:
        self._used()
        self._chosen.send(device)
        self._mark(owner)
        return owner

    def _tensors(self) -> None:
        wrap = self._watch.patches.wrap
        wrap(torch.Tensor, "to", self._moved)
        wrap(torch.Tensor, "cuda", self._cuda)
        self._watch.patches.replace(torch.Tensor, "pin_memory", lambda tensor, *_: tensor)
        wrap(torch.Tensor, "type", self._typed)
        lazy = torch.nn.parameter.UninitializedTensorMixin._allowed_methods
        moves = [torch.Tensor.to, torch.Tensor.cuda]
        lazy.extend(moves)
        self._watch.patches.also(lambda: [lazy.remove(each) for each in moves])
        for name in _METHODS.split():
            wrap(torch.Tensor, name, self._made)

    def _typed(self, original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str):
            args = (args[0].replace("torch.cuda.", "torch."), *args[1:])
        return original(owner, *args, **kwargs)

    def _made(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            self._made_on_cuda()
        kwargs.pop("pin_memory", None)
        return original(*args, **kwargs)

    def _used(self) -> None:
        if self._tell is not None:
            tell, self._tell = self._tell, None
            usual = DefaultDeviceType.get_device_type()
            DefaultDeviceType.set_device_type("cuda")  # whose regions a checkpoint restores
            self._watch.patches.also(lambda: DefaultDeviceType.set_device_type(usual))
            tell()

    def _made_on_cuda(self) -> None:
        self._used()
        self._emulation.sent()
        self._watch.cuda_made = True

    def _factories(self) -> None:
        _device_constructors()  # torch keeps the set of them: it must hold its own functions
        for name in _FACTORIES.split():
            folder, _, short = name.rpartition(".")
            module = getattr(torch, folder) if folder else torch
            self._watch.patches.wrap(module, short, self._made)

        def load(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            where = args[1] if len(args) > 1 else kwargs.get("map_location")
            if where is None or is_cuda(where):
                args, kwargs["map_location"] = args[:1], torch.device("cpu")
            return original(*args, **kwargs)

        self._watch.patches.wrap(torch, "load", load)
        self._watch.patches.wrap(torch, "set_default_device", self._default)
        self._watch.patches.wrap(DeviceContext, "__init__", self._context)

    def _default(self, original: Callable[..., Any], device: Any) -> Any:
        if is_cuda(device):
            self._made_on_cuda()
        return original(torch.device("cpu") if is_cuda(device) else device)

    def _context(self, original: Callable[..., Any], context: Any, device: Any) -> Any:
        if is_cuda(device):
            self._made_on_cuda()
        return original(context, torch.device("cpu") if is_cuda(device) else device)

    def _modules(self) -> None:
        wrap = self._watch.patches.wrap
        wrap(torch.nn.Module, "to", self._moved)
        wrap(torch.nn.Module, "cuda", self._cuda)
        wrap(torch.nn.Module, "__setstate__", self._restored)

        def loader(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> None:
            kwargs["pin_memory"] = False
            original(owner, *args, **kwargs)

        wrap(data.DataLoader, "__init__", loader)
        wrap(
            torch.nn.DataParallel,
            "forward",
            lambda _, owner, *args, **kwargs: owner.module(*args, **kwargs),
        )

    def _distributed(self) -> None:
        """Process groups: gloo in the place of nccl, and no device for DistributedDataParallel."""
        if not torch.distributed.is_available():
            return

        def start(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            args = tuple("gloo" if each == "nccl" else each for each in args)
            if kwargs.get("backend") in ("nccl", "cpu:gloo,cuda:nccl"):
                kwargs["backend"] = "gloo"
            kwargs.pop("device_id", None)
            return original(*args, **kwargs)

        def parallel(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> None:
            kwargs.update(device_ids=None, output_device=None)
            original(owner, *args[:1], **kwargs)

        wrap = self._watch.patches.wrap
        wrap(torch.distributed, "init_process_group", start)
        wrap(torch.nn.parallel.DistributedDataParallel, "__init__", parallel)
