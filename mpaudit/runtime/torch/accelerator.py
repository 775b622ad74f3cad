"""What `torch.accelerator` answers and does where the CPU stands in for GPUs.

It answers torch itself with the truth, for what torch does on an accelerator (streams, memory that is
pinned) cannot be done here; and Keras, which asks by itself where it is to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mpaudit.runtime.frame import asking
from mpaudit.runtime.torch.patch import Patches

_NOTHING = """set_stream synchronize empty_cache empty_host_cache reset_accumulated_memory_stats
reset_peak_memory_stats"""
_NONE_USED = "memory_allocated max_memory_allocated memory_reserved max_memory_reserved"


def answer_as_accelerator(patches: Patches, answers: Mapping[str, Callable[..., Any]]) -> None:
    """Have `torch.accelerator`, which torch has from 2.6 on, speak of GPUs on which nothing is
    allocated; what `torch.cuda` has an answer to is among the `answers`."""
    module = getattr(torch, "accelerator", None)
    if module is None:
        return
    every: dict[str, Callable[..., Any]] = {
        **answers,
        "is_available": lambda: True,
        "current_accelerator": lambda *_, **__: torch.device("cuda"),
        "memory_stats": lambda *_: {},
        **dict.fromkeys(_NOTHING.split(), lambda *_: None),
        **dict.fromkeys(_NONE_USED.split(), lambda *_: 0),
    }
    for name, answer in every.items():
        patches.wrap(module, name, _to_the_script(answer))


def _to_the_script(answer: Callable[..., Any]) -> Callable[..., Any]:
    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if asking().startswith(("torch.", "keras.")):
            return original(*args, **kwargs)
        return answer(*args, **kwargs)

    return around
