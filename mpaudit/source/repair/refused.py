"""Repairs of what CUDA's autocast refuses to run: a loss moves into float32, or takes logits."""

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
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

SIGMOIDS = frozenset(["torch.sigmoid", "torch.nn.functional.sigmoid", "torch.special.expit"])
AUTOCASTS = frozenset(["torch.autocast", "torch.amp.autocast"])
LIGHT = frozenset(
    [
        "sigmoid",
        "squeeze",
        "unsqueeze",
        "view",
        "view_as",
        "reshape",
        "flatten",
        "permute",
        "transpose",
        "contiguous",
        "float",
        "detach",
        "ones_like",
        "zeros_like",
        "full_like",
        "ones",
        "zeros",
        "full",
        "to",
        "type_as",
        "expand",
        "expand_as",
        "clamp",
        "clip",
        "size",
        "numel",
        "mean",
        "sum",
        "long",
        "bool",
        "cuda",
        "cpu",
    ]
)
"""What may be computed with autocast off as well as with it on: no layer, no matrix product."""
_Plain = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Expr | ast.Return


@repairs("bce-under-autocast")
def in_float32(context: Context) -> Fix | None:
    """Take logits where the sigmoid stands in the call itself, else leave autocast for the loss."""
    node = context.node(ast.Call)
    if not isinstance(node, ast.Call):
        return None
    return _with_logits(context.module, node) or _outside(context, node)


def _with_logits(module: Module, node: ast.Call) -> Fix | None:
    """`F.binary_cross_entropy(torch.sigmoid(z), y)` -> `..._with_logits(z, y)`."""
    named = Names.of(module).resolve(node.func) or ""
    if named != "torch.nn.functional.binary_cross_entropy" or not node.args:
        return None
    logits = _under_sigmoid(module, node.args[0])
    if logits is None or not isinstance(node.func, ast.Attribute):
        return None
    end = module.range(node.func)[1]
    edits = (
        Edit(end, end, "_with_logits"),
        Edit(*module.range(node.args[0]), module.source(logits)),
    )
    return Fix("Take the logits: the loss applies the sigmoid itself", edits, Safety.SAFE)


def _under_sigmoid(module: Module, node: ast.expr) -> ast.expr | None:
    if not isinstance(node, ast.Call) or node.keywords:
        return None
    if Names.of(module).resolve(node.func) in SIGMOIDS and len(node.args) == 1:
        return node.args[0]
    if isinstance(node.func, ast.Attribute) and node.func.attr == "sigmoid" and not node.args:
        return node.func.value if not isinstance(node.func.value, ast.BinOp) else None
    return None


def _outside(context: Context, node: ast.Call) -> Fix | None:
    """Put the statement into a region that is switched off, and cast what the loss is given."""
    module, statement = context.module, context.module.statement(node)
    region = _switched_off(context, node)
    if region is None or not isinstance(statement, _Plain) or not alone(module, statement):
        return None
    if spans_lines([statement]):
        return None
    calls = [each for each in walk(statement) if isinstance(each, ast.Call)]
    losses = [each for each in calls if ast.unparse(each.func) == ast.unparse(node.func)]
    if not all(each in losses or _light(module, each) for each in calls):
        return None
    casts: list[Edit] = []
    for given in (argument for loss in losses for argument in _given(loss)):
        added = _cast(module, given)
        if added is None:
            return None
        casts += added
    start, end = lines_of(module, statement)
    text = module.text[start:end]
    for edit in sorted(casts, reverse=True):
        text = text[: edit.start - start] + edit.content + text[edit.end - start :]
    indent = indentation(module, statement)
    inner = indent + ("\t" if indent.endswith("\t") else "    ")
    body = reindent(text, indent, inner) if indent else "    " + text
    edit = Edit(start, end, f"{indent}with {region}:{module.newline}{body}")
    return Fix("Compute the loss in float32, with autocast off", (edit,), Safety.SAFE)


def _given(loss: ast.Call) -> list[ast.expr]:
    named = [each.value for each in loss.keywords if each.arg in ("input", "target")]
    return [*loss.args[:2], *named]


def _light(module: Module, call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in LIGHT:
        return False
    return not any(isinstance(each, ast.Call) for each in walk(call.func.value)) or (
        isinstance(call.func.value, ast.Call) and _light(module, call.func.value)
    )


def _cast(module: Module, given: ast.expr) -> list[Edit] | None:
    """The edits that append `.float()`; None where it is not a tensor's expression."""
    if isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute):
        if given.func.attr == "float" and not given.args:
            return []
    start, end = module.range(given)
    if isinstance(given, (ast.Name, ast.Attribute, ast.Subscript, ast.Call)):
        return [Edit(end, end, ".float()")]
    if isinstance(given, (ast.BinOp, ast.UnaryOp)):
        return [Edit(start, start, "("), Edit(end, end, ").float()")]
    return None


def _switched_off(context: Context, node: ast.Call) -> str | None:
    """`torch.autocast(device, enabled=False)`, with the device as the region around spells it."""
    module, names = context.module, Names.of(context.module)
    spans = [each.span for each in context.problem.related if each.message.startswith("the region")]
    entered = module.node_at(spans[0], ast.Call) if spans else None
    if spans and spans[0].filename == module.filename and isinstance(entered, ast.Call):
        meaning = names.resolve(entered.func)
        if meaning in AUTOCASTS and _around(module, entered, node):
            device = entered.args[0] if entered.args else None
            device = device or next(
                (k.value for k in entered.keywords if k.arg == "device_type"), None
            )
            if device is not None and not isinstance(device, (ast.Call, ast.Starred)):
                return f"{module.source(entered.func)}({module.source(device)}, enabled=False)"
    torch = next(
        (
            alias.asname or alias.name
            for statement in module.tree.body
            if isinstance(statement, ast.Import)
            for alias in statement.names
            if alias.name == "torch"
        ),
        None,
    )
    quote = module.quote
    return torch and f"{torch}.autocast({quote}cuda{quote}, enabled=False)"


def _around(module: Module, entered: ast.Call, node: ast.AST) -> bool:
    """Whether the `with` that enters the region stands around the loss in the same function."""
    parent: ast.AST = node
    while parent in module.parents:
        parent = module.parents[parent]
        if isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return False
        if isinstance(parent, ast.With):
            if any(item.context_expr is entered for item in parent.items):
                return True
    return False
