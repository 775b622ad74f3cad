"""MP807: a script whose float32 products stay off the tensor cores.

One problem per file: a script that trains on CUDA, whose regions may be switched off or are in
places, and that says nothing of TF32, nor do the files of the project that it imports.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.module import bare
from mpaudit.source.text.names import Names
from mpaudit.source.text.project import Project
from mpaudit.source.trait.autocast_block import backwards, casts

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_DECIDED = re.compile(
    r"tf32|fp32_precision|float32_matmul_precision|use_deterministic", re.IGNORECASE
)
_OWNERS = ("lightning", "pytorch_lightning", "accelerate", "transformers", "deepspeed")
"""Trainers that have a switch of their own for it."""


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first region that leaves float32 products behind, in a script that trains."""
    text = module.text
    if "autocast" not in text or "cuda" not in text or _DECIDED.search(bare(text)):
        return
    names = Names.of(module)
    found = [each for each in casts(module, names) if each.device in ("cuda", None)]
    left = [each for each in found if _leaves_float32(each.enabled)]
    if not left or not _is_script(module) or not backwards(module):
        return
    if _decided_elsewhere(module, [*module.every(ast.Import), *module.every(ast.ImportFrom)]):
        return
    yield (
        Problem(
            "tf32-not-enabled",
            module.span(left[0].call),
            "where this region is off, matrices are multiplied in full float32, without tensor cores",
            "torch leaves TF32 off for products (`float32_matmul_precision` is `highest`); GPUs from Ampere "
            "on have it, several times faster and with the 10 bits of float16 in each factor",
        ),
        _fix(module),
    )


def _leaves_float32(enabled: ast.expr | None) -> bool:
    """Whether a region is off, or may be."""
    return enabled is not None and not (isinstance(enabled, ast.Constant) and enabled.value)


def _is_script(module: Module) -> bool:
    """Whether a file is run, and not only imported."""
    for node in module.tree.body:
        if isinstance(node, (ast.For, ast.While)):
            return True
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return True
    return False


def _decided_elsewhere(module: Module, imported: list[ast.Import | ast.ImportFrom]) -> bool:
    project = module.project or Project(module.target)
    for node in imported:
        whole = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        level = 0 if isinstance(node, ast.Import) else node.level
        for name in whole or [getattr(node, "module", None) or ""]:
            if name.partition(".")[0] in _OWNERS:
                return True
            found = project.find(name, module, level)
            if found is not None and _DECIDED.search(found.text):
                return True
    return False


def _fix(module: Module) -> Fix | None:
    """One line below the imports at the top."""
    imports = [each for each in module.tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    named = any(
        alias.name == "torch" and alias.asname is None
        for each in imports
        if isinstance(each, ast.Import)
        for alias in each.names
    )
    if not named:
        return None
    _, end = module.line_range(imports[-1].end_lineno or 0)
    quote, newline = module.quote, module.newline
    line = f"{newline}torch.set_float32_matmul_precision({quote}high{quote}){newline}"
    return Fix("Allow TF32 for products", (Edit(end, end, line),), Safety.SUGGESTION)
