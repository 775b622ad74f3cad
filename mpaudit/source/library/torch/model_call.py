"""Where a model is called that the layer in progress is a part of."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import kind_of
from mpaudit.source.engine.values import Class

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.path import Frame
    from mpaudit.source.engine.request import Call


def model_call(call: Call) -> tuple[Span, str]:
    """The place where the model is called, and how it is spelled there."""
    around = call.sites
    frame, node = next((site for site in around if not _is_part(site[0])), around[-1])
    named = node.func if isinstance(node, ast.Call) else node
    return frame.module.span(node), " ".join(frame.module.source(named).split())


def _is_part(frame: Frame) -> bool:
    """Whether an activation is a method of a model: what it calls are parts of that model."""
    owner = frame.function.owner if frame.function is not None else None
    return isinstance(owner, Class) and kind_of(owner)[0] == "Module"
