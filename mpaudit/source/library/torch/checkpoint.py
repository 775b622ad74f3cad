"""Checkpoints: `state_dict()`, and what is written to a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.event import Ref, ScalerStateTaken, StateSaved
from mpaudit.finding import Span
from mpaudit.source.api.torch_names import LIKE_SCALER, SAVES
from mpaudit.source.engine.registry import function, harmless, method
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, Bound, Choice, Const, External, Pack, Thing, Value
from mpaudit.source.trait.resuming import resumed

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SAVED = ("torch.save", "pickle.dump", "joblib.dump", "torch.distributed.checkpoint.save")
"""What libraries call it that write the dict they are given."""
MAX_NESTING = 5
"""How deep a checkpoint is looked into."""


@method("GradScaler", "state_dict")
def scaler_state(call: Call) -> Value:
    """`scaler.state_dict()`."""
    if call.path.known(call.thing, "@off") is None:
        _scaler_taken(call, call.ref(call.thing))
    return call.path.learn(call.made(), scaled=Pack(()))


@method("Optimizer", "state_dict")
def optimizer_state(call: Call) -> Value:
    """`optimizer.state_dict()`."""
    return _taken(call, call.thing)


@method("", "state_dict")
def some_state(call: Call) -> Value | None:
    """`x.state_dict()` of something unknown: whoever steps it will say whether it is an optimizer."""
    receiver = call.receiver
    if not isinstance(receiver, Thing) or receiver.kind:
        return None
    call.engine.derive(call.made(), (receiver,), call.path)
    _scaler_taken(call, Ref(receiver.uid, ""))
    _unseen(call)
    return _taken(call, receiver)


@method("Const", "state_dict")
def state_of_none(call: Call) -> Value | None:
    """`self.optimizer.state_dict()` where nobody saw the optimizer being set."""
    _unseen(call)
    return _taken(call, NONE) if call.receiver == NONE else None


@method("Bound", "state_dict")
def state_of_member(call: Call) -> Value | None:
    """`step.scaler.state_dict()`, an attribute of a function."""
    _unseen(call)
    return None


def _unseen(call: Call) -> None:
    """What is called a scaler, or was picked by a computed name, may be the one: this only silences."""
    if LIKE_SCALER.search(call.ref(None).text) or _picked(call):
        _scaler_taken(call, None)


def _picked(call: Call) -> bool:
    """Whether the receiver is one of several: `for part in parts`, `parts[name]`, `getattr(x, name)`."""
    if not isinstance(call.receiver, Thing):
        return False
    operation, *operands = call.engine.identities.description(call.receiver.uid)
    if operation == "[]":
        return not isinstance(operands[1], Const)
    node = operands[0] if operands else None
    if operation == "made" and isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "getattr"
    return operation in ("each", "getattr")


def _taken(call: Call, owner: Value) -> Thing:
    ref = call.ref(owner)
    fact = Const((ref, call.places))
    return call.path.learn(call.made(), state_of=fact, scaled=Pack(()))


def _scaler_taken(call: Call, scaler: Ref | None) -> None:
    call.emit(ScalerStateTaken(at=call.span, occasional=call.occasional, scaler=scaler))


@function(*SAVED)
def save(call: Call) -> Value:
    """`torch.save(checkpoint, path)`."""
    saved = call.argument(0, "obj") or call.keywords.get("state_dict")
    if saved is not None:
        _written(call, saved)
    return NONE


def _saves(name: str) -> bool:
    return name.rpartition(".")[2] in SAVES and name not in SAVED


@on_result(functions=_saves, methods=SAVES)
def saved_elsewhere(call: Call, function: Value, _: Value) -> None:
    """`accelerator.save(checkpoint, path)`, `self.save(...)` of a trainer: the state is taken by then."""
    if not isinstance(function, External) and call.receiver is None:
        return
    for given in (*call.arguments, *call.keywords.values()):
        if isinstance(given, Thing) and given.kind == "dict":
            _written(call, given)
    if isinstance(call.receiver, Thing):  # the class it derives from may look for `self.scaler`
        for held in [value for _, value in call.path.heap.of(call.receiver.uid)]:
            if isinstance(held, Thing) and held.kind == "GradScaler":
                _scaler_taken(call, Ref(held.uid, ""))


@on_result(functions=lambda name: not harmless(name))
def handed_over(call: Call, function: Value, _: Value) -> None:
    """`Checkpointer(path, scaler=scaler)` of a library: whoever is given a scaler may save it."""
    if isinstance(function, External) or (
        isinstance(function, Bound) and function.function is None
    ):
        for given in (*call.arguments, *call.keywords.values()):
            if isinstance(given, Thing) and given.kind == "GradScaler":
                _scaler_taken(call, Ref(given.uid, ""))


def _written(call: Call, saved: Value) -> None:
    for part, key in _inside(saved, None, call.path, frozenset()):
        if part.kind == "GradScaler":
            _scaler_taken(call, Ref(part.uid, ""))
        elif part.kind == "Optimizer":
            _saved(call, key, Ref(part.uid, ""), call.places)
        else:
            for fact in _either(call.path.known(part, "@state_of")):
                if isinstance(fact, Const) and isinstance(fact.value, tuple):
                    _saved(call, key, *fact.value)


def _saved(call: Call, key: str | None, optimizer: Ref, taken: tuple[Span, ...]) -> None:
    call.emit(
        StateSaved(
            at=call.span,
            occasional=call.occasional,
            optimizer=optimizer,
            taken=taken,
            unseen=optimizer.key == ("value", NONE),
            resumed=_resumed(call, key, optimizer),
        )
    )


def _resumed(call: Call, key: str | None, optimizer: Ref) -> bool:
    """Whether a file around those in progress loads an optimizer's state, from an entry of this name."""
    modules = dict.fromkeys(frame.module for frame in reversed(call.path.frames))
    project = call.engine.relevance.project
    return any(resumed(optimizer.text, key, each, project) for each in modules)


def _either(fact: Value | None) -> list[Value | None]:
    """A fact, or both that it may be where paths were joined."""
    if isinstance(fact, Choice):
        return [*_either(fact.yes), *_either(fact.no)]
    return [fact]


def _inside(
    value: Value, key: str | None, path: Path, seen: frozenset[int]
) -> Iterator[tuple[Thing, str | None]]:
    """The things that a value is made of (items, entries, attributes of plain objects), by their key."""
    if isinstance(value, Pack):
        for item in value.items:
            yield from _inside(item, None, path, seen)
    elif isinstance(value, Choice):
        yield from _inside(value.yes, key, path, seen)
        yield from _inside(value.no, key, path, seen)
    elif isinstance(value, Thing):
        yield value, key
        if value.uid in seen or len(seen) > MAX_NESTING:
            return
        if value.kind in ("", "dict", "list", "instance"):
            entries = list(path.heap.of(value.uid))
            named = {held for name, held in entries if name[0] != "@"}
            for name, held in entries:
                entry = name[2:-2] if name.startswith(("['", '["')) else None
                if name == "@items" and isinstance(held, Pack):
                    held = Pack(tuple(each for each in held.items if each not in named))
                if name[0] != "@" or name in ("@items", "@each"):
                    yield from _inside(held, entry, path, seen | {value.uid})


@method("dict", "update")
def update(call: Call) -> Value | None:
    """`checkpoint.update(other, key=value)`."""
    other = call.argument(0)
    if (other is not None and call.path.known(other, "@items") is None) or "**" in call.keywords:
        return None
    if isinstance(other, Thing):
        for name, value in list(call.path.heap.of(other.uid)):
            if name.startswith("["):
                call.path.heap[(call.thing.uid, name)] = value
    for name, value in call.keywords.items():
        call.path.heap[(call.thing.uid, f"[{name!r}]")] = value
    sources = [*call.arguments, *call.keywords.values()]
    call.engine.derive(call.thing, sources, call.path)
    return NONE


@function("dataclasses.asdict")
def as_dict(call: Call) -> Value | None:
    """`asdict(snapshot)`."""
    source = call.argument(0, "obj")
    if not isinstance(source, Thing) or source.kind != "instance":
        return None
    made = call.made("dict")
    held = {name: v for name, v in call.path.heap.of(source.uid) if name[0] != "@"}
    for name, value in held.items():
        call.path.heap[(made.uid, f"[{name!r}]")] = value
    return call.path.learn(made, items=Pack(tuple(held.values())), scaled=Pack(()))
