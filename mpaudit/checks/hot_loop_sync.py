"""MP806: the host waits for the GPU in every iteration of a training loop.

In the innermost loop around a backward pass, under no condition: the loss read by the host, asked
whether it is finite, and the scale of a GradScaler. One problem for each loop.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.source.api.torch_names import LEGACY_SCALERS, SCALERS
from mpaudit.source.text.names import Names
from mpaudit.source.trait.autocast_block import FUNCTIONS, backwards

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_LOOPS = (ast.For, ast.While, ast.AsyncFor)
_READS = frozenset({"item", "tolist", "cpu", "numpy"})
_TESTS = frozenset({"torch.isnan", "torch.isfinite", "torch.isinf", "math.isnan", "math.isfinite"})
_NUMBERS = frozenset({"builtins.float", "builtins.int", "builtins.bool"})
_MOST_RELATED = 4


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first wait of each training loop, with the others of that loop."""
    text = module.text
    if ".backward(" not in text or "cuda" not in text:
        return
    if not ("GradScaler" in text or "autocast" in text):
        return
    names = Names.of(module)
    loops: dict[ast.AST, set[str]] = {}
    for call in backwards(module):
        loop = _loop(call, module)
        if loop is not None:
            loops.setdefault(loop, set()).update(_losses(call))
    for loop, losses in loops.items():
        waits = [node for node in _always(loop) if _waits(node, losses, names, module)]
        waits.sort(key=lambda node: (node.lineno, node.col_offset))
        if waits:
            yield _problem(module, waits), None


def _problem(module: Module, waits: list[ast.Call]) -> Problem:
    first, *others = waits
    return Problem(
        "hot-loop-sync",
        module.span(first),
        f"`{module.source(first)}` makes the host wait for the GPU in every iteration",
        "until the GPU has caught up no further work is queued; `scaler.step` waits once by itself",
        tuple(Related(module.span(each), "and here") for each in others[:_MOST_RELATED]),
    )


def _loop(node: ast.AST, module: Module) -> ast.AST | None:
    """The innermost loop around `node` in its function."""
    while node in module.parents and not isinstance(node, FUNCTIONS):
        node = module.parents[node]
        if isinstance(node, _LOOPS):
            return node
    return None


def _losses(backward: ast.Call) -> set[str]:
    """What the loss is called: in `loss.backward()`, or in `scaler.scale(loss).backward()`."""
    assert isinstance(backward.func, ast.Attribute)
    owner = backward.func.value
    if isinstance(owner, ast.Call) and len(owner.args) == 1:
        owner = owner.args[0]
    return {ast.unparse(owner)} if isinstance(owner, (ast.Name, ast.Attribute)) else set()


def _always(loop: ast.AST) -> Iterator[ast.Call]:
    """The calls that every pass of the loop makes: not those under a condition or in inner loops."""
    waiting: list[ast.AST] = [*getattr(loop, "body", [])]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            yield node
        if isinstance(node, (ast.If, ast.IfExp)):
            waiting.append(node.test)
        elif isinstance(node, ast.Try):
            waiting += node.body
        elif not isinstance(node, (*_LOOPS, *FUNCTIONS, ast.ClassDef, ast.BoolOp, ast.Match)):
            waiting += ast.iter_child_nodes(node)


def _waits(call: ast.Call, losses: set[str], names: Names, module: Module) -> bool:
    function = call.func
    if isinstance(function, ast.Attribute) and not call.args:
        owner = function.value
        if function.attr == "get_scale":
            return isinstance(owner, (ast.Name, ast.Attribute)) and _is_scaler(owner, names)
        if function.attr in _READS:
            while isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
                owner = owner.func.value  # loss.detach().cpu()
            return ast.unparse(owner) in losses and not _is_read_further(call, module)
    name = names.resolve(function)
    if len(call.args) == 1 and ast.unparse(call.args[0]) in losses:
        if name in _TESTS:
            return isinstance(_statement_test(call, module), ast.If)
        return name in _NUMBERS
    return False


def _is_scaler(owner: ast.expr, names: Names) -> bool:
    if isinstance(owner, ast.Attribute):
        return owner.attr.endswith("scaler")
    if not isinstance(owner, ast.Name):
        return False
    origins = [binding.origin for binding in names.bindings(owner)]
    return any(
        isinstance(origin, ast.Call) and names.resolve(origin.func) in (*SCALERS, *LEGACY_SCALERS)
        for origin in origins
    )


def _is_read_further(call: ast.Call, module: Module) -> bool:
    """Whether this is one link of a chain that ends in another read: `loss.cpu().item()`."""
    parent = module.parents[call]
    return isinstance(parent, ast.Attribute) and parent.attr in _READS


def _statement_test(call: ast.AST, module: Module) -> ast.AST:
    """The statement whose condition the call is a part of."""
    while not isinstance(call, ast.stmt):
        call = module.parents[call]
    return call
