"""What `torch.cuda` answers and does where the CPU stands in for GPUs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from mpaudit.runtime.frame import asking
from mpaudit.runtime.torch.accelerator import answer_as_accelerator
from mpaudit.runtime.torch.patch import Patches

_MEMORY = 2**34  # bytes: some answer is needed by scripts that divide by it
_PROPERTIES = SimpleNamespace(
    name="CPU in the place of a GPU",
    major=9,
    minor=0,
    total_memory=_MEMORY,
    multi_processor_count=1,
    gcnArchName="",  # read by the compiler of a torch that was built without CUDA
)
_ANSWERS: dict[str, Any] = {
    "is_initialized": True,
    "is_bf16_supported": True,
    "get_device_name": _PROPERTIES.name,
    "get_device_capability": (_PROPERTIES.major, _PROPERTIES.minor),
    "get_device_properties": _PROPERTIES,
    "get_arch_list": [],
    "mem_get_info": (_MEMORY, _MEMORY),
    "memory_stats": {},
    "memory_summary": "",
    "is_current_stream_capturing": False,
}
_NOTHING = """init synchronize empty_cache manual_seed manual_seed_all seed seed_all
reset_peak_memory_stats reset_max_memory_allocated reset_accumulated_memory_stats ipc_collect
set_per_process_memory_fraction set_rng_state set_rng_state_all set_stream set_sync_debug_mode"""
_BYTES = """memory_allocated max_memory_allocated memory_reserved max_memory_reserved memory_cached
max_memory_cached utilization"""


class Chosen:
    """GPUs that the script has named: its current one, and the one where things were sent last."""

    def __init__(self) -> None:
        self.current = self.last = 0

    def choose(self, device: Any = None, *_: Any, **__: Any) -> None:
        """`torch.cuda.set_device`; what names no index changes nothing."""
        self.send(device)
        self.current = self.last

    def send(self, device: Any) -> None:
        """Something is sent to a device, which need not say its index."""
        if isinstance(device, str):  # a device made of it would be seen by the script's modes
            number = device.partition(":")[2]
            index = int(number) if number else None
        else:
            index = device if isinstance(device, int) else getattr(device, "index", None)
        self.last = self.current if index is None or index < 0 else index


def gpus() -> int:
    """How many GPUs there are: each of the processes that a launcher has started here has its own."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, int(processes)) if processes.isdecimal() else 1


def answer_as_gpus(patches: Patches, chosen: Chosen) -> None:
    """Have `torch.cuda` behave as with a GPU for each process, on which nothing is allocated."""
    fixed = {**_ANSWERS, **dict.fromkeys(_NOTHING.split()), **dict.fromkeys(_BYTES.split(), 0)}
    patches.set(torch, "Generator", _generator(torch.Generator))
    for module in (torch.cuda, torch.cuda.random, torch.cuda.memory):  # some ask where it is made
        for name, answer in fixed.items():
            patches.replace(module, name, lambda *_, _answer=answer, **__: _answer)
        patches.replace(module, "get_rng_state", lambda *_: torch.get_rng_state())
        patches.replace(module, "get_rng_state_all", lambda *_: [torch.get_rng_state()])
    patches.replace(torch.cuda, "is_available", _available)
    patches.replace(torch.cuda, "device_count", gpus)
    patches.replace(torch.cuda, "current_device", lambda: chosen.current)
    patches.replace(torch.cuda, "set_device", chosen.choose)
    patches.replace(torch.cuda, "current_stream", Stream)
    patches.replace(torch.cuda, "default_stream", Stream)
    patches.replace(torch.cuda, "stream", Nothing)
    patches.set(torch.cuda, "device", Nothing)
    for name in ("range_push", "range_pop", "range_start"):
        patches.replace(torch.cuda.nvtx, name, lambda *_, **__: 0)
    for name in ("range_end", "mark"):
        patches.replace(torch.cuda.nvtx, name, lambda *_, **__: None)
    answers: dict[str, Callable[..., Any]] = {
        "device_count": gpus,
        "current_device_index": lambda: chosen.current,
        "current_device_idx": lambda: chosen.current,
        "set_device_index": chosen.choose,
        "set_device_idx": chosen.choose,
        "current_stream": Stream,
        "device_index": Nothing,
        "get_memory_info": lambda *_: (_MEMORY, _MEMORY),
    }
    answer_as_accelerator(patches, answers)
    patches.set(torch.cuda, "Stream", _as_torchs("Stream", Stream))
    patches.set(torch.cuda, "Event", _as_torchs("Event", Event))
    for name in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool", "Byte"):
        patches.set(torch.cuda, f"{name}Tensor", getattr(torch, f"{name}Tensor"))


def _available() -> bool:
    """Whether there is a GPU: for the script there is. Keras asks where it is to run by itself, and
    then no line of the script asks for CUDA: it is told the truth."""
    return not asking().startswith("keras.")


def _generator(torchs: type) -> type:
    """`torch.Generator` whose objects are on the CPU, whatever device they are asked to be on."""

    class Made(type(torchs)):  # type: ignore[misc]
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, torchs)

        def __call__(cls, device: Any = "cpu") -> Any:
            return torchs("cpu" if torch.device(device).type == "cuda" else device)

    return Made("Generator", (torchs,), {})


def _as_torchs(name: str, plain: type) -> type:
    """A class that makes `plain` objects and passes for torch's: the compiler asks for its base."""
    torchs = getattr(torch, name, object)
    made = type(name, (torchs,), {"__new__": lambda _, *args, **kwargs: plain(*args, **kwargs)})
    abstract: Any = getattr(getattr(torch, "_streambase", None), f"_{name}Base", None)
    if hasattr(abstract, "register"):  # up to torch 2.5
        abstract.register(made)
    return made


class Nothing(contextlib.nullcontext[None]):
    """A context in which nothing is different, whatever it is made of."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


class Stream:
    """A stream on which everything has happened already."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = torch.device("cpu")

    def synchronize(self) -> None:
        """Nothing is under way."""

    def wait_stream(self, _: Any) -> None:
        """Nothing is under way."""

    def wait_event(self, _: Any) -> None:
        """Nothing is under way."""

    def record_event(self, event: Event | None = None) -> Event:
        """Record an event."""
        event = event or Event()
        event.record()
        return event

    def query(self) -> bool:
        """Whether all is done."""
        return True


class Event:
    """A moment in the time of the process."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._at = 0.0

    def record(self, *_: Any) -> None:
        """Note the time."""
        self._at = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds from this event to a later one."""
        return (later._at - self._at) * 1e3

    def synchronize(self) -> None:
        """Nothing is under way."""

    def wait(self, *_: Any) -> None:
        """Nothing is under way."""

    def query(self) -> bool:
        """Whether it has happened."""
        return True
