"""What an object nobody has seen being made must be, judged by how a file uses it.

A function that nobody in view calls gets its scaler as a parameter; `scaler.unscale_(optimizer)` says
what both are.
"""

from __future__ import annotations

import ast
from collections import defaultdict

from msgspec import Struct

from mpaudit.source.text.module import Module

ACCELERATOR = frozenset(
    """accumulate unwrap_model sync_gradients is_main_process is_local_main_process prepare
    wait_for_everyone gather_for_metrics unscale_gradients""".split()  # noqa: SIM905
)
"""What besides `backward(loss)` only Hugging Face's Accelerator has, among the engines that have it."""


class Roles(Struct, frozen=True):
    """The expressions, as spelled, that must hold a GradScaler, an optimizer or an Accelerator."""

    scalers: frozenset[str]
    optimizers: frozenset[str]
    accelerators: frozenset[str]


def roles(module: Module) -> Roles:
    """Read the roles off every method call in a file."""
    methods: dict[str, set[str]] = defaultdict(set)
    arguments: dict[str, set[str]] = defaultdict(set)
    engines: set[str] = set()
    others: set[str] = set()  # engines of another kind: they step, or are told whose loss it is
    for node in module.every(ast.Call):
        if not isinstance(node.func, ast.Attribute):
            continue
        method, receiver = node.func.attr, node.func.value
        if method == "backward" and node.args:
            (engines if len(node.args) == 1 else others).add(ast.unparse(receiver))
        if method in ("step", "zero_grad"):
            others.add(ast.unparse(receiver))
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
    holders = {text.rpartition(".")[0] for text in optimizers}  # `scaler.step(schedule.optimizer)`
    stepped = {text for text, used in methods.items() if {"zero_grad", "step()"} <= used}
    optimizers |= stepped - holders
    owners = _owners(module, ACCELERATOR) if engines else set()
    accelerators = engines & owners - others
    return Roles(frozenset(scalers), frozenset(optimizers - scalers), frozenset(accelerators))


def _owners(module: Module, members: frozenset[str]) -> set[str]:
    """The expressions, as spelled, that an attribute of these names is taken of."""
    return {ast.unparse(node.value) for node in module.every(ast.Attribute) if node.attr in members}


def _is_call_of(node: ast.expr, method: str) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == method
    )
