"""MP702: apex.amp, which apex has no longer.

At most one problem per file, at the first import or use, with the whole loop rewritten to be looked
at. Not reported is an import with a fallback beside it, and one under a condition in a file that has
the native road as well: there apex is a choice.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.source.migration import apex
from mpaudit.source.text.names import Names
from mpaudit.source.trait.compat import guarded

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_MOST_RELATED = 8
_NATIVE = ("torch.cuda.amp", "torch.amp", "torch.autocast", "torch.cpu.amp")
_EXITS = frozenset({"sys.exit", "os._exit", "builtins.exit", "builtins.quit"})


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield what a file takes from apex.amp."""
    if "apex" not in module.text:
        return
    names = Names.of(module)
    brought, found = apex.imports(module, names), apex.uses(names)
    if not brought and not found:
        return
    package = [] if brought else [*_packages(module, names)]
    brought = brought or package
    if any(_may_fail(each, module, names) for each in brought):
        return
    always = any(isinstance(module.parents[each], ast.Module) for each in brought)
    if not always and _is_native(names):
        return
    found = [use for use in found if not guarded(use.node, module)]
    places: list[ast.expr | ast.stmt] = [use.node for use in found]
    places += brought if not package else []
    if not places:
        return
    first, *others = sorted(places, key=lambda node: (node.lineno, node.col_offset))
    related = [Related(module.span(node), "here too") for node in others[:_MOST_RELATED]]
    problem = Problem(
        "apex-amp",
        module.span(first),
        "`apex.amp` was removed from apex; torch has mixed precision of its own: `torch.autocast` around "
        "the forward pass, `torch.amp.GradScaler` around the backward pass and the step",
        "an apex of May 2025 or newer has no `amp`: the import raises ImportError",
        tuple(related),
    )
    yield problem, apex.rewrite(module, found, brought)


def _packages(module: Module, names: Names) -> Iterator[ast.Import | ast.ImportFrom]:
    """The statements `import apex`."""
    for binding in names.all():
        statement = module.parents.get(binding.node)
        if binding.origin == "apex" and isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield statement


def _may_fail(statement: ast.stmt, module: Module, names: Names) -> bool:
    """Whether the file goes on where apex is not there; a handler that raises goes not on."""
    child: ast.AST = statement
    parent = module.parents.get(child)
    while parent is not None:
        if isinstance(parent, ast.Try) and child in parent.body and not _gives_up(parent, names):
            return True
        child, parent = parent, module.parents.get(parent)
    return False


def _gives_up(attempt: ast.Try, names: Names) -> bool:
    return all(
        isinstance(last := handler.body[-1], ast.Raise)
        or (
            isinstance(last, ast.Expr)
            and isinstance(last.value, ast.Call)
            and names.resolve(last.value.func) in _EXITS
        )
        for handler in attempt.handlers
    )


def _is_native(names: Names) -> bool:
    return any((names.resolve(node) or "").startswith(_NATIVE) for node in names.reads())
