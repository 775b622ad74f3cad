"""MP808: float16 and its loss scaling, in a file where nothing keeps it from bfloat16.

One problem per file, at the first region or policy. A file that mentions bfloat16, or asks what the
device can do, has made its choice.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.source.api.keras_names import everywhere
from mpaudit.source.api.torch_names import LEGACY_SCALERS, SCALERS
from mpaudit.source.text.module import bare
from mpaudit.source.text.names import Names
from mpaudit.source.trait.autocast_block import backwards, casts
from mpaudit.source.trait.compat import guarded

if TYPE_CHECKING:
    from mpaudit.fix import Fix
    from mpaudit.source.text.module import Module

_CHOSEN = re.compile(
    r"bf_?16|bfloat_?16|device_capability|get_device_properties|V100|\bT4\b|RTX ?20|Volta|Turing",
    re.IGNORECASE,
)
SETTERS = frozenset(
    everywhere(
        "mixed_precision.set_global_policy",
        "mixed_precision.set_dtype_policy",
        "config.set_dtype_policy",
    )
)
"""The functions that set Keras' policy."""


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first float16 region of a file that trains with a GradScaler, or its policy."""
    text = module.text
    if not ("GradScaler" in text or "mixed_float16" in text) or _CHOSEN.search(bare(text)):
        return
    names = Names.of(module)
    found = _region(module, names) if "GradScaler" in text else _policy(module, names)
    if found is not None and not guarded(found, module):
        yield (
            Problem(
                "prefer-bfloat16",
                module.span(found),
                "this trains in float16, where bfloat16 needs no loss scaling",
                "float16 ends at 65504, so that gradients are scaled, checked and steps skipped; bfloat16 "
                "has the range of float32, and units for it are in GPUs from Ampere on, TPUs and new CPUs",
            ),
            None,
        )


def _region(module: Module, names: Names) -> ast.expr | None:
    if not backwards(module):
        return None
    calls = module.every(ast.Call)
    if not any(names.resolve(call.func) in (*SCALERS, *LEGACY_SCALERS) for call in calls):
        return None
    return next((each.call for each in casts(module, names) if each.half), None)


def _policy(module: Module, names: Names) -> ast.expr | None:
    for call in module.every(ast.Call):
        first = call.args[0] if call.args else None
        if isinstance(first, ast.Constant) and first.value == "mixed_float16":
            if names.resolve(call.func) in SETTERS:
                return call
    return None
