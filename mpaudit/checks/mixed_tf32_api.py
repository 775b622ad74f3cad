"""MP312: the old and the new switches of TF32 in one program, or the words of one given to the other.

A new switch leaves the state of the old ones as it was, and torch refuses to read an old one that
disagrees with it. The uses of a scope are gone through in the order of the text, the module's
before a function's own; uses that depend on the version of torch, or exclude one another, are left
alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct

from mpaudit.checks.tf32_repair import in_new_words, renamed
from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.compat import guarded
from mpaudit.source.trait.tf32 import (
    CONV,
    GET,
    GROUPS,
    MATMUL,
    NEW,
    NEW_WORDS,
    OLD,
    OLD_WORDS,
    SET,
    Use,
    uses,
)

RULE = "mixed-tf32-api"
_SAID = {
    MATMUL: '"PyTorch is checking whether allow_tf32_new is enabled for cuBlas matmul',
    CONV: '"PyTorch is checking whether allow_tf32 is enabled for cuDNN',
}
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield what mixes the old and the new switches of TF32."""
    if "fp32_precision" not in module.text and "float32_matmul_precision" not in module.text:
        return
    found = list(uses(module))
    for use in found:
        yield from _wrong_word(use, module)
    counted = [use for use in found if not _depends(use.node, module)]
    scopes = {_scope(use.node, module) for use in counted}
    for scope in sorted(scopes, key=lambda each: getattr(each, "lineno", 0)):
        inside = (module.tree, scope)
        here = [use for use in counted if _scope(use.node, module) in inside]
        here.sort(key=lambda use: (_scope(use.node, module) is not module.tree, use.order))
        for group in GROUPS:
            clash = _clash(here, group)
            if clash is None or _scope(clash.at.node, module) is not scope:
                continue
            if not _exclusive([use for use in here if group in use.groups], module):
                yield _mixed(clash, group, module), renamed(module, found, counted)


def _wrong_word(use: Use, module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """A word of the new switches given to the old function, or the other way round."""
    if use.name == SET and use.word in NEW_WORDS and use.word not in OLD_WORDS:
        said, takes = "and does nothing, with a warning", sorted(OLD_WORDS)
    elif use.name in NEW and use.word in OLD_WORDS:
        said, takes = f'it raises "Unknown precision: {use.word}"', sorted(NEW_WORDS)
    else:
        return
    told = "`set_float32_matmul_precision`" if use.name == SET else "`fp32_precision`"
    family = "new switches" if use.name == SET else "old function"
    problem = Problem(
        RULE,
        module.span(use.node),
        f'"{use.word}" is a word of the {family}; {told} takes {", ".join(takes)}',
        said if said.startswith("it raises") else f"the call sets nothing {said}",
    )
    yield problem, in_new_words(module, use)


class _Clash(Struct, frozen=True):
    """An old and a new switch that disagree: `at` is where that shows, `other` the other one."""

    at: Use
    other: Use


def _clash(here: list[Use], group: str) -> _Clash | None:
    """The first place where the old state of a group is read, or left, other than the new one."""
    old: bool | None = group == CONV  # as torch starts out
    new: dict[str, bool | None] = dict.fromkeys(GROUPS[group], old)
    wrote: Use | None = None
    last_old: Use | None = None
    for use in here:
        if group not in use.groups:
            continue
        if use.name in OLD:
            if use.writes:
                old, wrote, last_old = use.on, None, use
                new = dict.fromkeys(new, use.on)
            elif wrote is not None and _disagree(old, new):
                return _Clash(use, wrote)
        elif use.writes:
            new.update((part, use.on) for part in new if use.sets(part))
            wrote = use
    if wrote is not None and last_old is not None and _disagree(old, new):
        return _Clash(wrote, last_old)
    return None


def _disagree(old: bool | None, new: dict[str, bool | None]) -> bool:
    return old is not None and any(each is (not old) for each in new.values())


def _mixed(clash: _Clash, group: str, module: Module) -> Problem:
    at, other = clash.at, clash.other
    if at.name in OLD:
        message = f"`{at.text}` is read after the new switch `{other.text}` was set"
        told = "the new switch is set here"
        said = '"PyTorch is checking the matmul precision' if at.name == GET else _SAID[group]
        consequence = f'it raises {said} ...": the new switch does not write the old state'
    else:
        message = f"`{at.text}` contradicts the old switch `{other.text}`, which keeps its state"
        told = "the old switch is set here"
        consequence = "the new switch wins, and whatever reads an old one raises a RuntimeError"
    return Problem(
        RULE,
        module.span(at.node),
        message,
        consequence,
        (Related(module.span(other.node), told),),
    )


def _scope(node: ast.AST, module: Module) -> ast.AST:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, _FUNCTIONS):
            return node
    return module.tree


def _depends(node: ast.AST, module: Module) -> bool:
    """Whether a use depends on what the installed torch has."""
    if guarded(node, module):
        return True
    names = Names.of(module)
    child, parent = node, module.parents.get(node)
    while parent is not None:
        if isinstance(parent, (ast.If, ast.IfExp)) and child is not parent.test:
            if _asks(parent.test, names):
                return True
        child, parent = parent, module.parents.get(parent)
    return False


def _asks(test: ast.expr, names: Names) -> bool:
    for node in walk(test):
        if isinstance(node, ast.Constant) and node.value in ("fp32_precision", "allow_tf32"):
            return True
        if isinstance(node, ast.Name):
            origins = [each.origin for each in names.bindings(node)]
            if any(
                isinstance(part, ast.Constant) and part.value in ("fp32_precision", "allow_tf32")
                for origin in origins
                if isinstance(origin, ast.expr)
                for part in walk(origin)
            ):
                return True
    return False


def _exclusive(here: list[Use], module: Module) -> bool:
    """Whether two uses stand in different branches of one statement."""
    taken: dict[ast.AST, str] = {}
    for use in here:
        child: ast.AST = use.node
        parent = module.parents.get(child)
        while parent is not None:
            if isinstance(parent, (ast.If, ast.Try, ast.Match, ast.IfExp)):
                branch = _branch(parent, child)
                if taken.setdefault(parent, branch) != branch:
                    return True
            child, parent = parent, module.parents.get(parent)
    return False


def _branch(parent: ast.AST, child: ast.AST) -> str:
    for name, part in ast.iter_fields(parent):
        if part is child:
            return name
        if isinstance(part, list) and child in part:
            return f"{name}{part.index(child)}" if name in ("handlers", "cases") else name
    return ""
