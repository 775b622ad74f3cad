"""Autocast regions of a run: which one is entered where."""

from __future__ import annotations

from typing import Any

import torch

from mpaudit.event import Region
from mpaudit.runtime.frame import user_span
from mpaudit.runtime.torch_watch import Watch, unwatched


def dtype_name(dtype: object) -> str:
    """The plain name of a dtype ("float16")."""
    return str(dtype).removeprefix("torch.")


def watch_regions(watch: Watch) -> None:
    """Follow every autocast region from here on (also the deprecated torch.cuda.amp.autocast)."""

    def enter(original: Any, region: Any) -> Any:
        result = original(region)
        if not unwatched() and not torch.jit.is_scripting():
            with watch.guard("autocast"):
                span = user_span()
                enabled = bool(region._enabled)
                dtype = dtype_name(region.fast_dtype)
                if not watch.thread.regions:
                    watch.thread.entries += 1
                watch.thread.regions.append(Region(span, region.device, dtype, enabled))
                if enabled:
                    watch.tracer.asked_for_amp(span, "autocast")
                    if watch.tracer.fact("precision") is None:
                        watch.tracer.note("precision", f"{dtype} autocast")
        return result

    def leave(original: Any, region: Any, *problem: Any) -> Any:
        if watch.thread.regions and not unwatched():
            watch.thread.regions.pop()
        return original(region, *problem)

    watch.patches.wrap(torch.amp.autocast_mode.autocast, "__enter__", enter)
    watch.patches.wrap(torch.amp.autocast_mode.autocast, "__exit__", leave)
