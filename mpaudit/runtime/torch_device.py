"""A script's cuda calls on a machine without CUDA: they run on the CPU, with CUDA's autocast.

`torch.device("cuda")` stays what it is, so that the script takes the same branches as on a GPU; where a
device is used (`.to`, `.cuda`, `device=`), the CPU takes its place. What the script asks of the CPU
itself is left alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import data
from torch.utils._device import DeviceContext

from mpaudit.runtime.torch_policy import CudaPolicy
from mpaudit.runtime.torch_policy import Counter as CastCounter
from mpaudit.runtime.torch_watch import Watch

MEMORY = 0  # bytes; nothing is allocated on a device that is not there
_FACTORIES = """arange as_tensor asarray empty empty_like empty_strided eye full full_like linspace
logspace ones ones_like rand rand_like randint randint_like randn randn_like randperm tensor tril_indices
triu_indices zeros zeros_like scalar_tensor sparse_coo_tensor frombuffer bartlett_window blackman_window
hamming_window hann_window kaiser_window"""
_METHODS = "new_empty new_full new_ones new_tensor new_zeros new_empty_strided"


def is_cuda(device: object) -> bool:
    """Whether a device argument names a GPU ("cuda", "cuda:0", a torch.device, an index)."""
    if isinstance(device, torch.device):
        return device.type == "cuda"
    if isinstance(device, str):
        return device == "cuda" or device.startswith("cuda:")
    return isinstance(device, int) and not isinstance(device, bool)


class Remap:
    """Puts the CPU in the place of CUDA until the patches are undone."""

    def __init__(self, watch: Watch, count: CastCounter) -> None:
        self._watch = watch
        self._policy = CudaPolicy(count)
        self._depth = 0  # remapped regions that are entered
        watch.emulated = True
        watch.patches.also(self._policy.deactivate)
        self._tensors()
        self._factories()
        self._modules()
        self._answers()
        self._regions()

    def _moved(self, original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
        """`.to(...)` of a tensor or a module."""
        cuda = any(is_cuda(each) for each in (*args[:1], kwargs.get("device")))
        if cuda:
            args = (torch.device("cpu"), *args[1:]) if args and is_cuda(args[0]) else args
            if is_cuda(kwargs.get("device")):
                kwargs["device"] = torch.device("cpu")
            self._mark(owner)
        return original(owner, *args, **kwargs)

    def _mark(self, owner: Any) -> None:
        if isinstance(owner, torch.nn.Module):
            for module in owner.modules():
                self._watch.on_cuda.set(module, True)
        elif isinstance(owner, torch.nn.Parameter):
            self._watch.cuda_made = True

    def _cuda(self, original: Callable[..., Any], owner: Any, *_: Any, **__: Any) -> Any:
        self._mark(owner)
        return owner

    def _tensors(self) -> None:
        wrap = self._watch.patches.wrap
        wrap(torch.Tensor, "to", self._moved)
        wrap(torch.Tensor, "cuda", self._cuda)
        wrap(torch.Tensor, "pin_memory", lambda original, tensor, *args: tensor)
        wrap(torch.Tensor, "type", self._typed)
        for name in _METHODS.split():
            wrap(torch.Tensor, name, self._made)

    def _typed(self, original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str):
            args = (args[0].replace("torch.cuda.", "torch."), *args[1:])
        return original(owner, *args, **kwargs)

    def _made(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if is_cuda(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
            self._watch.cuda_made = True
        kwargs.pop("pin_memory", None)
        return original(*args, **kwargs)

    def _factories(self) -> None:
        for name in _FACTORIES.split():
            self._watch.patches.wrap(torch, name, self._made)

        def load(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            where = args[1] if len(args) > 1 else kwargs.get("map_location")
            if where is None or is_cuda(where):
                args, kwargs["map_location"] = args[:1], torch.device("cpu")
            return original(*args, **kwargs)

        self._watch.patches.wrap(torch, "load", load)
        self._watch.patches.wrap(torch, "set_default_device", self._default)
        self._watch.patches.wrap(DeviceContext, "__init__", self._context)

    def _default(self, original: Callable[..., Any], device: Any) -> Any:
        self._watch.cuda_made = self._watch.cuda_made or is_cuda(device)
        return original(torch.device("cpu") if is_cuda(device) else device)

    def _context(self, original: Callable[..., Any], context: Any, device: Any) -> Any:
        self._watch.cuda_made = self._watch.cuda_made or is_cuda(device)
        return original(context, torch.device("cpu") if is_cuda(device) else device)

    def _modules(self) -> None:
        wrap = self._watch.patches.wrap
        wrap(torch.nn.Module, "to", self._moved)
        wrap(torch.nn.Module, "cuda", self._cuda)

        def loader(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> None:
            kwargs["pin_memory"] = False
            original(owner, *args, **kwargs)

        wrap(data.DataLoader, "__init__", loader)

    def _answers(self) -> None:
        """What torch.cuda answers and does, as on a machine with one GPU."""
        cuda, patch = torch.cuda, self._watch.patches
        properties = SimpleNamespace(
            name="CPU in the place of a GPU",
            major=9,
            minor=0,
            total_memory=MEMORY,
            multi_processor_count=1,
        )
        answers: dict[str, Any] = {
            "is_available": True,
            "is_initialized": True,
            "device_count": 1,
            "current_device": 0,
            "is_bf16_supported": True,
            "get_device_name": properties.name,
            "get_device_capability": (properties.major, properties.minor),
            "get_device_properties": properties,
            "get_arch_list": [],
            "mem_get_info": (MEMORY, MEMORY),
            "memory_stats": {},
            "memory_summary": "",
        }
        nothing = """init set_device synchronize empty_cache manual_seed manual_seed_all seed seed_all
        reset_peak_memory_stats reset_max_memory_allocated reset_accumulated_memory_stats ipc_collect
        set_per_process_memory_fraction"""
        answers.update(dict.fromkeys(nothing.split()))
        memory = """memory_allocated max_memory_allocated memory_reserved max_memory_reserved
        memory_cached max_memory_cached utilization"""
        answers.update(dict.fromkeys(memory.split(), MEMORY))
        for name, answer in answers.items():
            patch.wrap(cuda, name, lambda original, *args, _answer=answer, **kwargs: _answer)
        patch.wrap(cuda, "get_rng_state", lambda original, *args: torch.get_rng_state())
        patch.wrap(cuda, "get_rng_state_all", lambda original: [torch.get_rng_state()])
        patch.wrap(cuda, "set_rng_state", lambda original, *args, **kwargs: None)
        patch.wrap(cuda, "set_rng_state_all", lambda original, *args: None)
        patch.set(cuda, "Stream", _Stream)
        patch.set(cuda, "Event", _Event)
        patch.wrap(cuda, "current_stream", lambda original, *args: _Stream())
        patch.wrap(cuda, "default_stream", lambda original, *args: _Stream())
        patch.wrap(cuda, "stream", lambda original, *args: contextlib.nullcontext())
        patch.set(cuda, "device", lambda *_: contextlib.nullcontext())
        for name in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool", "Byte"):
            patch.set(cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))

    def _regions(self) -> None:
        """A cuda region switches the CPU's autocast too, with CUDA's policy."""
        region = torch.amp.autocast_mode.autocast
        before: list[tuple[Any, bool, Any]] = []

        def enter(original: Callable[..., Any], owner: Any) -> Any:
            result = original(owner)
            enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
            before.append((owner, enabled, dtype))
            if owner.device == "cuda":
                self._policy.activate()
                torch.set_autocast_enabled("cpu", owner._enabled)
                torch.set_autocast_dtype("cpu", owner.fast_dtype)
            elif owner.device == "cpu":
                self._policy.deactivate()
            return result

        def leave(original: Callable[..., Any], owner: Any, *problem: Any) -> Any:
            while before:
                entered, enabled, dtype = before.pop()
                if entered is owner:
                    torch.set_autocast_enabled("cpu", enabled)
                    torch.set_autocast_dtype("cpu", dtype)
                    break
            if before and before[-1][0].device == "cuda":
                self._policy.activate()
            elif not before:
                self._policy.clear()
            return original(owner, *problem)

        self._watch.patches.wrap(region, "__enter__", enter)
        self._watch.patches.wrap(region, "__exit__", leave)


class _Stream:
    """A stream on which everything has happened already."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing is under way."""

    wait_stream = wait_event = lambda self, other: None

    def record_event(self, event: Any = None) -> Any:
        """Record an event."""
        event = event or _Event()
        event.record()
        return event

    def query(self) -> bool:
        """Whether all is done."""
        return True


class _Event:
    """A moment in the time of the process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._at = 0.0

    def record(self, *_: Any) -> None:
        """Note the time."""
        import time

        self._at = time.perf_counter()

    def elapsed_time(self, later: _Event) -> float:
        """Milliseconds between two events."""
        return (later._at - self._at) * 1e3

    def synchronize(self) -> None:
        """Nothing is under way."""

    def wait(self, *_: Any) -> None:
        """Nothing is under way."""

    def query(self) -> bool:
        """Whether it has happened."""
        return True
