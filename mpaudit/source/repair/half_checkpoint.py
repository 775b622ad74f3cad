"""Repair of a checkpoint that is loaded in float16 and trained with loss scaling."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.repair.registry import Context, repairs


@repairs("half-checkpoint-with-fp16")
def load_in_float32(context: Context) -> Fix | None:
    """`from_pretrained(..., dtype=torch.float16)` -> `dtype=torch.float32`."""
    module, node = context.module, context.node(ast.Call)
    if not isinstance(node, ast.Call):
        return None
    for keyword in node.keywords:
        text = module.source(keyword.value)
        if keyword.arg in ("dtype", "torch_dtype"):
            for half in ("float16", "half"):
                before, found, after = text.rpartition(half)
                if found and after in ("", '"', "'"):
                    edit = Edit(*module.range(keyword.value), f"{before}float32{after}")
                    return Fix("Load the parameters in float32", (edit,), Safety.UNSAFE)
    return None
