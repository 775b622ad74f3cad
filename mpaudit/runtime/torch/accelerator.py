"""What `torch.accelerator` answers and does where the CPU stands in for one GPU.

It answers torch itself with the truth, for what torch does on an accelerator (streams, memory that is
pinned) cannot be done here; and Keras, which asks by itself where it is to run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mpaudit.runtime.frame import asking
from mpaudit.runtime.torch.patch import Patches

_NOTHING = """set_device_index set_device_idx set_stream synchronize empty_cache empty_host_cache
reset_accumulated_memory_stats reset_peak_memory_stats"""
_NONE_USED = "memory_allocated max_memory_allocated memory_reserved max_memory_reserved"


def answer_as_one_accelerator(
    patches: Patches, memory: int, stream: Callable[..., Any], nothing: Callable[..., Any]
) -> None:
    """Have `torch.accelerator`, which torch has from 2.6 on, speak of a GPU with so many bytes of
    `memory`; `stream` makes its current stream, `nothing` a context in which nothing is different."""
    module = getattr(torch, "accelerator", None)
    if module is None:
        return
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_accelerator": lambda *_, **__: torch.device("cuda"),
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "current_stream": stream,
        "device_index": nothing,
        "memory_stats": lambda *_: {},
        "get_memory_info": lambda *_: (memory, memory),
    }
    answers |= dict.fromkeys(_NOTHING.split(), lambda *_: None)
    answers |= dict.fromkeys(_NONE_USED.split(), lambda *_: 0)
    for name, answer in answers.items():
        patches.wrap(module, name, _to_the_script(answer))


def _to_the_script(answer: Callable[..., Any]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if asking().startswith(("torch.", "keras.")):
            return original(*args, **kwargs)
        return answer(*args, **kwargs)

    return around
