"""Repairs of MP312: the old switches of TF32 spelled with the new ones."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.module import Module
from mpaudit.source.trait.tf32 import GET, OLD, SET, Use

_WORDS = {"tf32": "high", "ieee": "highest", "bf16": "medium", "high": "tf32", "highest": "ieee"}
_Free = ast.Assign | ast.AnnAssign | ast.Expr | ast.If | ast.While | ast.Return | ast.keyword
_CUDNN = "torch.backends.cudnn.allow_tf32"
_READERS = ("lightning", "pytorch_lightning", "lightning_fabric")
"""Libraries that read an old switch themselves, and so die of any new one."""


def in_new_words(module: Module, use: Use) -> Fix | None:
    """Give a switch the word of its own family; where that sets what nothing set, it is unsafe."""
    word = _WORDS.get(use.word or "")
    value: ast.expr | None = use.node.args[0] if isinstance(use.node, ast.Call) else None
    if value is None:
        parent = module.parents[use.node]
        value = parent.value if isinstance(parent, ast.Assign) else None
    if word is None or value is None:
        return None
    quote = module.source(value)[0]
    if quote not in "\"'":
        return None
    edit = Edit(*module.range(value), f"{quote}{word}{quote}")
    safety = Safety.UNSAFE if use.name == SET else Safety.SAFE
    return Fix(f'Write "{word}"', (edit,), safety)


def renamed(module: Module, found: list[Use], counted: list[Use]) -> Fix | None:
    """Rewrite every old switch of the file; None where one of them cannot be."""
    edits: list[Edit] = []
    for use in found:
        if use.name not in OLD:
            continue
        if use not in counted or use.name in (SET, GET):
            return None
        assert isinstance(use.node, ast.Attribute)
        added = _written(module, use.node, use) if use.writes else _read(module, use.node, use)
        if added is None:
            return None
        edits += added
    if not edits:
        return None
    if any(_root(each) in _READERS for each in module.imports):
        message = "Use the old switches throughout: Lightning itself reads them"
        return Fix(message, (), Safety.SUGGESTION)
    return Fix("Use the new switches throughout", tuple(edits), Safety.SAFE)


def _root(node: ast.Import | ast.ImportFrom) -> str:
    name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
    return name.partition(".")[0]


def _written(module: Module, node: ast.Attribute, use: Use) -> list[Edit] | None:
    assign = module.parents[node]
    if not isinstance(assign, ast.Assign) or len(assign.targets) != 1:
        return None
    quote = module.quote
    on, off = f"{quote}tf32{quote}", f"{quote}ieee{quote}"
    value = on if use.on else off
    if use.on is None:
        value = f"{on} if {module.source(assign.value)} else {off}"
    end = module.range(node)[1]
    return [
        Edit(end - len("allow_tf32"), end, "fp32_precision"),
        Edit(*module.range(assign.value), value),
    ]


def _read(module: Module, node: ast.Attribute, use: Use) -> list[Edit] | None:
    start, end = module.range(node)
    part = "conv." if use.name == _CUDNN else ""
    text = f"{module.source(node.value)}.{part}fp32_precision == {module.quote}tf32{module.quote}"
    parent = module.parents[node]
    free = isinstance(parent, _Free) or (isinstance(parent, ast.Call) and node in parent.args)
    return [Edit(start, end, text if free else f"({text})")]
