"""Modules that hold others: models, nn.ModuleList and nn.ModuleDict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import method
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, Pack, Thing, Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

CONTAINERS = ("torch.nn.ModuleList", "torch.nn.ModuleDict")


@on_result(functions=CONTAINERS, methods=())
def held(call: Call, _: Value, made: Value) -> None:
    """`nn.ModuleList([Block(), Block()])`, `nn.ModuleDict({"head": head})`."""
    given, path = call.argument(0, "modules"), call.path
    if not isinstance(made, Thing):
        return
    if given is None:
        path.learn(made, items=Pack(()))
    elif isinstance(given, Pack):
        path.learn(made, items=given)
    elif isinstance(given, Thing):
        path.learn(made, items=path.known(given, "@items"), each=path.known(given, "@each"))
        for name, value in list(path.heap.of(given.uid)):
            if name.startswith("["):
                path.heap[(made.uid, name)] = value


@method("Module", "append")
def append(call: Call) -> Value:
    """`self.blocks.append(Block())`."""
    known = call.path.known(call.thing, "@items")
    if isinstance(known, Pack) and call.arguments:
        call.path.learn(call.thing, items=Pack((*known.items, call.arguments[0])))
    elif call.arguments:
        call.path.learn(call.thing, each=call.arguments[0])
    return NONE


def parts_of_model(model: Thing, path: Path) -> Iterator[Thing]:
    """A model and the modules that it is known to hold, at any depth."""
    waiting, seen = [model], {model.uid}
    while waiting:
        part = waiting.pop()
        yield part
        items = path.known(part, "@items")
        held = [value for name, value in path.heap.of(part.uid) if name[0] != "@"]
        held += items.items if isinstance(items, Pack) else ()
        for each in held:
            if isinstance(each, Thing) and each.kind == "Module" and each.uid not in seen:
                seen.add(each.uid)
                waiting.append(each)
