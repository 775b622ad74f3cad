"""What an object nobody has seen being made must be, judged by how a file uses it.

A function that nobody in view calls gets its scaler as a parameter; `scaler.unscale_(optimizer)` says
what both are.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass

from mpaudit.source.module import Module


@dataclass(frozen=True, slots=True)
class Roles:
    """The expressions, as spelled, that must hold a GradScaler or an optimizer."""

    scalers: frozenset[str]
    optimizers: frozenset[str]


def roles(module: Module) -> Roles:
    """Read the roles off every method call in a file."""
    methods: dict[str, set[str]] = defaultdict(set)
    arguments: dict[str, set[str]] = defaultdict(set)
    for node in module.every(ast.Call):
        if not isinstance(node.func, ast.Attribute):
            continue
        method, receiver = node.func.attr, node.func.value
        if method == "backward" and _is_call_of(receiver, "scale"):
            assert isinstance(receiver, ast.Call) and isinstance(receiver.func, ast.Attribute)
            methods[ast.unparse(receiver.func.value)].add("scale().backward")
        if method in (
            "unscale_",
            "scale",
            "step",
            "update",
            "zero_grad",
            "is_enabled",
            "get_scale",
        ):
            text = ast.unparse(receiver)
            taken = bool(node.args) or method not in ("step", "scale")
            methods[text].add(method if taken else method + "()")
            if method in ("unscale_", "step") and node.args:
                arguments[text].add(ast.unparse(node.args[0]))
    scalers = {
        text
        for text, used in methods.items()
        if "unscale_" in used
        or "scale().backward" in used
        or {"scale", "update"} <= used
        or ({"step", "update"} <= used and used & {"get_scale", "is_enabled"})
    }
    optimizers = {text for scaler in scalers for text in arguments[scaler]}
    optimizers |= {text for text, used in methods.items() if {"zero_grad", "step()"} <= used}
    return Roles(frozenset(scalers), frozenset(optimizers - scalers))


def _is_call_of(node: ast.expr, method: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
    )
