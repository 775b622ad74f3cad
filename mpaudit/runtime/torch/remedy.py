"""A training as advised, without an edit of the script: layers in float32, a scaler, another dtype."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from mpaudit.runtime.advice import Advice
from mpaudit.runtime.frame import user_frame
from mpaudit.runtime.torch.measure import STAND_INS
from mpaudit.runtime.torch.names import WRAPPERS, Names
from mpaudit.runtime.torch.watch import Watch, unwatched

_LOW = (torch.float16, torch.bfloat16)


class _Thread(threading.local):
    def __init__(self) -> None:
        self.calls: list[Any] = []


class Remedy:
    """Changes what the script's autocast regions, its GradScaler and its layers do.

    What a script does without autocast (`.half()`) stays as it is. To be made after all other
    patches, which are to see what it changes.
    """

    def __init__(self, advice: Advice, watch: Watch, names: Names) -> None:
        self._advice = advice
        self._watch = watch
        self._names = names
        self._thread = _Thread()
        patches = watch.patches
        if advice.init_scale is not None or advice.growth_interval is not None:
            patches.wrap(torch.amp.grad_scaler.GradScaler, "__init__", self._scaler)
        if advice.dtype is not None:
            patches.wrap(torch.amp.autocast_mode.autocast, "__enter__", self._region)
        if advice.float32:
            patches.wrap(torch.nn.Module, "__call__", self._call)

    def _scaler(self, original: Callable[..., Any], scaler: Any, *args: Any, **kwargs: Any) -> None:
        original(scaler, *args, **kwargs)
        if scaler._enabled:
            scaler._init_scale = self._advice.init_scale or scaler._init_scale
            scaler._growth_interval = self._advice.growth_interval or scaler._growth_interval

    def _region(self, original: Callable[..., Any], region: Any) -> Any:
        if region.fast_dtype is torch.float16 and not unwatched():
            region.fast_dtype = getattr(torch, str(self._advice.dtype))
        return original(region)

    def _call(self, original: Callable[..., Any], module: Any, *args: Any, **kwargs: Any) -> Any:
        stands_in = any(isinstance(each, STAND_INS) for each in args)
        if unwatched() or stands_in or type(module).__name__ in WRAPPERS:
            return original(module, *args, **kwargs)
        calls = self._thread.calls
        spelled = "" if calls else self._watch.ref(module, user_frame()).text
        path = self._names.path(module, calls[0] if calls else module, spelled)
        calls.append(module)
        try:
            region = self._watch.region
            if region is None or path not in self._advice.float32:
                return original(module, *args, **kwargs)
            with torch.autocast(region.device, enabled=False):
                return original(module, *_wide(args), **_wide(kwargs))
        finally:
            calls.pop()


def _wide(value: Any) -> Any:
    """`value` with every low-precision tensor in it, also in containers, in float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _LOW else value
    if isinstance(value, dict):
        return {key: _wide(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_wide(each) for each in value)
    return value
