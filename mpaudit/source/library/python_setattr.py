"""Attributes that are set by name: `setattr(self, key, value)`, `self.__dict__.update(options)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.library.registry import function
from mpaudit.source.library.result import on_result
from mpaudit.source.values import NONE, TRUE, Const, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.request import Call


@function("builtins.setattr")
def set_attribute(call: Call) -> Value | None:
    """`setattr(self, key, value)`; by a name that is not known it may be any plain value of it."""
    base, name, value = (call.argument(index) for index in range(3))
    if not isinstance(base, Thing) or name is None or value is None:
        return None
    if isinstance(name, Const):
        call.path.heap[(base.uid, str(name.value))] = value
        return NONE
    begins = call.path.known(name, "@begins")
    _set_by_name(call, base, str(begins.value) if isinstance(begins, Const) else "")
    return None


@on_result(methods=("update",))
def updated(call: Call, _: Value, __: Value) -> None:
    """`self.__dict__.update(options)`, `vars(self).update(options)`."""
    base, options = _attributes_of(call), call.argument(0)
    if base is None:
        return
    heap = call.path.heap
    given = options if isinstance(options, Thing) and options.kind == "dict" else None
    for name, value in [] if given is None else list(heap.of(given.uid)):
        if name.startswith("['"):
            heap[(base.uid, name[2:-2])] = value
    for name, value in call.keywords.items():
        heap[(base.uid, name)] = value
    if options is not None and call.path.known(options, "@items") is None:
        _set_by_name(call, base, "")


def _attributes_of(call: Call) -> Thing | None:
    """The object whose `__dict__` a method is called on."""
    if not isinstance(call.receiver, Thing):
        return None
    operation, *operands = call.engine.identities.description(call.receiver.uid)
    if operation == "." and operands[1] == Const("__dict__"):
        return operands[0] if isinstance(operands[0], Thing) else None
    return None


def _set_by_name(call: Call, base: Thing, begins: str) -> None:
    """What an object is known to hold of plain values may be another one by now."""
    for name, value in list(call.path.heap.of(base.uid)):
        if isinstance(value, Const) and name[0] not in "_@[" and name.startswith(begins):
            number = call.engine.identities.number("set by name", call.node, base.uid, name)
            call.path.heap[(base.uid, name)] = Thing(number, text=name)
    call.path.learn(base, by_name=TRUE if not begins else None)
