"""Repairs of scalers that step sharded parameters."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.torch_names import LEGACY_SCALERS
from mpaudit.source.repair.registry import Context, repairs
from mpaudit.source.text.argument import UnrepairableError
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.new_line import add_after
from mpaudit.source.text.place import root_of

HOME = "torch.distributed.fsdp.sharded_grad_scaler"
NAME = "ShardedGradScaler"


@repairs("fsdp-with-plain-grad-scaler")
def shard_scaler(context: Context) -> Fix | None:
    """`torch.amp.GradScaler("cuda")` -> `ShardedGradScaler("cuda")`, which asks all ranks."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or any(each.arg is None for each in call.keywords):
        return None
    if any(isinstance(each, ast.Starred) for each in call.args):
        return None
    edits = _arguments(module, call)
    try:
        imported = _import(module, call)
    except (UnrepairableError, TypeError):
        return None
    if edits is None or imported is None:
        return None
    name, added = imported
    callee = Edit(*module.range(call.func), name)
    safety = Safety.SAFE if context.subject("same_file") == "True" else Safety.UNSAFE
    return Fix("Use FSDP's own scaler", (callee, *edits, *added), safety)


def _arguments(module: Module, call: ast.Call) -> list[Edit] | None:
    """The two classes have other orders of arguments: device and first scale are all that agree."""
    if Names.of(module).resolve(call.func) not in LEGACY_SCALERS:
        return [] if len(call.args) < 3 else None
    if not call.args:
        return []
    start, _ = module.range(call.args[0])
    return [Edit(start, start, "init_scale=")] if len(call.args) == 1 else None


def _import(module: Module, call: ast.Call) -> tuple[str, list[Edit]] | None:
    """How the class is spelled here, and the import that it takes."""
    names, root = Names.of(module), root_of(call.func)
    known = names.spelling(f"{HOME}.{NAME}", root)
    known = known or names.spelling("torch.distributed.fsdp." + NAME, root)
    if known is not None:
        return known, []
    line = f"from {HOME} import {NAME}"
    imports = [each for each in module.tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    home = [each for each in imports if "torch.distributed.fsdp" in module.source(each)]
    torch = [
        each for each in imports if module.source(each).split()[1].partition(".")[0] == "torch"
    ]
    for binding in names.bindings(root):
        alias = binding.node
        statement = module.parents.get(alias)
        alone = isinstance(statement, ast.ImportFrom) and len(statement.names) == 1
        if alone and statement in imports and names.readers(binding) == [root]:
            return NAME, [Edit(*module.range(statement), line)]
    if not home and not torch:
        return None
    return NAME, [add_after(module, (home or torch)[-1], line)]
