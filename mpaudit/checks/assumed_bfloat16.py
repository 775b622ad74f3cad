"""MP311: bfloat16 on CUDA, in a file that never asks whether the hardware has it.

One problem per file, at the first region. A file that asks anything about the device's abilities,
and a region that a flag for bfloat16 was chosen for, are left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix, Safety
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

_DEVICE_AT = {
    "torch.autocast": 0,
    "torch.amp.autocast": 0,
    "torch.amp.autocast_mode.autocast": 0,
    "torch.cuda.amp.autocast": None,
    "torch.cuda.amp.autocast_mode.autocast": None,
}
"""Where the device type is given; None where it is CUDA in any case."""
_ASKS = re.compile(r"bf16_(?:\w*_)?(?:available|supported)|device_capability|get_device_properties")
_FLAG = re.compile(r"bf_?16|bfloat_?16", re.IGNORECASE)
_MOST_RELATED = 8


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first CUDA region of a file with a hard-coded bfloat16, if nothing was asked."""
    if not module.mentions("bfloat16") or _ASKS.search(module.text):
        return
    if not (module.mentions("autocast") or module.mentions("import *")):
        return
    names = Names.of(module)
    found = [
        node
        for node in module.every(ast.Call)
        if _hard_coded(node, names) and not _chosen(node, module)
    ]
    found.sort(key=lambda node: (node.lineno, node.col_offset))
    if not found:
        return
    problem = Problem(
        "assumed-bfloat16",
        module.span(found[0]),
        "bfloat16 is hard-coded, and nothing asks whether the GPU has it",
        "GPUs older than Ampere have no bfloat16 units: torch emulates it there, slower than float32, "
        "or refuses it",
        tuple(Related(module.span(node), "and here") for node in found[1 : 1 + _MOST_RELATED]),
    )
    message = (
        "Ask: `dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else "
        "torch.float16`, with a GradScaler that is enabled for float16"
    )
    yield problem, Fix(message, (), Safety.SUGGESTION)


def _hard_coded(node: ast.Call, names: Names) -> bool:
    name = names.resolve(node.func)
    if name not in _DEVICE_AT:
        return False
    at = _DEVICE_AT[name]
    if at is not None:
        device = _argument(node, at, "device_type")
        if not isinstance(device, ast.Constant) or not str(device.value).startswith("cuda"):
            return False
    dtype = _argument(node, 1, "dtype")
    return dtype is not None and names.resolve(dtype) == "torch.bfloat16"


def _argument(node: ast.Call, position: int, keyword: str) -> ast.expr | None:
    if position < len(node.args):
        return node.args[position]
    return next((each.value for each in node.keywords if each.arg == keyword), None)


def _chosen(node: ast.AST, module: Module) -> bool:
    """Whether the region stands under a condition, or takes a switch, that is named after bfloat16."""
    asked: list[ast.AST] = []
    if isinstance(node, ast.Call):
        asked = [each.value for each in node.keywords if each.arg == "enabled"]
    while node in module.parents:
        child, node = node, module.parents[node]
        if isinstance(node, (ast.If, ast.IfExp)) and child is not node.test:
            asked.append(node.test)
        elif isinstance(node, ast.match_case):
            asked.append(node.pattern)
    return any(_FLAG.search(ast.unparse(each)) for each in asked)
