"""Models whose parameters a script has cast to 16 bits, as far as that still holds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mpaudit.source.engine.dtypes import HALF, Dtype, dtype, parameter_dtype
from mpaudit.source.engine.unfollowed import CLASS
from mpaudit.source.engine.values import Thing, Value
from mpaudit.source.library.torch.containers import parts_of_model

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path

_TAKEN_CARE_OF = re.compile(
    r"requires_grad|(?<!utils)\.data\b|master|\bpeft\b|[Ll]o[Rr]A\b|adapter"
)


def dtype_of_model(model: Thing, path: Path) -> Dtype | None:
    """The dtype of a model's parameters; a thing nothing is known of is cast like a tensor."""
    known = parameter_dtype(model, path)
    return dtype(model, path) if known is None and not model.kind else known


def cast_by_hand(model: Value | None, path: Path) -> Dtype | None:
    """The 16 bits, with the place, that a script has cast a model's parameters to and that still hold.

    None where the model, or a part of it, went where it cannot be followed, or the file takes care of
    parameters.
    """
    known = dtype_of_model(model, path) if isinstance(model, Thing) else None
    if (
        not isinstance(model, Thing)
        or known is None
        or known.name not in HALF
        or known.how != "cast"
    ):
        return None
    if known.at is None or any(_changed(part, path) for part in parts_of_model(model, path)):
        return None
    careful = any(_TAKEN_CARE_OF.search(frame.module.text) for frame in path.frames)
    return None if careful else known


def _changed(module: Thing, path: Path) -> bool:
    """Whether code out of sight may have changed a module, or made one of another class of it."""
    return path.known(module, "@strayed") is not None or (module.uid, CLASS) in path.heap
