"""Functions that only pass on to what was followed already, with nothing of their own to hand over.

`def run(**kwargs): options = parse(); main(options)` beside a main block that calls `main` is the same
training once more: nothing is known of its options here or there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection

from mpaudit.source.engine.values import Function
from mpaudit.source.text.walk import walk

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


def passes_on(
    wrapper: AnyFunction,
    through: Collection[str],
    meaning: Callable[[str], Function | None],
    done: Callable[[Function], bool],
) -> bool:
    """Whether a function adds nothing to the calls of `through`, the names by which it matters.

    `meaning` tells the function of the project that a name stands for, `done` whether it was followed
    to its end. A literal is something to hand over, unless a function gets it that is not followed,
    of which nothing is known in any case.
    """
    targets = [meaning(name) for name in through]
    if not targets or not all(each is not None and done(each) for each in targets):
        return False
    idle: set[ast.AST] = set()
    if ast.get_docstring(wrapper, clean=False) is not None:
        idle.update(walk(wrapper.body[0]))
    for node in walk(wrapper):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id not in through and meaning(node.func.id) is not None:
                idle.update(walk(node))
        if isinstance(node, (ast.Constant, ast.Lambda)) and node not in idle:
            return False
    return True
