"""Repairs of checkpoints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.known_scaler import around, made_before, there
from mpaudit.source.repair.registry import Context, insert_after, repairs, unit
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import statements

KEY = "scaler"
NAMED = re.compile(r"(?:optimizer|optim|opt)(_state(?:_dict)?|_dict)?")
"""How the entry of an optimizer is called that is the only one; the scaler's is called alike."""


@repairs("scaler-not-checkpointed")
def save_scaler(context: Context) -> Fix | None:
    """Add the scaler's state to each dictionary of the file that holds the optimizer's, and load it."""
    module, scaler = context.module, context.subject("scaler")
    if scaler is None:
        return None
    saved: dict[tuple[object, str], Edit] = {}
    loaded: dict[tuple[object, str], Edit] = {}
    for taken in _taken(context):
        value = _value(module, taken)
        key, holder = _key(module, value), module.parents[value]
        if key is None or not there(module, taken, scaler):
            return None
        place = _place(module, holder)
        if place not in saved:
            edit = _saved(module, holder, value, key, _alike(module, value, taken, scaler))
            if edit is None:
                return None
            saved[place] = edit
        for where, edit in _loads(module, taken, key, scaler):
            loaded.setdefault(where, edit)
    if not saved:
        return None
    first, second = f"Save the state of `{scaler}` too", "load it where the optimizer's is loaded"
    message = f"{first}, {second}" if loaded else f"{first} (and {second})"
    return Fix(message, (*saved.values(), *loaded.values()), Safety.SAFE)


def _taken(context: Context) -> list[ast.Call]:
    """The calls of `state_dict()` in the file that the problem is about."""
    module, problem = context.module, context.problem
    spans = [problem.span, *(each.span for each in problem.related)]
    nodes = [module.node_at(s, ast.Call) for s in spans if s.filename == problem.span.filename]
    return [n for n in nodes if isinstance(n, ast.Call) and _method(n) == "state_dict"]


def _method(node: ast.expr) -> str:
    called = node.func if isinstance(node, ast.Call) else None
    return called.attr if isinstance(called, ast.Attribute) else ""


def _value(module: Module, taken: ast.Call) -> ast.expr:
    """The state, or the choice between it and None: `None if last else optimizer.state_dict()`."""
    value: ast.expr = taken
    while isinstance(choice := module.parents[value], ast.IfExp) and choice.test is not value:
        other = choice.orelse if choice.body is value else choice.body
        if not isinstance(other, ast.Constant) or other.value is not None:
            break
        value = choice
    return value


def _alike(module: Module, value: ast.expr, taken: ast.Call, scaler: str) -> str:
    """The scaler's state, chosen as the optimizer's is."""
    (start, end), (first, last) = module.range(value), module.range(taken)
    return f"{module.text[start:first]}{scaler}.state_dict(){module.text[last:end]}"


def _key(module: Module, taken: ast.expr) -> ast.Constant | None:
    """The word that a state is kept under: `{"optimizer": state}`, `checkpoint["optimizer"] = state`."""
    holder = module.parents[taken]
    key: ast.expr | None = None
    if isinstance(holder, ast.Dict):
        key = holder.keys[holder.values.index(taken)]
    elif isinstance(holder, ast.Assign) and len(holder.targets) == 1:
        target = holder.targets[0]
        key = target.slice if isinstance(target, ast.Subscript) else None
    return key if isinstance(key, ast.Constant) and isinstance(key.value, str) else None


def _place(module: Module, holder: ast.AST) -> tuple[object, str]:
    """What tells one dictionary of a file from another."""
    if isinstance(holder, ast.Assign) and isinstance(holder.targets[0], ast.Subscript):
        function = around(module, holder, ast.FunctionDef)
        return function, module.source(holder.targets[0].value)
    return holder, ""


def _named(key: ast.Constant) -> str:
    """The word for the scaler's state beside that of the optimizer."""
    alike = NAMED.fullmatch(str(key.value))
    return KEY + (alike[1] or "") if alike else KEY


def _quoted(module: Module, key: ast.Constant) -> str:
    mark = module.source(key)[-1]
    return mark + _named(key) + mark


def _saved(
    module: Module, holder: ast.AST, taken: ast.expr, key: ast.Constant, state: str
) -> Edit | None:
    if isinstance(holder, ast.Dict):
        return _entry(module, holder, taken, key, state)
    if isinstance(holder, ast.Assign) and isinstance(holder.targets[0], ast.Subscript):
        return _item(module, holder, holder.targets[0], key, state)
    return None


def _entry(
    module: Module, holder: ast.Dict, taken: ast.expr, key: ast.Constant, state: str
) -> Edit | None:
    """One more entry of `{"optimizer": optimizer.state_dict()}`."""
    if _named(key) in [each.value for each in holder.keys if isinstance(each, ast.Constant)]:
        return None
    added = f"{_quoted(module, key)}: {state}"
    _, end = module.range(taken)
    start, _ = module.range(key)
    first, _ = module.line_range(key.lineno)
    _, last = module.line_range(taken.end_lineno or taken.lineno)
    before, after = module.text[first:start], module.text[end:last].strip()
    if before.strip():
        return Edit(end, end, ", " + added)
    gap = f",{module.newline}{before}"
    if after not in (",", ""):  # a comment that belongs to the optimizer's line
        return Edit(start, start, added + gap)
    return Edit(end, end, gap + added)


def _item(
    module: Module, holder: ast.Assign, target: ast.Subscript, key: ast.Constant, state: str
) -> Edit | None:
    """One more line below `checkpoint["optimizer"] = optimizer.state_dict()`."""
    entry = f"{module.source(target.value)}[{_quoted(module, key)}]"
    for each in statements(module.tree):
        if isinstance(each, ast.Assign) and entry in map(module.source, each.targets):
            return None
    return insert_after(module, holder, f"{entry} = {state}")


def _loads(
    module: Module, taken: ast.Call, key: ast.Constant, scaler: str
) -> Iterator[tuple[tuple[object, str], Edit]]:
    """Lines below `optimizer.load_state_dict(checkpoint["optimizer"])`, where the scaler is there.

    Checkpoints that were written before lack its state, and that of a scaler that was off is empty, which
    one that is on does not take.
    """
    assert isinstance(taken.func, ast.Attribute)
    owner = ast.unparse(taken.func.value)
    if f"{scaler}.load_state_dict" in module.text:
        return
    for each in statements(module.tree):
        loading = each.value if isinstance(each, ast.Expr) else None
        if not isinstance(loading, ast.Call) or not isinstance(loading.func, ast.Attribute):
            continue
        if _method(loading) != "load_state_dict" or ast.unparse(loading.func.value) != owner:
            continue
        given = loading.args[0] if len(loading.args) == 1 else None
        if not isinstance(given, ast.Subscript) or not isinstance(given.slice, ast.Constant):
            continue
        if given.slice.value != key.value or not isinstance(given.value, (ast.Name, ast.Attribute)):
            continue
        if there(module, each, scaler) and made_before(module, each, scaler):
            checkpoint, word = module.source(given.value), _quoted(module, given.slice)
            lines = (
                f"if {checkpoint}.get({word}):",
                f"{unit(module, each)}{scaler}.load_state_dict({checkpoint}[{word}])",
            )
            edit = insert_after(module, each, *lines)
            if edit is not None:
                yield (module.parents[each], checkpoint), edit
