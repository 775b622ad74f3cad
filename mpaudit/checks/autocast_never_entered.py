"""MP209: an autocast object that is built and not entered, or wrapped around what it cannot reach.

Reported are a bare call, a local variable that is never read, the class itself where an object is wanted
(`@torch.autocast`, `with torch.autocast:`), one that `and` leaves out (`with autocast("cuda") and other:`
enters the last only), and a decorated generator or coroutine function: autocast is left again before its
body runs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from mpaudit.checks.autocast_call import mentions, only_device
from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.torch_names import AUTOCASTS
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import children, walk

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_RULE = "autocast-never-entered"
_NOTHING_CAST = "nothing is cast: what should run in low precision runs in float32"
_Function = ast.FunctionDef | ast.AsyncFunctionDef

Found = tuple[Problem, Fix | None]


def check(module: Module) -> Iterator[Found]:
    """Yield the places where autocast takes no effect."""
    for node, name in mentions(module):
        parent = module.parents[node]
        if isinstance(parent, ast.Call) and parent.func is node:
            yield from _built(module, parent)
        elif isinstance(parent, _Function) and node in parent.decorator_list:
            yield _bare_decorator(module, node, name, parent)
        elif isinstance(parent, ast.withitem) and parent.context_expr is node:
            yield (
                _problem(
                    module,
                    node,
                    "the class `autocast` is entered, not an object of it: its call is missing",
                    "it raises \"'type' object does not support the context manager protocol\"",
                ),
                _add_call(module, node, name),
            )


def _built(module: Module, call: ast.Call) -> Iterator[Found]:
    parent = module.parents[call]
    if isinstance(parent, ast.Expr):
        yield (
            _problem(module, call, "autocast is built here and never entered", _NOTHING_CAST),
            _suggestion(module, call),
        )
    elif isinstance(parent, (ast.Assign, ast.AnnAssign)) and parent.value is call:
        yield from _unread(module, call, parent)
    elif isinstance(parent, ast.BoolOp) and isinstance(module.parents[parent], ast.withitem):
        yield from _left_out(module, call, parent)
    elif isinstance(parent, _Function) and call in parent.decorator_list:
        kind = _suspended(parent)
        if kind is not None:
            message = f"`{parent.name}` is a {kind}: its body runs after autocast is left again"
            yield _problem(module, call, message, _NOTHING_CAST), _inside(module, call)


def _left_out(module: Module, call: ast.Call, operands: ast.BoolOp) -> Iterator[Found]:
    """A region that `and` passes over: an object counts as true, and what is entered is the last one."""
    if not isinstance(operands.op, ast.And) or call is operands.values[-1]:
        return
    message = "`and` gives the last of its operands: this autocast is built and not entered"
    yield _problem(module, call, message, _NOTHING_CAST), _comma(module, operands)


def _comma(module: Module, operands: ast.BoolOp) -> Fix | None:
    """`with a and b:` -> `with a, b:`, where that enters both."""
    item = module.parents[operands]
    statement = module.parents[item]
    assert isinstance(item, ast.withitem) and isinstance(statement, (ast.With, ast.AsyncWith))
    if len(statement.items) > 1 or item.optional_vars is not None:
        return None  # in parentheses they would become a tuple
    edits = []
    for one, other in pairwise(operands.values):
        (_, end), (start, _) = module.range(one), module.range(other)
        if module.text[end:start].strip() != "and":
            return None
        edits.append(Edit(end, start, ", "))
    return Fix("Enter both, with a comma between them", tuple(edits), Safety.UNSAFE)


def _unread(
    module: Module, call: ast.Call, statement: ast.Assign | ast.AnnAssign
) -> Iterator[Found]:
    """A region in a local variable that nobody reads."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = Names.of(module)
    if len(targets) != 1 or not isinstance(targets[0], ast.Name):
        return
    target = targets[0]
    binding = next((each for each in names.all() if each.node is target), None)
    if binding is None or not isinstance(binding.scope.node, _Function):
        return
    if target.id in binding.scope.outside or names.readers(binding) or _asks_for_locals(binding):
        return
    message = f"autocast is kept in `{target.id}`, which is never entered"
    yield _problem(module, call, message, _NOTHING_CAST), _suggestion(module, call)


def _asks_for_locals(binding: object) -> bool:
    scope = getattr(binding, "scope", None)
    return scope is not None and any(
        isinstance(node, ast.Name) and node.id in ("locals", "vars", "eval", "exec")
        for node in walk(scope.node)
    )


def _bare_decorator(module: Module, node: ast.expr, name: str, function: _Function) -> Found:
    if name in AUTOCASTS:
        consequence = (
            "it raises \"Expected `device_type` of type `str`, got: `<class 'function'>`\""
        )
    else:
        consequence = (
            'calling it raises "autocast()(func) requires a callable": the function itself is lost'
        )
    message = f"`{function.name}` is handed to autocast's constructor: the decorator is not called"
    return _problem(module, node, message, consequence), _add_call(module, node, name)


def _suspended(function: _Function) -> str | None:
    """What kind of function does not run its body when it is called."""
    own = list(_own_nodes(function))
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in own):
        return "generator function"
    return "coroutine function" if isinstance(function, ast.AsyncFunctionDef) else None


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """The nodes of a function's body, without those of functions inside it."""
    waiting: list[ast.AST] = [*function.body]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (_Function, ast.Lambda, ast.ClassDef)):
            waiting.extend(children(node))


def _add_call(module: Module, node: ast.expr, name: str) -> Fix | None:
    """`@autocast` -> `@autocast("cuda")`, the device being that of the file's other regions."""
    _, end = module.range(node)
    if name not in AUTOCASTS:
        return Fix("Call it", (Edit(end, end, "()"),), Safety.SAFE)
    device = only_device(module)
    if device is None:
        return None
    argument = f"({module.quote}{device}{module.quote})"
    return Fix("Call it, with the device", (Edit(end, end, argument),), Safety.SAFE)


def _suggestion(module: Module, call: ast.Call) -> Fix:
    text = " ".join(module.source(call).split())
    message = f"Run the forward pass and the loss in `with {text}:`"
    return Fix(message, (), Safety.SUGGESTION)


def _inside(module: Module, call: ast.Call) -> Fix:
    text = " ".join(module.source(call).split())
    message = f"Enter `with {text}:` inside the function, around the forward pass"
    return Fix(message, (), Safety.SUGGESTION)


def _problem(module: Module, node: ast.AST, message: str, consequence: str) -> Problem:
    return Problem(_RULE, module.span(node), message, consequence)
