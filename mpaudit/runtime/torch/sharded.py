"""FSDP (FullyShardedDataParallel) where the CPU stands in for GPUs.

It computes on an accelerator or nowhere, unless it is told to compute on the CPU; `fully_shard` goes by
the parameters that it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from mpaudit.runtime.arrival import Arrival
from mpaudit.runtime.torch.patch import Patches
from mpaudit.runtime.torch.place import is_cuda

_FOLDER = "torch.distributed.fsdp"
_CLASS = f"{_FOLDER}.fully_sharded_data_parallel"
_ARGUMENTS = {"cpu_offload": 3, "device_id": 9}  # where they may stand; the module is the first
_CHECK = "_check_module_states_for_sync_module_states"  # that all is on a GPU


def shard_on_the_cpu(patches: Patches, sent: Callable[[Any], int]) -> None:
    """Have FSDP compute on the CPU, once the script has imported it; `sent` is told of the GPU that it names.

    There is nothing to offload then, and parameters on the CPU are in their place.
    """

    def made(original: Callable[..., Any], owner: Any, *args: Any, **kwargs: Any) -> None:
        device = _given(args, kwargs, "device_id")
        if device is None or is_cuda(device):
            sent("cuda" if device is None else device)
            for name, value in (("device_id", torch.device("cpu")), ("cpu_offload", None)):
                args = _exchanged(args, kwargs, name, value)
        original(owner, *args, **kwargs)

    def arrived() -> None:
        patches.wrap(sys.modules[_CLASS].FullyShardedDataParallel, "__init__", made)
        patches.replace(sys.modules[f"{_FOLDER}._init_utils"], _CHECK, lambda *_: None)

    arrival = Arrival({_CLASS: arrived})  # to import it takes a moment, and few scripts do
    arrival.install()
    patches.also(arrival.remove)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    at = _ARGUMENTS[name]
    return args[at] if len(args) > at else kwargs.get(name)


def _exchanged(
    args: tuple[Any, ...], kwargs: dict[str, Any], name: str, value: Any
) -> tuple[Any, ...]:
    """The positional arguments with `value` for one of them; else it comes to the keywords."""
    at = _ARGUMENTS[name]
    if len(args) > at:
        return (*args[:at], value, *args[at + 1 :])
    kwargs[name] = value
    return args
