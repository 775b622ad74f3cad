"""Which files of the project a file imports, directly or through others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.project import Project

MAX_FILES = 300
"""A file that reaches more is not looked at to its end: the answer is None."""


def reached(module: Module, project: Project) -> list[Module] | None:
    """The file itself and all that its imports lead to inside the project."""
    found = {module.filename: module}
    waiting = [module]
    while waiting:
        if len(found) > MAX_FILES:
            return None
        for other in _imported(waiting.pop(), project):
            if other.filename not in found:
                found[other.filename] = other
                waiting.append(other)
    return list(found.values())


def _imported(module: Module, project: Project) -> Iterator[Module]:
    for node in module.imports:
        if isinstance(node, ast.Import):
            names = [(alias.name, 0) for alias in node.names]
        else:
            base = node.module or ""
            names = [(base, node.level)]
            names += [
                (f"{base}.{alias.name}" if base else alias.name, node.level) for alias in node.names
            ]
        for name, level in names:
            there = project.find(name, module, level) if name or level else None
            if there is not None:
                yield there
