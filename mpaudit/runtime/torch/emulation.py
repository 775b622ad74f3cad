"""Autocast regions where the CPU stands in for a GPU: two devices' states in one place.

On a GPU machine CUDA tensors follow the innermost cuda region and CPU tensors the innermost cpu
region. Here all tensors are on the CPU, so the innermost of the two that is enabled decides for all
of them: a cuda region brings CUDA's cast policy, a cpu region the CPU's own. What the script asks
about the CPU's autocast is answered as if there were no emulation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from msgspec import Struct

from mpaudit.runtime.torch.patch import Patches
from mpaudit.runtime.torch.policy import CudaPolicy


class _Entered(Struct, frozen=True):
    region: Any
    device: str
    enabled: bool
    dtype: Any


class _Thread(threading.local):
    def __init__(self) -> None:
        self.entered: list[_Entered] = []


class Emulation:
    """Follows the regions of every thread and keeps the CPU's autocast as they say.

    `used` is told that CUDA is.
    """

    def __init__(self, patches: Patches, policy: CudaPolicy, used: Callable[[], None]) -> None:
        self._policy = policy
        self._used = used
        self._thread = _Thread()
        self._is_enabled = torch.is_autocast_enabled
        self._dtype = torch.get_autocast_dtype
        region = torch.amp.autocast_mode.autocast
        patches.wrap(region, "__enter__", self._enter)
        patches.wrap(region, "__exit__", self._leave)
        patches.wrap(torch.amp.autocast_mode, "_cast", self._cast)
        patches.wrap(torch, "clear_autocast_cache", self._forget)
        patches.wrap(torch, "is_autocast_enabled", self._asked_enabled)
        patches.wrap(torch, "get_autocast_dtype", self._asked_dtype)
        patches.replace(torch, "is_autocast_cpu_enabled", lambda: self._own().enabled)
        patches.replace(torch, "get_autocast_cpu_dtype", lambda: self._own().dtype)

    def _enter(self, original: Callable[..., Any], region: Any) -> Any:
        if region.device == "cpu" and not (self._thread.entered or self._policy.active):
            return original(region)  # outside of all cuda regions torch does it as it is
        base = _Entered(None, "cpu", self._is_enabled("cpu"), self._dtype("cpu"))
        result = original(region)
        if region.device in ("cuda", "cpu"):
            if region.device == "cuda" and region._enabled:
                self._used()
            entered = _Entered(region, region.device, bool(region._enabled), region.fast_dtype)
            if not self._thread.entered:
                self._thread.entered.append(base)  # what the script may have switched on by hand
            self._thread.entered.append(entered)
            self._apply()
        return result

    def _leave(self, original: Callable[..., Any], region: Any, *problem: Any) -> Any:
        result = original(region, *problem)
        entered = self._thread.entered
        if not entered:
            return result
        while entered and any(each.region is region for each in entered):
            entered.pop()
        if entered:
            self._apply()
        if len(entered) == 1:
            entered.clear()
            self._policy.clear()
        return result

    def _forget(self, original: Callable[..., Any]) -> None:
        original()
        self._policy.clear()

    def _apply(self) -> None:
        """Set the CPU's autocast to what the regions come to."""
        entered = self._thread.entered
        innermost: dict[str, _Entered] = {}
        for each in reversed(entered):
            innermost.setdefault(each.device, each)
        deciding = next((each for each in innermost.values() if each.enabled), None)
        if deciding is None:
            torch.set_autocast_enabled("cpu", False)
            torch.set_autocast_dtype("cpu", innermost["cpu"].dtype)
            return
        if deciding.device == "cuda":
            self._policy.activate()
        else:
            self._policy.deactivate()
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", deciding.dtype)

    def _own(self) -> _Entered:
        """The state of the CPU's autocast without emulation."""
        for each in reversed(self._thread.entered):
            if each.device == "cpu":
                return each
        return _Entered(None, "cpu", self._is_enabled("cpu"), self._dtype("cpu"))

    def _asked_enabled(self, original: Callable[..., Any], *args: Any) -> bool:
        if args == ("cpu",) and self._thread.entered:
            return self._own().enabled
        return bool(original(*args))

    def _asked_dtype(self, original: Callable[..., Any], *args: Any) -> Any:
        if args == ("cpu",) and self._thread.entered:
            return self._own().dtype
        return original(*args)

    @staticmethod
    def _cast(original: Callable[..., Any], value: Any, device: str, dtype: Any) -> Any:
        return original(value, "cpu" if device == "cuda" else device, dtype)
