"""`from .tool import *`: whether the file behind it brings the name of a library along."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.text.names import Names
from mpaudit.source.text.project import Project

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_MAX_DEPTH = 3
"""Files that are gone through: each may pass on what it got by a star itself."""


def adopt(module: Module, library: str) -> None:
    """Let `library` mean itself in `module` where only a star import can have brought that name."""
    names = Names.of(module)
    if library not in names.spelled and _brings(
        module, library, module.project or Project(module.target)
    ):
        (star, *_) = names.scope.names["*"]
        names.bind(library, library, star.node)


def _brings(module: Module, library: str, project: Project, depth: int = 0) -> bool:
    """Whether one of the star imports at the top of `module` is of a file that imports `library`."""
    for binding in Names.of(module).scope.names.get("*", ()) if depth < _MAX_DEPTH else ():
        statement = module.parents[binding.node]
        assert isinstance(statement, ast.ImportFrom)
        found = project.find(statement.module or "", module, statement.level)
        if found is None:
            continue
        scope = Names.of(found).scope
        if "__all__" in scope.names:
            continue
        there = scope.names.get(library, [])
        if there and all(each.origin == library for each in there):
            return True
        if not there and _brings(found, library, project, depth + 1):
            return True
    return False
