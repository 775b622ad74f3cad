"""Whether code stands under a condition on the library's version.

Code that asks what the installed torch can do, and takes another road where it cannot, knows what
it does: an old call on the old road is right there.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mpaudit.source.text.module import Module

_MISSING = frozenset({"ImportError", "ModuleNotFoundError", "AttributeError", "TypeError"})
_ANYTHING = frozenset({"Exception", "BaseException"})
_ABOUT_VERSION = re.compile(
    r"__version__|torch\w*version|version\w*torch|(digit|parse|loose)_?version|(?-i:^Version$)"
    r"|(^|_)(py)?(torch|pt)"
    r"(_?(g[et]|l[et]|eq|greater|less|or|equal|than|min|max|at|least|is|v))*_?\d"
    r"|(has|is)_(native|torch|cuda)_amp",
    re.IGNORECASE,
)
_VERSION = re.compile(r"[^\d]{0,3}\d+\.\d+[\w.+]*")
_LIBRARIES = frozenset({"torch", "tensorflow", "keras", "tf_keras"})
_ABOUT_AMP = re.compile(r"amp|autocast|scaler|custom_|mixed_precision|policy|exp", re.IGNORECASE)
_EXPECTING = frozenset(["raises", "assertRaises", "assertRaisesRegex", "assertWarns", "warns"])
_LEAVES = ast.Return | ast.Continue | ast.Break


def guarded(node: ast.AST, module: Module) -> bool:
    """Whether `node` runs only on some versions of a library, or has a fallback beside it."""
    names = Names.of(module)
    child, parent = node, module.parents.get(node)
    while parent is not None:
        if _guards(parent, child, module, names):
            return True
        child, parent = parent, module.parents.get(parent)
    return False


def attempted(node: ast.AST, module: Module) -> bool:
    """Whether a `try` around `node`, or a handler of one, expects that something is not there."""
    child, parent = node, module.parents.get(node)
    while parent is not None:
        if isinstance(parent, ast.Try) and (child in parent.body or child in parent.handlers):
            if _is_attempt(parent):
                return True
        child, parent = parent, module.parents.get(parent)
    return False


def expected(node: ast.AST, module: Module) -> bool:
    """Whether a test says that this fails."""
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                    if call.func.attr in _EXPECTING:
                        return True
    return False


def _guards(parent: ast.AST, child: ast.AST, module: Module, names: Names) -> bool:
    if isinstance(parent, ast.Try) and (child in parent.body or child in parent.handlers):
        return _is_attempt(parent)
    if isinstance(parent, (ast.If, ast.IfExp)) and child is not parent.test:
        return _asks(parent.test, module, names)
    if isinstance(parent, ast.BoolOp):
        earlier = parent.values[: parent.values.index(child)] if child in parent.values else []
        return any(_asks(each, module, names) for each in earlier)
    if isinstance(parent, ast.Call) and child in parent.args[2:]:
        return names.resolve(parent.func) == "builtins.getattr"
    if isinstance(child, ast.stmt):
        return any(
            (earlier.end_lineno or 0) < child.lineno <= last and _asks(earlier.test, module, names)
            for earlier, last in _exits(parent)
        )
    return False


@for_a_while(1024)
def _exits(parent: ast.AST) -> tuple[tuple[ast.If, int], ...]:
    """The branches that leave a block of `parent` early, each with the row where the block ends."""
    found: list[tuple[ast.If, int]] = []
    for name in ("body", "orelse", "finalbody"):
        block = getattr(parent, name, None)
        if isinstance(block, list) and block:
            last = block[-1].end_lineno or block[-1].lineno
            found += [(each, last) for each in block if isinstance(each, ast.If) and _leaves(each)]
    return tuple(found)


def _leaves(branch: ast.If) -> bool:
    return any(block and isinstance(block[-1], _LEAVES) for block in (branch.body, branch.orelse))


def _is_attempt(attempt: ast.Try) -> bool:
    """Whether a `try` expects that something is not there to be imported."""
    caught = {name for handler in attempt.handlers for name in _caught(handler)}
    if caught & _MISSING:
        return True
    only_names = all(
        isinstance(each, (ast.Import, ast.ImportFrom, ast.Assign, ast.Pass))
        for each in attempt.body
    )
    return only_names and bool(caught & _ANYTHING)


def _caught(handler: ast.ExceptHandler) -> Iterable[str]:
    if handler.type is None:
        return ["BaseException"]
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return [
        each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in kinds
    ]


def _asks(test: ast.expr, module: Module, names: Names, depth: int = 2) -> bool:
    """Whether a condition is about what the installed library has."""
    for node in walk(test):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word):
                if _ABOUT_VERSION.search(word):
                    return True
                if depth and isinstance(node, ast.Name) and _is_flag(node, module, names, depth):
                    return True
            case ast.Constant(value=str(text)) if _VERSION.fullmatch(text):
                return True
            case ast.Call(
                func=ast.Name(id="hasattr" | "getattr"),
                args=[owner, ast.Constant(value=str(wanted)), *_],
            ):
                library = (names.resolve(owner) or "").partition(".")[0]
                if library in _LIBRARIES and _ABOUT_AMP.search(wanted):
                    return True
    return False


def _is_flag(name: ast.Name, module: Module, names: Names, depth: int) -> bool:
    """Whether a name was set from such a condition, or in a `try` around an import."""
    for binding in names.bindings(name):
        if isinstance(binding.origin, ast.Constant):
            parent = module.parents[module.statement(binding.node)]
            if isinstance(parent, ast.ExceptHandler):
                parent = module.parents[parent]
            if isinstance(parent, ast.Try) and _is_attempt(parent):
                return True
        elif isinstance(binding.origin, ast.expr) and _asks(
            binding.origin, module, names, depth - 1
        ):
            return True
    return False
