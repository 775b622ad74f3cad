"""nn.Sequential and what is derived from it: which layers are in it, and which one it ends in."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import (
    function,
    initialised,
    kind_of,
    method,
    on_operation,
    on_stored,
)
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, UNKNOWN, Class, Const, Function, Pack, Thing, Value
from mpaudit.source.library.torch.activation import last_layer, leaving, own_tail
from mpaudit.source.library.torch.pretrained import from_head

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

CHANGES = ("append", "extend", "insert", "pop", "reverse", "remove")


def chained(call: Call, made: Thing) -> None:
    """Note the layers of `nn.Sequential(...)`: all of them (items), else the last one (tail)."""
    path, node = call.path, call.node
    if not any(isinstance(argument, ast.Starred) for argument in node.args):
        path.learn(made, items=_given(call))
    elif call.arguments:
        last = call.arguments[-1]
        if isinstance(node.args[-1], ast.Starred) and not _is_layer(last):
            last = _end(last, path) or UNKNOWN
        path.learn(made, tail=last)


def _is_layer(value: Value) -> bool:
    return isinstance(value, Thing) and value.kind == "Module"


def _end(container: Value, path: Path) -> Value | None:
    """The last item of a list, None where it is not known."""
    known = container if isinstance(container, Pack) else path.known(container, "@items")
    if isinstance(known, Pack):
        return known.items[-1] if known.items else None
    return path.known(container, "@tail")


@on_operation
def concatenated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """`layers + [nn.Softmax(dim=1)]`."""
    last = _end(operands[-1], path) if operation == "Add" else None
    if last is not None and _is_layer(last):
        path.learn(made, tail=last)


@on_result(functions=(), methods=CHANGES)
def lengthened(call: Call, _: Value, __: Value) -> None:
    """`layers.append(nn.Softmax(dim=1))` of a list whose items are not all known."""
    if not isinstance(call.receiver, Thing):
        return
    if call.receiver.kind not in ("", "list") or not call.arguments:
        return
    given = call.arguments[-1]
    last = _end(given, call.path) if call.name == "extend" else given
    if call.name in ("append", "extend") and last is not None and _is_layer(last):
        call.path.learn(call.receiver, tail=last)
    elif call.path.known(call.receiver, "@tail") is not None:
        call.path.learn(call.receiver, tail=UNKNOWN)


def _given(call: Call) -> Pack:
    """The layers as they are given, or those of the one dict that is given."""
    only = call.arguments[0] if len(call.arguments) == 1 else None
    if isinstance(only, Thing) and only.kind == "dict":
        entries = [value for name, value in call.path.heap.of(only.uid) if name[0] == "["]
        return Pack(tuple(entries) or (UNKNOWN,))
    return Pack(call.arguments)


@function("collections.OrderedDict")
def ordered(call: Call) -> Value | None:
    """`OrderedDict([("fc", nn.Linear(4, 2)), ("out", nn.Softmax(dim=1))])`."""
    given, path = call.argument(0), call.path
    if "**" in call.keywords or call.keywords:
        return None
    known = given if isinstance(given, Pack) else path.known(given or NONE, "@items")
    pairs = known.items if isinstance(known, Pack) else None
    if given is not None and pairs is None:
        return None
    made = call.made("dict")
    values = []
    for pair in pairs or ():
        if not isinstance(pair, Pack) or len(pair.items) != 2:
            return None
        key, value = pair.items
        if not isinstance(key, Const):
            return None
        path.heap[(made.uid, f"[{key.value!r}]")] = value
        values.append(value)
    path.learn(made, items=Pack(tuple(values)))
    return call.engine.derive(made, tuple(values), path)


@initialised("Module")
def initialise(call: Call, model: Thing) -> None:
    """`super().__init__(nn.Linear(4, 2), nn.Softmax(dim=1))` in a class derived from nn.Sequential."""
    owner = call.path.known(model, "@class")
    if isinstance(owner, Class) and kind_of(owner)[1] == "torch.nn.Sequential":
        chained(call, model)


@method("Module", "add_module", "register_module")
def add_module(call: Call) -> Value:
    """`net.add_module("softmax", nn.Softmax(dim=1))`."""
    name, module, path = call.argument(0, "name"), call.argument(1, "module"), call.path
    known = path.known(call.thing, "@items")
    if isinstance(known, Pack) and module is not None:
        path.learn(call.thing, items=Pack((*known.items, module)))
    elif path.known(call.thing, "@tail") is not None and module is not None:
        path.learn(call.thing, tail=module)
    if isinstance(name, Const) and isinstance(name.value, str) and module is not None:
        path.heap[(call.thing.uid, name.value)] = module
    return NONE


@method("Module", "pop", "insert", "extend")
def rearrange(call: Call) -> Value | None:
    """What a chain ends in after this is not known."""
    path = call.path
    if path.known(call.thing, "@items") is not None or path.known(call.thing, "@tail") is not None:
        path.learn(call.thing, items=UNKNOWN, tail=UNKNOWN)
    return None


@on_stored
def replaced(
    _: Calls, __: ast.Subscript, base: Value, key: Value, value: Value, path: Path
) -> None:
    """`model[-1] = nn.Identity()`."""
    if not isinstance(base, Thing) or base.kind != "Module":
        return
    known = path.known(base, "@items")
    if isinstance(known, Pack):
        items = list(known.items)
        index = key.value if isinstance(key, Const) else None
        if isinstance(index, int) and -len(items) <= index < len(items):
            items[index] = value
            path.learn(base, items=Pack(tuple(items)))
        elif not isinstance(index, str):
            path.learn(base, items=UNKNOWN)
    if path.known(base, "@tail") is not None:
        path.learn(base, tail=value if key == Const(-1) else UNKNOWN)


def followed(call: Call, model: Thing) -> Value | None:
    """What leaves the object of a project's own class that a chain ends in, for an unknown input."""
    tail = own_tail(model, call.path)
    forward = lookup(call.path, tail[1], "forward") if tail is not None else None
    if tail is None or not isinstance(forward, Function) or call.engine.narrow:
        return None
    if not call.engine.relevance.following(forward):
        return None
    place, done = call.engine.site(call.node, 0), call.path.frame.done
    if place not in done:
        number = call.engine.identities.number("inside", call.node, call.path.frame.iteration)
        given = Thing(number, since=call.path.frame.iteration)
        done[place] = call.engine.enter(place, forward, (tail[0], given), {}, call.path)
    return done[place]


def leaving_model(call: Call, made: Thing, model: Thing) -> Thing:
    """Note what leaves a model whose own code is not followed."""
    leaving(call, made, last_layer(model, call.path))
    from_head(call, made, model)
    return made
