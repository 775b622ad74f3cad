"""Repairs of regions that outlast what they keep: `with` moved into the loop, or the cache switched off."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec.structs import replace

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.torch_names import AUTOCASTS, LEGACY_AUTOCASTS
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    indentation,
    repairs,
    spans_lines,
)
from mpaudit.source.text.argument import UnrepairableError, arguments
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk


@repairs("autocast-around-loop")
def one_region_for_each_step(context: Context) -> Fix | None:
    """Move the region into the innermost loop, around what comes before `backward()`."""
    return _moved_inwards(context) or switched_off(context)


@repairs("cached-casts-in-capture")
def switched_off(context: Context) -> Fix | None:
    """`torch.autocast("cuda")` -> `torch.autocast("cuda", cache_enabled=False)`."""
    module, call = context.module, context.node(ast.Call)
    if context.problem.rule != "autocast-around-loop":
        call = module.node_at(context.problem.related[0].span, ast.Call)
    if not isinstance(call, ast.Call):
        return None
    name = Names.of(module).resolve(call.func)
    plain = not any(k.arg in (None, "cache_enabled") for k in call.keywords)
    starred = any(isinstance(each, ast.Starred) for each in call.args)
    if name not in AUTOCASTS and name not in LEGACY_AUTOCASTS:
        return None
    if not plain or starred or len(call.args) > 2:
        return None
    try:
        begin, spans = arguments(module, call)
    except UnrepairableError:
        return None
    at, before = (spans[-1][1], ", ") if spans else (begin, "")
    edit = Edit(at, at, f"{before}cache_enabled=False")
    return Fix("Keep no cast weights", (edit,), Safety.SAFE)


@repairs("no-grad-poisons-cache")
def switched_off_perhaps(context: Context) -> Fix | None:
    """The same, for the versions of torch that need it."""
    fix = switched_off(context)
    return None if fix is None else replace(fix, safety=Safety.SUGGESTION)


def _moved_inwards(context: Context) -> Fix | None:
    module, call = context.module, context.node(ast.Call)
    item = module.parents[call] if call is not None else None
    region = module.parents[item] if isinstance(item, ast.withitem) else None
    if (
        not isinstance(region, ast.With)
        or len(region.items) != 1
        or len(context.problem.related) != 2
    ):
        return None
    backward = context.statement_at(context.problem.related[1].span)
    if backward is None or region.items[0].optional_vars is not None:
        return None
    loop = module.parents[backward]
    if not isinstance(loop, ast.For) or not _directly_inside(module, loop, region):
        return None
    body = block_of(module, backward)
    before, after = body[: body.index(backward)], body[body.index(backward) :]
    while before and _zeroes(before[0]):
        before = before[1:]
    if not before or spans_lines(region.body) or not _tidy(module, region):
        return None
    outside = [s for s in walk(region) if isinstance(s, ast.stmt)]
    inside = {node for statement in before for node in walk(statement)}
    forwards = {ast.unparse(each.func) for s in before for each in _kept_calls(s)}
    for statement in outside:
        if statement not in inside and _calls(statement, region, forwards):
            return None
    return _edits(module, region, before, after)


def _directly_inside(module: Module, loop: ast.For, region: ast.With) -> bool:
    """Whether nothing but loops stands between the region and the loop."""
    node: ast.AST = loop
    while node is not region:
        node = module.parents[node]
        if node is not region and not isinstance(node, ast.For):
            return False
    return True


def _calls(statement: ast.stmt, region: ast.With, forwards: set[str]) -> bool:
    """Whether a statement of its own, and not one inside it, calls what the region is for."""
    if statement is region:
        return False
    parts: list[ast.AST] = [statement]
    if isinstance(statement, ast.For):
        parts = [statement.iter]
    elif not isinstance(statement, (ast.Expr, ast.Assign, ast.AugAssign, ast.If, ast.Pass)):
        return True
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in forwards
        for part in parts
        for node in walk(part)
    )


def _kept_calls(statement: ast.stmt) -> Iterator[ast.Call]:
    if isinstance(statement, ast.Assign):
        yield from (n for n in walk(statement.value) if isinstance(n, ast.Call))


def _zeroes(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return isinstance(function, ast.Attribute) and function.attr == "zero_grad"


def _tidy(module: Module, region: ast.With) -> bool:
    """Whether every line of the region is indented further than the region, and alone."""
    if region.items[0].context_expr.end_lineno != region.lineno:
        return False
    return alone(module, region) and all(
        alone(module, node) for node in walk(region) if isinstance(node, ast.stmt)
    )


def _edits(
    module: Module, region: ast.With, before: list[ast.stmt], after: list[ast.stmt]
) -> Fix | None:
    """The header goes, all lines move out by one level, and those of `before` stay under a new header."""
    outer = indentation(module, region)
    step = indentation(module, region.body[0]).removeprefix(outer)
    if not step or not after:
        return None
    start, end = module.line_range(region.lineno)
    header = module.text[start:end].removeprefix(outer)
    first, last = before[0].lineno, before[-1].end_lineno or before[-1].lineno
    edits = [Edit(start, end, "")]
    for row in range(region.lineno + 1, (region.end_lineno or region.lineno) + 1):
        begin, _ = module.line_range(row)
        line = module.line(row)
        if row == first:
            inner = indentation(module, before[0]).removeprefix(outer + step)
            edits.append(Edit(begin, begin, f"{outer}{inner}{header}"))
        if first <= row <= last or not line.strip():
            continue
        if not line.startswith(outer + step):
            if line.lstrip().startswith("#"):
                continue
            return None
        edits.append(Edit(begin, begin + len(outer + step), outer))
    return Fix("Enter a region for each step", tuple(edits), Safety.SAFE)
