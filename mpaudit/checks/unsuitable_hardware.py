"""MP805: mixed precision on hardware that has no units for it: float16 on the CPU."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from mpaudit.checks.prefer_bfloat16 import SETTERS
from mpaudit.finding import Problem, Related
from mpaudit.source.text.names import Names
from mpaudit.source.trait.autocast_block import casts

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_NO_GPU = ("", "-1")


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the float16 regions of the CPU, and a float16 policy where the GPUs are hidden."""
    if PurePath(module.filename).name.startswith(("test_", "conftest")):
        return
    text = module.text
    if "autocast" in text and "cpu" in text:
        names = Names.of(module)
        for each in casts(module, names):
            if each.device == "cpu" and each.dtype == "float16" and not each.is_off:
                yield (
                    _problem(module, each.call, "this region computes in float16 on the CPU"),
                    None,
                )
    if "mixed_float16" in text:
        names = Names.of(module)
        hidden = _hides(module, names)
        for call in module.every(ast.Call) if hidden is not None else ():
            first = call.args[0] if call.args else None
            half = isinstance(first, ast.Constant) and first.value == "mixed_float16"
            if half and names.resolve(call.func) in SETTERS:
                message = "the policy is mixed_float16, and the GPUs are hidden"
                yield _problem(module, call, message, hidden), None


def _problem(module: Module, at: ast.expr, message: str, hidden: ast.AST | None = None) -> Problem:
    related = (Related(module.span(hidden), "no GPU is seen from here on"),) if hidden else ()
    return Problem(
        "unsuitable-hardware",
        module.span(at),
        message,
        "few CPUs have units for float16: what has none is emulated, many times slower than float32",
        related,
    )


def _hides(module: Module, names: Names) -> ast.AST | None:
    """Where the file hides every GPU from TensorFlow."""
    for node in module.every(ast.Assign):
        (target, *_) = node.targets
        if (
            isinstance(target, ast.Subscript)
            and names.resolve(target.value) == "os.environ"
            and isinstance(target.slice, ast.Constant)
            and target.slice.value == "CUDA_VISIBLE_DEVICES"
            and isinstance(node.value, ast.Constant)
            and node.value.value in _NO_GPU
            and isinstance(module.parents[node], ast.Module)
        ):
            return node
    for call in module.every(ast.Call):
        name = names.resolve(call.func) or ""
        if name.startswith("tensorflow.config.") and name.endswith("set_visible_devices"):
            empty = call.args and isinstance(call.args[0], ast.List) and not call.args[0].elts
            kind = call.args[1] if len(call.args) > 1 else None
            if empty and isinstance(kind, ast.Constant) and kind.value == "GPU":
                return call
    return None
