"""Which versions of torch a file has to run with, and what it learns where it asks for that itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.source.engine.values import Const, External, Value
from mpaudit.source.text.requirement import Allowed, allowed_torch

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

ASKED = frozenset(["torch.__version__", "torch.version.__version__"])
FIRST_WITH_AMP = (1, 6)
"""Before this release torch had neither autocast nor a GradScaler."""
_RELEASE = re.compile(r"v?(\d+(?:\.\d+)*)")


def torch_of(module: Module) -> Allowed:
    """The torch versions that `module` must run with: what the command line says, else its project."""
    if module.target.torch is not None:
        return Allowed(module.target.torch)
    return allowed_torch(Path(module.filename))


def release(value: Value) -> tuple[int, ...] | None:
    """The numbers of a version that stands in the text, as a text or by itself; without zeros behind."""
    text = value.value if isinstance(value, Const) else None
    found = _RELEASE.match(text) if isinstance(text, str) else None
    if found is None:
        return None
    numbers = [int(each) for each in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def reached(asked: Value, wanted: Value, module: Module, *, beyond: bool) -> bool:
    """Whether all versions that are meant are the `wanted` one or later ones; only later if `beyond`."""
    if not isinstance(asked, External) or asked.name not in ASKED:
        return False
    numbers = release(wanted)
    if numbers is None:
        return False
    floor = torch_of(module).floor or FIRST_WITH_AMP
    return floor > numbers if beyond else floor >= numbers
