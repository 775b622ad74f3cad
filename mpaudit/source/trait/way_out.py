"""Calls that end the program because something is wrong: what follows them is not reached."""

from __future__ import annotations

import ast

from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

ENDING = frozenset(["sys.exit", "builtins.exit", "builtins.quit", "os._exit"])
"""Calls that do not return."""
PARSERS = frozenset(["argparse.ArgumentParser", "optparse.OptionParser"])
"""Objects whose `error()` and `exit()` do not return."""
NAMES = frozenset(["exit", "quit", "_exit", "error"])
"""The last names of all of these."""
PLACES = (ast.If, ast.ExceptHandler)
"""Where such a call stands that leaves because something is wrong; others end what is through anyway."""


def leads_out(node: ast.Expr, module: Module) -> bool:
    """Whether the program ends at a statement of a function: `else: sys.exit(1)`, `parser.error(...)`."""
    if not isinstance(node.value, ast.Call) or not isinstance(module.parents.get(node), PLACES):
        return False
    function = node.value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    if name not in NAMES:
        return False
    names = Names.of(module)
    if names.resolve(function) in ENDING:
        return True
    if not isinstance(function, ast.Attribute) or not isinstance(function.value, ast.Name):
        return False
    origins = [each.origin for each in names.bindings(function.value)]
    return bool(origins) and all(
        isinstance(each, ast.Call) and names.resolve(each.func) in PARSERS for each in origins
    )
