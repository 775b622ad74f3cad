"""Errors of code that autograph has rewritten: their text is what it is without the probe."""

from __future__ import annotations

from typing import Any

from mpaudit.runtime.frame import OWN
from mpaudit.runtime.keras.patch import Call, Patches


class Messages:
    """Keeps mpaudit's frames out of the stacks that autograph writes into messages."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def install(self) -> None:
        """One function makes them."""
        from tensorflow.python.autograph.pyct import error_utils

        self._patches.wrap(error_utils, "_stack_trace_inside_mapped_code", self._around)

    def _around(self, original: Call) -> Call:
        def stack(frames: Any, *args: Any, **kwargs: Any) -> Any:
            others = [each for each in frames if not each[0].startswith(OWN)]
            return original(others, *args, **kwargs)

        return stack
