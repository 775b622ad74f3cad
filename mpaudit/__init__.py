"""mpaudit: mixed-precision training that is right.

Importing this package never imports torch, tensorflow or keras.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def trace(
    output: str | os.PathLike[str] | None = None,
    *,
    device: str | None = None,
    every: int | None = None,
    light: bool = False,
) -> AbstractContextManager[Path]:
    """Watch the training in the block, and write a trace: what `mpaudit run` does to a whole script.

        with mpaudit.trace("train.mpa"):
            train(model)

    Works in scripts and notebooks, also where the model was built before; afterwards every function
    of the framework is its own again. `output` is the file, `mpaudit-SCRIPT.PID.mpa` in this folder
    if left out; the block gets its absolute path. `device` says where cuda calls go: None leaves
    them alone, "cpu" has them done on the CPU, "auto" does so where there is no GPU, "cuda" insists
    on one. `every` and `light` are what they are to `mpaudit run`: layers are looked at in each
    `every`-th step (None: 10), or with `light` none is looked at. Raises MpauditError where a trace
    is taken already, where the file cannot be written, or for an `every` below 1.
    """
    from mpaudit.runtime import block

    return block.trace(None if output is None else Path(output), device, every, light)


def __getattr__(name: str) -> Any:
    if name == "keras":  # mpaudit.keras.Callback, without an import of its own
        from importlib import import_module

        return import_module("mpaudit.keras")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
