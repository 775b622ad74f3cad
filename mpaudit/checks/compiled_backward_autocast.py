"""MP804: compiled models whose backward pass runs as if it stood in the forward's region."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.names import Names
from mpaudit.source.text.new_line import add_before, add_module
from mpaudit.source.trait.autocast_block import backwards, blocks, casts, function_of, is_inside

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_SWITCH = "torch._functorch.config.backward_pass_autocast"


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first `torch.compile` of a file with float16 regions and a backward pass outside."""
    text = module.text
    if "compile" not in text or "autocast" not in text or "backward_pass_autocast" in text:
        return
    names = Names.of(module)
    compiled = _compiled(module, names)
    known = casts(module, names)
    half = [each for each in known if each.half]
    if not compiled or not half:
        return
    around = blocks(module, names, known)
    outside = [each for each in backwards(module) if not is_inside(each, around, module)]
    trains = {_home(each, module) for each in outside}
    called = {
        ast.unparse(call.func)
        for call in module.every(ast.Call)
        if is_inside(call, around, module) and _home(call, module) in trains
    }
    found = [node for node, name in compiled if name in called]
    if not found or not outside:
        return
    first = min(found, key=lambda node: (node.lineno, node.col_offset))
    yield (
        Problem(
            "compiled-backward-autocast",
            module.span(first),
            "what is compiled here runs its backward pass in the region of its forward pass",
            "eager code runs backward outside, in the dtypes that forward chose; compiled, what is float32 "
            "there may become float16 as well, parts in `autocast(enabled=False)` included",
            (
                Related(module.span(half[0].call), "the forward pass runs in this region"),
                Related(module.span(outside[0]), "the backward pass is called outside of it"),
            ),
        ),
        _fix(module, first),
    )


def _compiled(module: Module, names: Names) -> list[tuple[ast.expr, str]]:
    """Where something is compiled, and what it is called from then on."""
    found: list[tuple[ast.expr, str]] = []
    for node in module.every(ast.Call):
        parent = module.parents[node]
        if names.resolve(node.func) != "torch.compile" or _disabled(node):
            continue
        if isinstance(parent, ast.FunctionDef):
            found.append((node, parent.name))
        elif isinstance(parent, ast.Assign):
            found += [(node, ast.unparse(target)) for target in parent.targets]
        elif isinstance(parent, ast.Return):
            found += [(node, name) for name in _named(function_of(parent, module), module)]
    for function in module.every(ast.FunctionDef):
        for each in function.decorator_list:
            if names.resolve(each) == "torch.compile":
                found.append((each, function.name))
    return found


def _named(maker: ast.AST, module: Module) -> Iterator[str]:
    """What the result of a function is called where it is called by name."""
    for call in module.every(ast.Call):
        parent = module.parents[call]
        made = isinstance(maker, ast.FunctionDef) and ast.unparse(call.func) == maker.name
        if made and isinstance(parent, ast.Assign):
            yield from (ast.unparse(target) for target in parent.targets)


def _home(node: ast.AST, module: Module) -> ast.AST:
    """The class around `node`, else the function, else the module."""
    function = function_of(node, module)
    owner = module.parents.get(function)
    return owner if isinstance(owner, ast.ClassDef) else function


def _disabled(call: ast.Call) -> bool:
    return any(
        each.arg == "disable" and isinstance(each.value, ast.Constant) and bool(each.value.value)
        for each in call.keywords
    )


def _fix(module: Module, first: ast.expr) -> Fix | None:
    """The switch, set below the imports, before anything is compiled."""
    imports = [each for each in module.tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    body = module.tree.body
    if not imports or imports[-1] is body[-1] or imports[-1].lineno > first.lineno:
        return None
    quote = module.quote
    following = body[body.index(imports[-1]) + 1]
    lines = [
        add_module(module, "torch._functorch.config"),
        add_before(module, following, f"{_SWITCH} = {quote}off{quote}"),
    ]
    return Fix("Run backward as eager code does", tuple[Edit, ...](lines), Safety.SUGGESTION)
