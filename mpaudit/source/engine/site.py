"""Where code in progress stands: in its own text, and in those of the functions around it."""

from __future__ import annotations

import ast

from mpaudit.source.engine.path import Frame, Identities, Path
from mpaudit.source.trait.gradient_mode import gradients_off

Site = tuple[Frame, ast.AST]


def sites(node: ast.AST, path: Path, identities: Identities) -> list[Site]:
    """A place, and the calls of the functions around it, innermost first."""
    found: list[Site] = [(path.frame, node)]
    frames = [frame for frame in path.frames if not frame.in_class]
    for inner, outer in zip(reversed(frames), reversed(frames[:-1]), strict=False):
        origin, *rest = identities.description(inner.context)
        if origin != "in" or not isinstance(rest[1], ast.AST):
            break
        found.append((outer, rest[1]))
    return found


def unrecorded(around: list[Site]) -> bool:
    """Whether what runs there is recorded for no backward pass: nothing comes back through it."""
    return any(
        gradients_off(node, frame.function.node if frame.function else None, frame.module)
        for frame, node in around
    )
