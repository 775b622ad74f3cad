"""Keras dtype policies: made, set, asked for, reset."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import PolicyMade, PolicySet
from mpaudit.source.engine.registry import attributes
from mpaudit.source.engine.values import NONE, TRUE, Const, Thing, Value
from mpaudit.source.library.keras.dtype import SEEN
from mpaudit.source.library.keras.names import keras, text
from mpaudit.source.library.keras.policy_name import (
    FLOATX,
    MIXED,
    policy_name,
    refuse,
    refuse_floatx,
    stated,
)
from mpaudit.source.library.keras.policy_name import compute_dtype as compute_dtype_of_policy
from mpaudit.source.library.tensorflow.dtypes import HALF
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call
    from mpaudit.source.text.module import Module

IN_FORCE = (-1, "@keras_policy")
"""Where a path keeps the name of the global policy; negative owners are no other module's business."""
FLOATX_IN_FORCE = (-1, "@keras_floatx")
BUILT = (-1, "@keras_built")
"""Whether layers were built: by then Keras 3 has made up its mind about the policy."""
SHOWN = ("name", "compute_dtype", "variable_dtype")
"""What is read of a policy to print it."""
PRINTS = ("print", "info", "debug", "warning", "display", "log")


def in_force(path: Path) -> Value:
    """The name of the global policy; UNKNOWN where it is not known."""
    return path.heap.get(IN_FORCE) or path.heap.get(FLOATX_IN_FORCE) or Const("float32")


@keras(
    "mixed_precision.Policy",
    "mixed_precision.DTypePolicy",
    "mixed_precision.experimental.Policy",
    "DTypePolicy",
    "dtype_policies.DTypePolicy",
    "dtype_policies.FloatDTypePolicy",
    "dtype_policies.get",
)
def make_policy(call: Call) -> Value:
    """`Policy("mixed_float16")`."""
    made = call.made("DTypePolicy")
    given = call.picked(0, "name")
    refuse(call, given)
    name = policy_name(given, call.path)
    if name in MIXED and _unread(call.node, call.path.frame.module):
        call.emit(PolicyMade(at=call.span, occasional=call.occasional, policy=str(name)))
    return call.path.learn(made, name=stated(name))


@keras(
    "mixed_precision.set_global_policy",
    "mixed_precision.set_dtype_policy",
    "mixed_precision.set_policy",
    "mixed_precision.experimental.set_policy",
    "mixed_precision.experimental.set_global_policy",
    "config.set_dtype_policy",
)
def set_policy(call: Call) -> Value:
    """`set_global_policy(policy)`."""
    given = call.picked(0, "policy")
    refuse(call, given)
    _set(call, policy_name(given, call.path))
    return NONE


def _set(call: Call, name: str | None) -> None:
    call.path.heap[IN_FORCE] = stated(name)
    _see(name, call.path)
    chosen = _chosen(call.node, call.path.frame.module)
    call.emit(PolicySet(at=call.span, occasional=call.occasional, policy=name, chosen=chosen))


def _chosen(node: ast.AST, module: Module) -> bool:
    """Whether a call stands under a condition, or is given something other than a literal."""
    if isinstance(node, ast.Call) and not all(isinstance(a, ast.Constant) for a in node.args):
        return True
    while (above := module.parents.get(node)) is not None:
        if isinstance(above, (ast.If, ast.IfExp, ast.Try, ast.FunctionDef)):
            return not isinstance(above, ast.FunctionDef)
        node = above
    return False


def _see(name: str | None, path: Path) -> None:
    """From here on, the dtypes of tensors are kept."""
    if compute_dtype_of_policy(name) in HALF:
        path.heap[SEEN] = TRUE


@keras("backend.set_floatx", "config.set_floatx")
def set_floatx(call: Call) -> Value:
    """`set_floatx("float16")`: the policy of layers, as long as none is set.

    Where layers exist already, Keras 3 does not look at it any more, and Keras 2 does.
    """
    given, path = call.picked(0, "value"), call.path
    refuse_floatx(call, given)
    name = text(given)
    if IN_FORCE in path.heap:
        return NONE
    if name not in FLOATX or BUILT in path.heap:
        name = None
    path.heap[FLOATX_IN_FORCE] = stated(name)
    _see(name, path)
    call.emit(PolicySet(at=call.span, occasional=call.occasional, policy=name, floatx=True))
    return NONE


@keras("backend.clear_session", "utils.clear_session")
def clear_session(call: Call) -> Value:
    """Keras 3 forgets the policy here, Keras 2 keeps it."""
    if IN_FORCE in call.path.heap:
        _set(call, None)
    return NONE


@keras(
    "mixed_precision.global_policy",
    "mixed_precision.dtype_policy",
    "mixed_precision.experimental.global_policy",
    "config.dtype_policy",
)
def ask_policy(call: Call) -> Value:
    """`global_policy()`."""
    return call.path.learn(call.made("DTypePolicy"), name=in_force(call.path))


def built(path: Path) -> None:
    """Note that a layer is built."""
    path.heap[BUILT] = TRUE


@attributes("name")
def name_of_policy(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`policy.name`."""
    name = policy_name(thing, path)
    return None if name is None else Const(name)


@attributes("compute_dtype")
def compute_dtype(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`policy.compute_dtype`."""
    name = policy_name(thing, path)
    return None if name is None else Const(name.removeprefix("mixed_"))


def _unread(node: ast.Call, module: Module) -> bool:
    """Whether a new policy is thrown away, or goes to a name of which nothing is read but to print."""
    statement = module.parents.get(node)
    if isinstance(statement, ast.Expr):
        return True
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return False
    target, names = statement.targets[0], Names.of(module)
    if not isinstance(target, ast.Name):
        return False
    bindings = names.bindings(target)
    if len(bindings) != 1 or bindings[0].scope.is_class or _exported(target.id, module):
        return False
    return all(_printed(each, module) for each in names.readers(bindings[0]))


def _exported(name: str, module: Module) -> bool:
    """Whether a file names what it is for others to import."""
    return any(
        isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        and any(isinstance(c, ast.Constant) and c.value == name for c in ast.walk(node.value))
        for node in module.tree.body
    )


def _printed(node: ast.AST, module: Module) -> bool:
    """Whether a place reads a policy only to say what it is."""
    parent = module.parents.get(node)
    if isinstance(parent, ast.Attribute) and parent.attr not in SHOWN:
        return False
    while parent is not None and not isinstance(parent, ast.stmt):
        node, parent = parent, module.parents.get(parent)
    if not isinstance(parent, ast.Expr) or not isinstance(parent.value, ast.Call):
        return False
    function = parent.value.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in PRINTS
