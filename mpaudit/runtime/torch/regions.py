"""Autocast regions of a run: which one is entered where, and the copies of weights that it keeps."""

from __future__ import annotations

import functools
import itertools
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from mpaudit.event import Region
from mpaudit.finding import Span
from mpaudit.runtime.frame import (
    decorator_span,
    entered_by_user,
    enters_plainly,
    frame_span,
    user_frame,
)
from mpaudit.runtime.record import LOW_PRECISION
from mpaudit.runtime.repetition import stack
from mpaudit.runtime.torch.watch import Entered, Watch, unwatched

LOW = ("float16", "bfloat16")
MADE_IN = "mpaudit.made_in"
"""The key in the metadata of a node of the graph under which `mark` says where it was made."""
SWITCHED_OFF = "switched_off"
"""The fact that the script has entered a region, or made a scaler, that it had switched off."""
_OWN = str(Path(__file__).parent) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep


class Made(NamedTuple):
    """Where a tensor was made: the innermost region, and the outermost one whose entry `entry` is.

    `keeps` says that weights were cast there once for all that the outermost region lasts.
    """

    region: Region
    outermost: Region
    entry: int
    keeps: bool


def made_here(watch: Watch) -> Made | None:
    """What is to be said of a tensor that is made now; None outside all regions."""
    region, thread = watch.region, watch.thread
    if region is None:
        return None
    keeps = region.dtype in LOW and torch.is_autocast_cache_enabled() and not watch.compiles
    return Made(region, thread.regions[0], thread.entries, keeps)


def mark(watch: Watch, tensor: torch.Tensor) -> None:
    """Note in the graph in which region a tensor was made, just now."""
    made = made_here(watch)
    if made is not None and tensor.grad_fn is not None:
        tensor.grad_fn.metadata.setdefault(MADE_IN, made)


@functools.cache
def dtype_name(dtype: object) -> str:
    """The plain name of a dtype ("float16")."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _inside(filename: str) -> bool:
    """Whether a file is torch's, or mpaudit's own."""
    return filename.startswith((_OWN, _TORCH))


def _decorated() -> Span | None:
    """Where the function is decorated whose call enters a region; None for a `with`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _inside(frame.f_code.co_filename):
        if frame.f_code.co_name == "decorate_autocast":
            return decorator_span(frame.f_locals.get("func"), "autocast")
        frame = frame.f_back
    return None


def watch_regions(watch: Watch) -> None:
    """Follow every autocast region from here on (also the deprecated torch.cuda.amp.autocast)."""
    numbers, guard, thread = itertools.count(1), watch.guard("autocast"), watch.thread
    noted: set[bool] = set()  # of regions that lower the precision, and of those that do not

    def note(span: Span, dtype: str, lowers: bool) -> None:
        noted.add(lowers)
        if lowers:
            watch.tracer.asked_for_amp(span, "autocast")
            if watch.tracer.fact("precision") is None:
                watch.tracer.note("precision", f"{dtype} autocast")
        elif watch.tracer.fact(SWITCHED_OFF) is None:
            watch.tracer.note(SWITCHED_OFF, True)

    def enter(original: Any, region: Any) -> Any:
        result = original(region)
        if not unwatched():
            with guard:
                at, frame = None, user_frame()
                own = enters_plainly(frame)
                if not own:
                    at = _decorated()
                    own = at is not None or entered_by_user(sys._getframe(1), _TORCH)
                span = at or frame_span(frame)
                enabled = bool(region._enabled)
                dtype = dtype_name(region.fast_dtype)
                if not thread.regions:
                    thread.entries += 1
                thread.regions.append(Region(span, region.device, dtype, enabled))
                thread.entered.append(Entered(next(numbers), stack(frame)) if own else None)
                lowers = enabled and dtype in LOW_PRECISION
                if lowers not in noted:
                    note(span, dtype, lowers)
                if enabled:
                    watch.region_entered()
        return result

    def leave(original: Any, region: Any, *problem: Any) -> Any:
        if thread.regions and not unwatched():
            thread.regions.pop()
            thread.entered.pop()
        return original(region, *problem)

    watch.patches.wrap(torch.amp.autocast_mode.autocast, "__enter__", enter)
    watch.patches.wrap(torch.amp.autocast_mode.autocast, "__exit__", leave)
