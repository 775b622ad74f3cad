"""Repairs of what libraries are asked for: switches that exclude each other, arguments that are gone."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module


@repairs("conflicting-precision-flags")
def repair_flags(context: Context) -> Fix | None:
    """Drop `fp16=True` beside `bf16=True`; drop or rename what the library does not take."""
    if context.subject("drop"):
        return _one_switch(context)
    argument, instead = context.subject("argument"), context.subject("instead")
    node = context.node()
    if context.subject("value"):
        if not instead or not isinstance(node, ast.Constant):
            return None
        quote = context.module.source(node)[0]
        edit = Edit(*context.module.range(node), f"{quote}{instead}{quote}")
        return Fix(f"Ask for {quote}{instead}{quote}", (edit,), Safety.SAFE)
    if not isinstance(node, ast.keyword) or argument is None:
        return None
    if argument == "fp16":
        return _renamed(context.module, node)
    value = node.value
    if isinstance(value, ast.Constant) and value.value == "apex":
        return None  # what replaces apex is more than this argument
    removed = _without(context.module, node)
    return Fix(f"Leave out `{argument}`", (removed,), Safety.SAFE) if removed else None


def _one_switch(context: Context) -> Fix | None:
    module, node = context.module, context.node()
    call = module.parents.get(node) if isinstance(node, ast.keyword) else node
    if not isinstance(call, ast.Call):
        return None
    drop, keep = context.subject("drop"), context.subject("keep")
    named = {each.arg: each for each in call.keywords}
    if drop not in named or keep not in named:
        return None
    removed = _without(module, named[drop])
    if removed is None:
        return None
    return Fix(f"Leave out `{drop}`, keep `{keep}`", (removed,), Safety.UNSAFE)


def _renamed(module: Module, keyword: ast.keyword) -> Fix | None:
    """`Accelerator(fp16=True)` -> `Accelerator(mixed_precision="fp16")`."""
    call = module.parents[keyword]
    assert isinstance(call, ast.Call)
    given = {each.arg for each in call.keywords}
    if (
        len(call.args) > 2
        or "mixed_precision" in given
        or not isinstance(keyword.value, ast.Constant)
    ):
        return None
    quote = module.quote
    precision = "fp16" if keyword.value.value else "no"
    edit = Edit(*module.range(keyword), f"mixed_precision={quote}{precision}{quote}")
    return Fix("Ask for it by `mixed_precision`", (edit,), Safety.SAFE)


def _without(module: Module, keyword: ast.keyword) -> Edit | None:
    """Take an argument out of its call; None where a comment would go with it."""
    call = module.parents[keyword]
    assert isinstance(call, ast.Call)
    parts = sorted([*call.args, *call.keywords], key=lambda each: module.range(each)[0])
    place = parts.index(keyword)
    start, end = module.range(keyword)
    if place + 1 < len(parts):
        end = module.range(parts[place + 1])[0]
    elif place:
        start = module.range(parts[place - 1])[1]
    return None if "#" in module.text[start:end] else Edit(start, end, "")
