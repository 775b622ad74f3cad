"""Repairs of losses that stand after the autocast region."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import (
    Context,
    alone,
    block_of,
    indentation,
    lines_of,
    reindent,
    repairs,
    spans_lines,
)
from mpaudit.source.text.walk import walk


@repairs("loss-outside-autocast")
def into_region(context: Context) -> Fix | None:
    """Indent the statement into the `with` that it follows."""
    module, loss = context.module, context.statement_at(context.problem.span)
    if not isinstance(loss, ast.Assign) or not alone(module, loss) or spans_lines([loss]):
        return None
    block = block_of(module, loss)
    place = block.index(loss)
    region = block[place - 1] if place else None
    if not isinstance(region, ast.With) or len(region.items) != 1:
        return None
    if any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in walk(loss)):
        return None
    entered = {each.span.start.row for each in context.problem.related}
    if region.lineno not in entered or not alone(module, region.body[-1]):
        return None
    start, end = lines_of(module, loss)
    text = module.text[start:end]
    inner = indentation(module, region.body[-1])
    moved = reindent(text, indentation(module, loss), inner)
    if not indentation(module, loss):
        moved = "".join(inner + line for line in text.splitlines(keepends=True))
    return Fix("Compute the loss inside the region", (Edit(start, end, moved),), Safety.SAFE)
