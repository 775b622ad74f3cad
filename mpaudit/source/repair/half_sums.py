"""Repairs of squares that float16 cannot hold: the cast to float32 in front of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.keras_half import spelling_of_tensorflow
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import walk


@repairs("half-reduction")
def square_in_float32(context: Context) -> Fix | None:
    """`h.pow(2).mean(-1)` -> `h.float().pow(2).mean(-1)`, where both stand in one expression."""
    module, node = context.module, context.node(ast.Call)
    tensor = context.subject("tensor")
    if node is None or not tensor:
        return None
    found = [each for each in walk(node) if list(_squared(module, each, tensor))]
    if len(found) != 1:
        return None
    operands = list(_squared(module, found[0], tensor))
    if not all(isinstance(o, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)) for o in operands):
        return None
    if context.subject("library") == "tensorflow":
        spelled = spelling_of_tensorflow(module)
        if spelled is None:
            return None
        ranges = [module.range(operand) for operand in operands]
        texts = [f"{spelled}.cast({module.source(each)}, {spelled}.float32)" for each in operands]
        edits = tuple(Edit(*place, text) for place, text in zip(ranges, texts, strict=True))
    else:
        ends = [module.range(operand)[1] for operand in operands]
        edits = tuple(Edit(end, end, ".float()") for end in ends)
    return Fix("Square and sum up in float32", edits, Safety.SUGGESTION)


def _squared(module: Module, node: ast.AST, tensor: str) -> Iterator[ast.expr]:
    """The operands of a square of the tensor."""
    operands: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        operands = [node.left, node.right]
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        operands = [node.left]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("pow", "square", "norm", "l2_loss"):
            is_method = " ".join(module.source(node.func.value).split()) == tensor
            operands = [node.func.value] if is_method else node.args[:1]
    if operands and all(" ".join(module.source(o).split()) == tensor for o in operands):
        yield from operands
