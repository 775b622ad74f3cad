"""Rewriting a file from `keras.mixed_precision.experimental` to what took its place, in one fix."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.migration import migrate_import
from mpaudit.source.text.argument import UnrepairableError, arguments, given
from mpaudit.source.text.names import Binding, Names
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

ROOTS = (
    "keras",
    "tensorflow.keras",
    "tf_keras",
    "tensorflow.compat.v1.keras",
    "tensorflow.compat.v2.keras",
)
SUCCESSORS = {f"{root}.mixed_precision.experimental": f"{root}.mixed_precision" for root in ROOTS}
"""The modules that are gone, and the one in the place of each."""

_MEMBERS = {
    "set_policy": "set_global_policy",
    "Policy": "Policy",
    "global_policy": "global_policy",
    "LossScaleOptimizer": "LossScaleOptimizer",
}
_LOSS_SCALE = {"Policy": ("name", "loss_scale"), "LossScaleOptimizer": ("optimizer", "loss_scale")}
_DYNAMIC = ("DynamicLossScale",)


class Use(Struct, frozen=True):
    """A place that reads something of a module that is gone, by its full old name."""

    node: ast.Name | ast.Attribute
    name: str


class Imported(Struct, frozen=True):
    """An import of such a module, or of what it holds."""

    statement: ast.Import | ast.ImportFrom
    alias: ast.alias
    binding: Binding


def uses(names: Names) -> list[Use]:
    """The places that read such a module or what it holds, in no order."""
    found = []
    for node in names.reads():
        name = names.resolve(node) or ""
        if name in SUCCESSORS or name.rpartition(".")[0] in SUCCESSORS:
            found.append(Use(node, name))
    return found


def imports(module: Module, names: Names) -> list[Imported]:
    """The imports of such modules and of what they hold, in no order."""
    found = []
    for binding in names.all():
        alias = binding.node
        if not isinstance(alias, ast.alias):
            continue
        statement = module.parents[alias]
        assert isinstance(statement, (ast.Import, ast.ImportFrom))
        whole = alias.name if isinstance(statement, ast.Import) else str(binding.origin)
        if whole in SUCCESSORS or whole.rpartition(".")[0] in SUCCESSORS:
            found.append(Imported(statement, alias, binding))
    return found


def migrate(module: Module, found: list[Use], brought: list[Imported]) -> Fix:
    """The one fix for all of a file. Raises UnrepairableError where a use has no successor."""
    edits: dict[Edit, None] = {}
    for use in found:
        edits.update(dict.fromkeys(_use(module, use)))
    for each in brought:
        edits.update(dict.fromkeys(_import(module, each)))
    return Fix("use tf.keras.mixed_precision without `experimental`", tuple(edits), Safety.SAFE)


def _use(module: Module, use: Use) -> list[Edit]:
    node, parent = use.node, module.parents[use.node]
    owner, _, member = use.name.rpartition(".")
    if use.name in SUCCESSORS:  # what is taken of it is a use of its own
        if isinstance(node, ast.Name):
            return []
        _, start = module.range(node.value)
        _, end = module.range(node)
        if "#" in module.text[start:end]:
            raise UnrepairableError("a comment stands inside it", node)
        return [Edit(start, end, "")]
    if member not in _MEMBERS:
        raise UnrepairableError(f"{member} has no successor", node)
    edits: list[Edit] = []
    if isinstance(node, ast.Attribute) and _MEMBERS[member] != member:
        _, end = module.range(node)
        edits.append(Edit(end - len(node.attr), end, _MEMBERS[member]))
    if isinstance(parent, ast.Call) and parent.func is node and member in _LOSS_SCALE:
        edits += without_loss_scale(module, parent, f"{SUCCESSORS[owner]}.{member}", member)
    return edits


def without_loss_scale(module: Module, call: ast.Call, name: str, member: str) -> list[Edit]:
    """Take the argument `loss_scale` out of a call, which `name` now means."""
    order = _LOSS_SCALE[member]
    if any(isinstance(each, ast.Starred) for each in call.args) or any(
        keyword.arg is None for keyword in call.keywords
    ):
        raise UnrepairableError("its arguments cannot be told apart", call)
    scale = given(call, "loss_scale", order)
    edits: list[Edit] = []
    if first := next((k for k in call.keywords if k.arg == "optimizer"), None):
        start, _ = module.range(first)
        edits.append(Edit(start, start + len("optimizer"), "inner_optimizer"))
    if scale is None:
        return edits
    _, spans = arguments(module, call)
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    index = sorted(values, key=lambda each: (each.lineno, each.col_offset)).index(scale)
    if _is_dynamic(scale):
        start, end = spans[index]
        if index:
            start = spans[index - 1][1]
        elif len(spans) > 1:
            end = spans[1][0]
        if "#" in module.text[start:end]:
            raise UnrepairableError("a comment stands beside its loss scale", call)
        return [*edits, Edit(start, end, "")]
    fixed = isinstance(scale, ast.Constant) and isinstance(scale.value, (int, float))
    if fixed and member == "LossScaleOptimizer" and generation(name, module) == 2:
        text = f"dynamic=False, initial_scale={module.source(scale)}"
        return [*edits, Edit(*spans[index], text)]
    raise UnrepairableError("its loss scale is not the usual, dynamic one", scale)


def _is_dynamic(scale: ast.expr) -> bool:
    if isinstance(scale, ast.Constant):
        return scale.value == "dynamic"
    return (
        isinstance(scale, ast.Call)
        and not scale.args
        and not scale.keywords
        and isinstance(scale.func, ast.Attribute)
        and scale.func.attr in _DYNAMIC
    )


def _import(module: Module, each: Imported) -> list[Edit]:
    statement, alias = each.statement, each.alias
    if isinstance(statement, ast.Import):
        return [migrate_import.replace_dotted(module, alias, SUCCESSORS[alias.name])]
    if alias.name == "*":
        raise UnrepairableError("everything is imported from it", statement)
    if statement.module in SUCCESSORS:
        member = alias.name
        if member not in _MEMBERS:
            raise UnrepairableError(f"{member} has no successor", statement)
        edits = [migrate_import.replace_module(module, statement, SUCCESSORS[statement.module])]
        if _MEMBERS[member] != member:
            edits.append(migrate_import.replace_dotted(module, alias, _MEMBERS[member]))
            edits += _renamed(module, each, _MEMBERS[member])
        return edits
    if len(statement.names) > 1:
        raise UnrepairableError("its import brings other names as well", statement)
    parent, _, last = SUCCESSORS[f"{statement.module}.experimental"].rpartition(".")
    alias_part = f" as {alias.asname}" if alias.asname and alias.asname != last else ""
    start, end = module.range(statement)
    edits = [Edit(start, end, f"from {parent} import {last}{alias_part}")]
    return [*edits, *_renamed(module, each, last)]


def _renamed(module: Module, each: Imported, new: str) -> list[Edit]:
    """Let what reads an import without an alias read its new name."""
    if each.alias.asname:
        return []
    names = Names.of(module)
    there = each.binding.scope.names.get(new, [])
    if any(names.meaning(binding) not in SUCCESSORS.values() for binding in there):
        raise UnrepairableError(f"{new} is taken", each.alias)
    if any(other.name == each.binding.name for other in there):
        raise UnrepairableError(f"{new} is taken", each.alias)
    if len(each.binding.scope.names[each.binding.name]) > 1:
        raise UnrepairableError("the same name means something else as well", each.alias)
    return [Edit(*module.range(reader), new) for reader in names.readers(each.binding)]
