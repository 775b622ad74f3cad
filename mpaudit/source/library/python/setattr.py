"""Attributes and entries set by name: `setattr(self, key, value)`, `parser.parse_args(namespace=config)`."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import base, function, on_stored
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.unfollowed import forget_held
from mpaudit.source.engine.values import NONE, TRUE, Const, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

MERGES = ("update", "merge", "load", "from_", "set_from", "override")
"""How the methods of configurations begin that set what is in them."""
PARSES = ("parse_args", "parse_known_args", "parse_intermixed_args", "parse_known_intermixed_args")
"""How the methods of parsers are called that set what the command line says in a namespace."""
FROM_OUTSIDE = (
    "pydantic_settings.BaseSettings",
    "pydantic.BaseSettings",
    "pydantic.v1.BaseSettings",
)
"""Classes whose objects take what they are not given from the environment."""
MAX_NESTING = 3
"""How deep a configuration is looked into."""


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


@on_result(methods=lambda name: name.startswith(MERGES))
def merged(call: Call, _: Value, __: Value) -> None:
    """`self.__dict__.update(options)`, `config.merge_from_file(path)`, `options.update(json.load(file))`."""
    if not isinstance(call.receiver, Thing) or not (call.arguments or call.keywords):
        return
    options = call.argument(0)
    base = _attributes_of(call, call.receiver)
    if base is None:
        kind = call.receiver.kind
        if kind == "library" or (kind == "dict" and not _is_known(call, options)):
            _merged_into(call.receiver, call.path, call.engine)
        return
    given = options if isinstance(options, Thing) and options.kind == "dict" else None
    for name, value in [] if given is None else list(call.path.heap.of(given.uid)):
        if name.startswith("['"):
            call.path.heap[(base.uid, name[2:-2])] = value
    for name, value in call.keywords.items():
        call.path.heap[(base.uid, name)] = value
    if options is not None and not _is_known(call, options):
        _set_by_name(call, base, "")


@on_result(functions=(), methods=PARSES)
def parsed(call: Call, _: Value, __: Value) -> None:
    """`parser.parse_args(namespace=config)`: the options are what the command line says."""
    namespace = call.argument(1, "namespace")
    if isinstance(namespace, Thing):
        _set_by_name(call, namespace, "")


def _from_outside(call: Call, made: Thing, _: str) -> None:
    """`class Settings(BaseSettings): amp: bool = False`: the environment may say otherwise."""
    call.path.learn(made, by_name=TRUE)


base("instance", *FROM_OUTSIDE, adopt=_from_outside)


@on_stored
def entry(engine: Calls, _: ast.Subscript, base: Value, key: Value, __: Value, path: Path) -> None:
    """`options[key] = value` with a key that is not known."""
    if isinstance(base, Thing) and base.kind == "dict" and not isinstance(key, Const):
        forget_held(base, path, engine.identities, "['")


def _is_known(call: Call, options: Value | None) -> bool:
    """Whether all is known that a dict holds; what is given by keywords alone is."""
    if options is None:
        return call.receiver is not None and "**" not in call.keywords
    return isinstance(options, Thing) and call.path.known(options, "@items") is not None


def _merged_into(owner: Thing, path: Path, engine: Calls, depth: int = 0) -> None:
    """Forget the plain values of a configuration, and of those within it."""
    forget_held(owner, path, engine.identities)
    for name, value in list(path.heap.of(owner.uid)):
        nested = isinstance(value, Thing) and value.kind in ("library", "dict")
        if nested and name[0] != "@" and depth < MAX_NESTING:
            assert isinstance(value, Thing)
            _merged_into(value, path, engine, depth + 1)


def _attributes_of(call: Call, receiver: Thing) -> Thing | None:
    """The object whose `__dict__` a method is called on."""
    operation, *operands = call.engine.identities.description(receiver.uid)
    if operation == "." and operands[1] == Const("__dict__"):
        return operands[0] if isinstance(operands[0], Thing) else None
    return None


def _set_by_name(call: Call, base: Thing, begins: str) -> None:
    """What an object is known to hold of plain values may be another one by now."""
    forget_held(base, call.path, call.engine.identities, begins)
    call.path.learn(base, by_name=TRUE if not begins else None)
