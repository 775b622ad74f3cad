"""Keras dtype policies: made, set, asked for, reset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import PolicySet
from mpaudit.source.library.keras_names import keras, last, text
from mpaudit.source.library.registry import attributes
from mpaudit.source.values import NONE, UNKNOWN, Const, External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.call import Calls
    from mpaudit.source.path import Path
    from mpaudit.source.request import Call

IN_FORCE = (-1, "@keras_policy")
"""Where a path keeps the name of the global policy; negative owners are no other module's business."""
DTYPES = ("float16", "bfloat16", "float32", "float64", "half")


def in_force(path: Path) -> Value:
    """The name of the global policy; UNKNOWN where it is not known."""
    return path.heap.get(IN_FORCE) or Const("float32")


def policy_name(value: Value | None, path: Path) -> str | None:
    """The name of the policy that a value is or stands for, None if it is not known."""
    if isinstance(value, External):
        name = last(value.name)
        return {"half": "float16"}.get(name, name) if name in DTYPES else None
    if isinstance(value, Thing):
        value = path.known(value, "@name") if value.kind == "DTypePolicy" else None
    name = text(value) or ""
    return name if name and value != UNKNOWN else None


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
    name = policy_name(call.picked(0, "name"), call.path)
    return call.path.learn(made, name=UNKNOWN if name is None else Const(name))


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
    name = policy_name(call.picked(0, "policy"), call.path)
    _set(call, name)
    return NONE


def _set(call: Call, name: str | None) -> None:
    call.path.heap[IN_FORCE] = UNKNOWN if name is None else Const(name)
    call.emit(PolicySet(at=call.span, occasional=call.occasional, policy=name))


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
