"""Repair of models that run in threads: the region is entered in the thread."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import (
    Context,
    alone,
    indentation,
    lines_of,
    reindent,
    repairs,
    spans_lines,
)
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk

INDENT = "    "


@repairs("autocast-across-threads")
def enter_in_thread(context: Context) -> Fix | None:
    """Wrap the statement that calls the model in a region like that of the starting thread."""
    module, problem = context.module, context.problem
    region = next((each.span for each in problem.related), None)
    if region is None or region.filename != problem.span.filename:
        return None
    entered, statement = module.node_at(region, ast.Call), context.statement_at(problem.span)
    if not isinstance(entered, ast.Call) or not isinstance(
        statement, (ast.Return, ast.Assign, ast.AugAssign, ast.Expr)
    ):
        return None
    if not alone(module, statement) or spans_lines([statement]):
        return None
    inside = _function(module, statement)
    if inside is None or inside is _function(module, module.statement(entered)):
        return None
    if not _names(entered) <= _imported(module):
        return None
    start, end = lines_of(module, statement)
    indent = indentation(module, statement)
    text = f"{indent}with {module.source(entered)}:{module.newline}"
    text += reindent(module.text[start:end], indent, indent + INDENT)
    return Fix("Enter the region in the thread", (Edit(start, end, text),), Safety.SUGGESTION)


def _function(module: Module, node: ast.AST) -> ast.AST | None:
    while node in module.parents and not isinstance(node, ast.FunctionDef):
        node = module.parents[node]
    return node if isinstance(node, ast.FunctionDef) else None


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in walk(node) if isinstance(part, ast.Name)}


def _imported(module: Module) -> set[str]:
    return {
        alias.asname or alias.name.partition(".")[0]
        for node in module.tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
