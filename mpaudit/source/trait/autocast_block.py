"""Autocast regions as they stand in the text, for checks that follow no path."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.source.api.torch_names import AUTOCASTS, LEGACY_AUTOCASTS
from mpaudit.source.text.argument import given
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_NEW = ("device_type", "dtype", "enabled")
_OLD = ("enabled", "dtype")


class Cast(Struct, frozen=True):
    """A call that makes a region: its device type and dtype as far as the text says them.

    `device` is None where it is not a literal; `dtype` is "" where none is given and None where it
    is not known. `enabled` is the expression of that argument, None where there is none.
    """

    call: ast.Call
    device: str | None
    dtype: str | None
    enabled: ast.expr | None

    @property
    def is_off(self) -> bool:
        """Whether it is switched off for certain."""
        return isinstance(self.enabled, ast.Constant) and not self.enabled.value

    @property
    def half(self) -> bool:
        """Whether it computes in float16 for certain: by its dtype, or as CUDA does by itself."""
        by_default = self.dtype == "" and self.device == "cuda"
        return not self.is_off and (self.dtype == "float16" or by_default)


def casts(module: Module, names: Names) -> list[Cast]:
    """Every call that makes a region, in the order of the text."""
    found = []
    for call in module.every(ast.Call):
        name = names.resolve(call.func) or ""
        if name in AUTOCASTS or name in LEGACY_AUTOCASTS:
            found.append(_cast(call, name, names))
    return sorted(found, key=lambda each: (each.call.lineno, each.call.col_offset))


def _cast(call: ast.Call, name: str, names: Names) -> Cast:
    order = _NEW if name in AUTOCASTS else _OLD
    device: str | None = LEGACY_AUTOCASTS.get(name)
    if name in AUTOCASTS:
        node = given(call, "device_type", order)
        device = str(node.value).partition(":")[0] if isinstance(node, ast.Constant) else None
    node = given(call, "dtype", order)
    meaning = names.resolve(node) if node is not None else ""
    dtype = meaning.removeprefix("torch.") if meaning is not None else None
    dtype = {"half": "float16"}.get(dtype or "", dtype)
    if any(keyword.arg is None for keyword in call.keywords):
        dtype = None
    return Cast(call, device, dtype, given(call, "enabled", order))


def blocks(module: Module, names: Names, known: list[Cast]) -> list[ast.With]:
    """The `with` statements that enter one of these regions, also by a name it was given."""
    calls = {each.call for each in known if not each.is_off}
    found = []
    for node in module.every(ast.With):
        for item in node.items:
            made: object = item.context_expr
            if isinstance(made, ast.Name):
                bindings = names.bindings(made)
                made = bindings[0].origin if len(bindings) == 1 else None
            if made in calls:
                found.append(node)
                break
    return found


def is_inside(node: ast.AST, around: list[ast.With], module: Module) -> bool:
    """Whether `node` stands in one of these blocks, in the same function."""
    wanted = {*around}
    child, parent = node, module.parents.get(node)
    while parent is not None and not isinstance(parent, FUNCTIONS):
        if parent in wanted and child in getattr(parent, "body", ()):
            return True
        child, parent = parent, module.parents.get(parent)
    return False


def function_of(node: ast.AST, module: Module) -> ast.AST:
    """The function around `node`, or the module."""
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, FUNCTIONS):
            return node
    return node


def backwards(module: Module) -> list[ast.Call]:
    """The calls of a method `backward`."""
    return [
        call
        for call in module.every(ast.Call)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "backward"
    ]
