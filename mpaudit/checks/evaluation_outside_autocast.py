"""MP802: a model that is trained in an autocast region and evaluated without one.

Told by the text of one file: something of which `eval()` is called runs in a region where backward is
run, and by the same name without gradients in a function that enters no region and is called in none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.source.text.module import bare
from mpaudit.source.text.names import Names
from mpaudit.source.trait.autocast_block import backwards, blocks, casts, function_of, is_inside

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_NO_GRADIENTS = frozenset({"torch.no_grad", "torch.inference_mode"})
_PRECISION = re.compile(r"autocast|amp\b|ctx|context|precision|\.half\(|\.to\(torch\.|dtype")
"""What a function says that deals with precision itself, by whatever name."""


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first call of a model that runs in another precision than in training."""
    text = module.text
    if "autocast" not in text or not ("no_grad" in text or "inference_mode" in text):
        return
    names = Names.of(module)
    around = blocks(module, names, casts(module, names))
    trains = {function_of(each, module) for each in backwards(module)}
    models = {
        ast.unparse(each.func.value)
        for each in module.every(ast.Call)
        if isinstance(each.func, ast.Attribute) and each.func.attr == "eval" and not each.args
    }
    calls = [each for each in module.every(ast.Call) if ast.unparse(each.func) in models]
    trained = {
        ast.unparse(each.func): each
        for each in calls
        if is_inside(each, around, module) and function_of(each, module) in trains
    }
    if not trained or _handles_it_in_forward(module):
        return
    for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
        function = function_of(call, module)
        same = trained.get(ast.unparse(call.func))
        if same is None or function in trains or not call.args:
            continue
        if any(".float()" in module.source(each) for each in call.args):
            continue
        if not _no_gradients(call, function, module, names) or _enters(function, module):
            continue
        if _is_called_inside(function, around, module):
            continue
        yield (
            Problem(
                "evaluation-outside-autocast",
                module.span(call),
                f"`{module.source(call.func)}` is evaluated outside of autocast, and trained inside",
                "it computes in float32 here: slower than it has to be, and what is measured is not quite "
                "the model that runs in half precision",
                (Related(module.span(same), "the training calls it in a region"),),
            ),
            None,
        )
        return


def _no_gradients(call: ast.Call, function: ast.AST, module: Module, names: Names) -> bool:
    decorators = getattr(function, "decorator_list", [])
    if any(_is_no_grad(each, names) for each in decorators):
        return True
    inside = [
        each
        for each in module.every(ast.With)
        if any(_is_no_grad(item.context_expr, names) for item in each.items)
    ]
    return is_inside(call, inside, module)


def _is_no_grad(node: ast.expr, names: Names) -> bool:
    made = node.func if isinstance(node, ast.Call) else node
    return names.resolve(made) in _NO_GRADIENTS


def _enters(function: ast.AST, module: Module) -> bool:
    """Whether a function deals with precision itself: a region by any name, casts, half, float."""
    text = module.source(function) if not isinstance(function, ast.Module) else module.text
    decorators = getattr(function, "decorator_list", [])
    text += "".join(module.source(each) for each in decorators)
    return _PRECISION.search(bare(text)) is not None


def _is_called_inside(function: ast.AST, around: list[ast.With], module: Module) -> bool:
    """Whether a function is called in a region, or handed to who knows whom."""
    name = getattr(function, "name", None)
    for node in module.every(ast.Name) + module.every(ast.Attribute):
        if name is None or name not in (getattr(node, "id", None), getattr(node, "attr", None)):
            continue
        parent = module.parents[node]
        if not isinstance(parent, ast.Call) or parent.func is not node:
            return True
        if is_inside(parent, around, module):
            return True
    return False


def _handles_it_in_forward(module: Module) -> bool:
    """Whether a `forward` of this file enters a region of its own."""
    return any(
        "autocast" in module.source(node)
        or any("autocast" in ast.unparse(d) for d in node.decorator_list)
        for node in module.every(ast.FunctionDef)
        if node.name == "forward"
    )
