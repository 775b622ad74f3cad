"""Repairs of policies that are made and not set, whose name is none, or that leave out "mixed_"."""

from __future__ import annotations

import ast
import sys

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.keras_names import ROOTS, last
from mpaudit.source.library.keras.policy_name import FLOATX, is_none
from mpaudit.source.repair.keras_move import move_policy
from mpaudit.source.repair.registry import Context, insert_after, repairs
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

SETTERS = (
    "mixed_precision.set_global_policy",
    "mixed_precision.set_dtype_policy",
    "config.set_dtype_policy",
)

TRY: tuple[type[ast.AST], ...] = (ast.Try,)
if sys.version_info >= (3, 11):
    TRY = (ast.Try, ast.TryStar)


@repairs("ineffective-policy")
def set_it(context: Context) -> Fix | None:
    """Set the policy right after it is made, or give it its right name."""
    given = context.subject("name")
    if given is not None:
        return _rename(context, given)
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or context.subject("late"):
        return None
    setter, statement = _setter(module, call.func), module.parents.get(call)
    if setter is None:
        return None
    edit: Edit | None = None
    if isinstance(statement, ast.Expr):
        edit = Edit(*module.range(call.func), setter)
    elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        edit = insert_after(module, statement, f"{setter}({statement.targets[0].id})")
    if edit is None:
        return None
    if "GradientTape" in module.text and "bfloat16" in module.source(call):
        message = "Set the policy, and cast what the model returns to float32 for the loss"
        return Fix(message, (), Safety.SUGGESTION)
    return Fix("Set the policy", (edit,), Safety.UNSAFE)


@repairs("policy-between-layers")
def set_it_first(context: Context) -> Fix | None:
    """Set the policy above the first layer, where it can be moved there."""
    edits = move_policy(context.module, context.problem) or ()
    message = "Set the policy once, before the first layer; keep single layers in float32 by their `dtype`"
    return Fix(message, tuple(edits), Safety.SUGGESTION)


def _setter(module: Module, policy: ast.expr) -> str | None:
    """How the file can spell the function that sets a policy, going by how it spells the class."""
    names = Names.of(module)
    meaning, spelled = names.resolve(policy) or "", module.source(policy)
    root = next((r for r in ROOTS if meaning.startswith(f"{r}.")), None)
    if root is None:
        return None
    before, _, _ = spelled.rpartition(".")
    if isinstance(policy, ast.Attribute):
        inner = meaning.removeprefix(f"{root}.").rpartition(".")[0]
        if inner == "mixed_precision":
            return f"{before}.set_global_policy"
        if inner == "mixed_precision.experimental":
            return f"{before}.set_policy"
        if inner == "":
            return f"{before}.config.set_dtype_policy"
        outer, found, _ = before.rpartition(".dtype_policies")
        return f"{outer}.config.set_dtype_policy" if found else None
    return _spelled(names, policy, root) if isinstance(policy, ast.Name) else None


def _spelled(names: Names, at: ast.Name, root: str) -> str | None:
    for setter in SETTERS:
        known = names.spelling(f"{root}.{setter}", at)
        if known is not None:
            return known
    known = names.spelling(f"{root}.mixed_precision", at)
    if known is not None:
        return f"{known}.set_global_policy"
    known = names.spelling(root, at)
    if known is not None:
        return f"{known}.mixed_precision.set_global_policy"
    known = names.spelling("tensorflow", at)
    is_tensorflow = known is not None and root == "tensorflow.keras"
    return f"{known}.keras.mixed_precision.set_global_policy" if is_tensorflow else None


def _rename(context: Context, given: str) -> Fix | None:
    """`"mixed_fp16"` -> `"mixed_float16"`: what raised before works now."""
    meant, module = _meant(given), context.module
    node = context.node(ast.expr)
    if meant is None or node is None or _guarded(module, node):
        return None
    call = node if isinstance(node, ast.Call) else module.parents.get(node)
    if isinstance(call, ast.Call) and last(module.source(call.func)) == "set_floatx":
        return None
    literal = next((n for n in ast.walk(node) if _is(n, given)), None)
    if literal is None and isinstance(node, ast.Call) and node.args:
        literal = _literal(module, node.args[0], given)
    if not isinstance(literal, ast.Constant):
        return None
    edit = _replace(module, literal, meant)
    return Fix(f"Name the policy `{meant}`", (edit,), Safety.SAFE)


def _meant(given: str) -> str | None:
    """The policy that somebody means by a name that is none."""
    name = given.lower().replace("-", "_").replace("torch.", "").replace("tf.", "")
    if not is_none(name):
        return name
    if name in ("fp32", "mixed_float32", "mixed_fp32", "full", "single_precision"):
        return "float32"
    if "bf16" in name or "bfloat" in name:
        return "mixed_bfloat16"
    half = ("fp16", "f16", "float_16", "half", "mixed_16", "mixed_precision")
    return (
        "mixed_float16" if name in ("mixed", "16", "amp") or any(h in name for h in half) else None
    )


@repairs("pure-half-policy")
def make_it_mixed(context: Context) -> Fix | None:
    """`"float16"` -> `"mixed_float16"`; `set_floatx("float16")` becomes a policy that is set."""
    module, call = context.module, context.node(ast.Call)
    if not isinstance(call, ast.Call) or context.subject("layer"):
        return None
    given = [*call.args, *(k.value for k in call.keywords)]
    literal = _literal(module, given[0]) if len(given) == 1 else None
    if literal is None:
        return None
    edits = [_replace(module, literal, "mixed_float16")]
    if context.subject("floatx"):
        setter = _setter_for_floatx(module, call.func)
        if setter is None or literal is not given[0] or call.keywords:
            return None
        edits.append(Edit(*module.range(call.func), setter))
    return Fix("Compute in float16 and keep the variables in float32", tuple(edits), Safety.UNSAFE)


def _setter_for_floatx(module: Module, function: ast.expr) -> str | None:
    names = Names.of(module)
    meaning, spelled = names.resolve(function) or "", module.source(function)
    root = next((r for r in ROOTS if meaning.startswith(f"{r}.")), None)
    for inner, setter in (
        (".backend.set_floatx", ".mixed_precision.set_global_policy"),
        (".config.set_floatx", ".config.set_dtype_policy"),
    ):
        if spelled.endswith(inner):
            return spelled.removesuffix(inner) + setter
    node = function
    while isinstance(node, ast.Attribute):
        node = node.value
    return _spelled(names, node, root) if isinstance(node, ast.Name) and root else None


def _literal(module: Module, node: ast.AST, text: str | None = None) -> ast.Constant | None:
    """The literal behind a policy: itself, within `Policy(...)`, or behind a name of only this use."""
    if _is(node, text) and isinstance(node, ast.Constant):
        return node
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return _literal(module, node.args[0], text)
    names = Names.of(module)
    if isinstance(node, ast.Name):
        bindings = names.bindings(node)
        if len(bindings) == 1 and isinstance(bindings[0].origin, ast.expr):
            constant = isinstance(bindings[0].origin, ast.Constant)
            if not constant or len(names.readers(bindings[0])) == 1:
                return _literal(module, bindings[0].origin, text)
    return None


def _is(node: ast.AST, text: str | None) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    return node.value == text if text is not None else node.value in (*FLOATX, "half")


def _replace(module: Module, literal: ast.Constant, text: str) -> Edit:
    quote = module.source(literal)[-1]
    return Edit(*module.range(literal), f"{quote}{text}{quote}")


def _guarded(module: Module, node: ast.AST) -> bool:
    """Whether somebody may count on the error."""
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, TRY):
            return True
    return False
