"""MP207: mixed precision under a condition that never holds: a `torch.device` compared with a text.

`torch.device("cuda") == "cuda"` is False. Reported is such a comparison where autocast or a scaler hangs on
it: in the branch it guards, as `enabled=`, or through a variable that is used in one of these ways.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix
from mpaudit.source.api.torch_names import AUTOCASTS, LEGACY_AUTOCASTS, LEGACY_SCALERS, SCALERS
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.sort import Sort, sort_of

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_SWITCHED = frozenset([*AUTOCASTS, *LEGACY_AUTOCASTS, *SCALERS, *LEGACY_SCALERS])
_TELLING = frozenset(["unscale_", "half", "bfloat16"])
_WORDS = ("autocast", "GradScaler", *_TELLING, "import *")
"""What a file spells that has any of this; what a star brings in may be called otherwise there."""


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the comparisons that switch mixed precision off for ever."""
    if not (module.mentions("torch") and any(module.mentions(word) for word in _WORDS)):
        return
    for node in module.every(ast.Compare):
        if len(node.ops) == 1:
            device = _device_beside_text(node, module)
            if device is None:
                continue
            dead = _dead(node, module, equal=isinstance(node.ops[0], (ast.Eq, ast.In)))
            if dead is not None:
                yield _problem(module, node, device, dead), None


def _device_beside_text(node: ast.Compare, module: Module) -> ast.expr | None:
    """The device object of a comparison with a text."""
    left, right = node.left, node.comparators[0]
    if isinstance(node.ops[0], (ast.In, ast.NotIn)):
        literal = isinstance(right, (ast.Tuple, ast.List, ast.Set))
        texts = right.elts if isinstance(right, (ast.Tuple, ast.List, ast.Set)) else []
        compared = literal and texts and all(_is_text(each) for each in texts)
        return left if compared and sort_of(left, module) is Sort.DEVICE else None
    if not isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
        return None
    for one, other in ((left, right), (right, left)):
        if _is_text(other) and sort_of(one, module) is Sort.DEVICE:
            return one
    return None


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _dead(
    node: ast.expr, module: Module, *, equal: bool, through: frozenset[ast.AST] = frozenset()
) -> ast.AST | None:
    """The place of mixed precision that a condition keeps from running, if there is one.

    `equal`: the condition is always false; otherwise it is always true.
    """
    parent = module.parents[node]
    match parent:
        case ast.UnaryOp(op=ast.Not()):
            return _dead(parent, module, equal=not equal, through=through)
        case ast.BoolOp(op=ast.And()) if equal:
            return _dead(parent, module, equal=True, through=through)
        case ast.BoolOp(op=ast.Or()) if not equal:
            return _dead(parent, module, equal=False, through=through)
        case ast.If() if parent.test is node:
            return _precision(parent.body if equal else parent.orelse, module)
        case ast.IfExp() if parent.test is node:
            return _precision([parent.body if equal else parent.orelse], module)
        case ast.keyword(arg="enabled") if equal:
            call = module.parents[parent]
            assert isinstance(call, ast.Call)
            return call if _is_switched(call, module) else None
        case ast.Call() if equal and node in parent.args:
            return parent if _is_switched(parent, module) else None
        case ast.Assign(targets=[ast.Name() as target]) if parent not in through:
            names = Names.of(module)
            bindings = [each for each in names.all() if each.node is target]
            if len(bindings) != 1 or len(names.bindings(target)) != 1:
                return None
            for reader in names.readers(bindings[0]):
                found = _dead(reader, module, equal=equal, through=through | {parent})
                if found is not None:
                    return found
    return None


def _is_switched(call: ast.Call, module: Module) -> bool:
    return Names.of(module).resolve(call.func) in _SWITCHED


def _precision(branch: list[ast.stmt] | list[ast.expr], module: Module) -> ast.AST | None:
    """The first place of a branch that has to do with mixed precision."""
    names = Names.of(module)
    for part in branch:
        for node in walk(part):
            if isinstance(node, ast.Call):
                method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                if names.resolve(node.func) in _SWITCHED or method in _TELLING:
                    return node
    return None


def _problem(module: Module, node: ast.Compare, device: ast.expr, dead: ast.AST) -> Problem:
    text = " ".join(module.source(device).split())
    always = "False" if isinstance(node.ops[0], (ast.Eq, ast.In)) else "True"
    return Problem(
        "dead-amp-branch",
        module.span(node),
        f"`{text}` is a torch.device, which equals no text: this is always {always}",
        "mixed precision never runs: the script computes in float32, whatever the device; compare "
        f"`{text}.type`",
        (Related(module.span(dead), "this hangs on it"),),
    )
