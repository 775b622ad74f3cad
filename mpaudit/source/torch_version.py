"""Which versions of torch a file has to run with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.source.requirement import Allowed, allowed_torch

if TYPE_CHECKING:
    from mpaudit.source.module import Module


def torch_of(module: Module) -> Allowed:
    """The torch versions that `module` must run with: what the command line says, else its project."""
    if module.target.torch is not None:
        return Allowed(module.target.torch)
    return allowed_torch(Path(module.filename))
