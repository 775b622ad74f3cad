"""Where the parameters of a model are, as far as it is certain."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.registry import on_entry, on_member
from mpaudit.source.engine.values import TRUE, UNKNOWN, Class, Const, External, Pack, Thing, Value
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

PARAMETRIC = (
    "Linear",
    "Conv",
    "Bilinear",
    "Embedding",
    "LSTM",
    "GRU",
    "RNN",
    "Transformer",
    "Norm",
)
"""What the names of layers contain that hold parameters in nearly every use."""
PLAIN = ("builtins.object", "abc.ABC", "typing.Generic", "typing.Protocol")
"""Bases that move nothing."""


def certain_device(call: Call, model: Thing) -> str | None:
    """The device type of a model that is called, None where anybody else may have moved it.

    A model that was never moved is on the CPU only if it is a whole: what is part of another module,
    or of an object whose base nobody here can look into, is moved together with it. Where the path
    found that there is no CUDA, a region for CUDA switches itself off.
    """
    path = call.path
    device = device_of(model, path)
    if device != "cpu":
        return device
    cuda = call.engine.term("torch.cuda.is_available")
    if path.facts.get(cuda) is False or "device" in call.keywords:
        return None
    moved = path.known(model, "@device") is not None
    whole = path.known(model, "@part") is None and any(_parametric(model, path))
    return device if moved or whole else None


@on_member
def attached(owner: Thing, value: Value, path: Path) -> None:
    """Note that a module becomes an attribute of something that may be moved as a whole."""
    if isinstance(value, Thing) and value.kind == "Module":
        if owner.kind == "Module" or _foreign(path.known(owner, "@class")):
            path.learn(value, part=TRUE)


@on_entry
def moved_elsewhere(instance: Thing, owner: Class, path: Path) -> None:
    """Note which models of an object its methods move: any of them may have been called before."""
    for name in _moved(owner.node):
        held = path.heap.get((instance.uid, name))
        for part in parts(held, path) if held is not None else ():
            if isinstance(part, Thing) and part.kind == "Module":
                path.learn(part, device=UNKNOWN)
    for base in owner.bases:
        if isinstance(base, Class):
            moved_elsewhere(instance, base, path)


@for_a_while(1024)
def _moved(owner: ast.ClassDef) -> frozenset[str]:
    """The attributes of `self` that methods of a class move to a device."""
    methods = [n for n in owner.body if isinstance(n, ast.FunctionDef) and n.name != "__init__"]
    return frozenset(
        holder.attr
        for method in methods
        for node in walk(method)
        if isinstance(node, ast.Attribute) and node.attr in ("to", "cuda", "xpu")
        if isinstance(holder := node.value, ast.Attribute) and isinstance(holder.value, ast.Name)
    )


def _foreign(owner: Value | None, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a class has a base that is not of the project."""
    if not isinstance(owner, Class) or owner.uid in seen:
        return False
    return any(
        _foreign(base, seen | {owner.uid})
        if isinstance(base, Class)
        else not (isinstance(base, External) and base.name in PLAIN)
        for base in owner.bases
    )


def _parts(model: Thing, path: Path) -> list[Thing]:
    items = path.known(model, "@items")
    held = list(items.items) if isinstance(items, Pack) else []
    held += [value for name, value in path.heap.of(model.uid) if name[0] != "@"]
    return [part for part in held if isinstance(part, Thing) and part.kind == "Module"]


def _parametric(model: Thing, path: Path, seen: frozenset[int] = frozenset()) -> Iterator[bool]:
    layer = path.known(model, "@layer")
    if isinstance(layer, Const) and any(word in str(layer.value) for word in PARAMETRIC):
        yield True
    for part in _parts(model, path):
        if part.uid not in seen:
            yield from _parametric(part, path, seen | {model.uid})


def device_of(model: Thing, path: Path, seen: frozenset[int] = frozenset()) -> str | None:
    """The device type of a model's parameters by what was done to it and its parts."""
    device = path.known(model, "@device")
    if isinstance(device, Const):
        return None if device == UNKNOWN else str(device.value)
    if device is not None or model.kind != "Module":
        return None
    for part in _parts(model, path):
        if part.uid not in seen and device_of(part, path, seen | {model.uid}) != "cpu":
            return None
    return "cpu"
