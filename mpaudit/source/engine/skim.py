"""Blocks that are passed over where the budget is short: they handle nothing that a protocol watches.

What such a block assigns is not known afterwards, beyond what it was computed from; what it hands to code
out of sight is lost. Where it may leave the function, a path does.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.event import ScalerLoaded, ScalerStateTaken
from mpaudit.source.api.torch_names import LIKE_SCALER, SAVES, makes_optimizer
from mpaudit.source.engine.facts import computed
from mpaudit.source.engine.handover import handed_by
from mpaudit.source.engine.values import External, Thing, Value
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path

PASSED = (ast.If, ast.For, ast.While, ast.Try)
"""The statements that are worth passing over: those whose branches and passes multiply paths."""
TAKING = frozenset(["state_dict", "dump", *SAVES])
"""What is called where a checkpoint is made."""
LOADING = frozenset(["load_state_dict"])
"""What is called where training is resumed."""
LEAVING = {ast.Return: "return", ast.Break: "break", ast.Continue: "continue"}
HINDERING = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Import,
    ast.ImportFrom,
    ast.With,
    ast.AsyncWith,
    ast.Global,
    ast.Nonlocal,
    ast.Delete,
    ast.NamedExpr,
    ast.Yield,
    ast.YieldFrom,
    ast.Await,
)
"""What does more than to change what variables hold."""


@for_a_while(8192)
def passable(node: ast.stmt, least: int) -> bool:
    """Whether the form of a statement allows to pass over it: it loops, or holds so many others."""
    if not isinstance(node, PASSED):
        return False
    parts = list(walk(node))
    loops = any(isinstance(part, (ast.For, ast.While)) for part in parts)
    if not loops and sum(isinstance(part, ast.stmt) for part in parts) < least:
        return False
    # A guard that skips the rest of a pass is asked again elsewhere: its answer has to be known.
    return _ways(node) <= {"return"} and not any(isinstance(part, HINDERING) for part in parts)


def pass_over(engine: Calls, node: ast.stmt, path: Path) -> list[Path]:
    """The paths on which control leaves a block, and the one that goes on; it may have run or not."""
    _forget(engine, node, path)
    paths = [path]
    for way in _ways(node):
        left = path.copy()
        left.exit = way
        if way == "return":
            left.result = engine.made(node, left)
        paths.append(left)
    return paths


@for_a_while(8192)
def _ways(node: ast.stmt) -> frozenset[str]:
    """How control may leave a statement; a loop of its own is left by `break` only inside of it."""
    found = set()
    waiting: list[tuple[ast.AST, bool]] = [(node, False)]
    while waiting:
        part, looping = waiting.pop()
        looping = looping or isinstance(part, (ast.For, ast.While))
        way = LEAVING.get(type(part))
        if way is not None and (way == "return" or not looping):
            found.add(way)
        waiting += [(each, looping) for each in ast.iter_child_nodes(part)]
    return frozenset(found)


def _forget(engine: Calls, node: ast.stmt, path: Path) -> None:
    """Forget what a block may change; what it saves of a scaler, or loads into it, is not seen."""
    frame = path.frame
    if _of_scaler(node, TAKING):
        engine.emit(ScalerStateTaken(at=frame.module.span(node), scaler=None), path)
    if _of_scaler(node, LOADING):
        engine.emit(ScalerLoaded(at=frame.module.span(node), scaler=None), path)
    bound = {name: value for name in _loaded(node) if (value := _held(name, path)) is not None}
    lost = handed_by(node, frame, bound, path, engine.identities)
    engine.lose(lost, path, frame.module.span(node))
    sources = tuple(bound.values())
    at = (frame.context, frame.iteration)
    whole = Thing(engine.identities.number("passed over", node, None, *at), since=frame.iteration)
    read = computed(whole, _data(sources), path)  # what all that is assigned there may come from
    for place in _stored(node):
        name, owner = place
        where = frame.scopes[0] if owner is None else getattr(bound.get(owner), "uid", None)
        if where is None:
            continue
        before = path.heap.get((where, name))
        number = engine.identities.number("passed over", node, place, *at)
        if _optimizer(node, name, path):
            made = Thing(number, "Optimizer", since=frame.iteration, text=name)
            inherited = sources if before is None else (before, *sources)
            path.heap[(where, name)] = engine.derive(made, inherited, path)
            continue
        made = Thing(number, since=frame.iteration, text=name)
        inherited = (read,) if before is None else (*_data((before,)), read)
        path.heap[(where, name)] = computed(made, inherited, path)


@for_a_while(8192)
def _of_scaler(node: ast.stmt, calls: frozenset[str]) -> bool:
    """Whether a block makes one of these calls, and speaks of what may be a scaler."""
    called = (part.func for part in walk(node) if isinstance(part, ast.Call))
    names = {getattr(each, "attr", getattr(each, "id", "")) for each in called}
    return not names.isdisjoint(calls) and LIKE_SCALER.search(ast.unparse(node)) is not None


def _optimizer(node: ast.stmt, name: str, path: Path) -> bool:
    """Whether a block may make the optimizer that a variable or an attribute of this name holds then."""
    for called in _called(node).get(name, ()):
        first, dot, rest = called.partition(".")
        held = _held(first, path)
        if isinstance(held, External) and makes_optimizer(held.name + dot + rest):
            return True
    return False


@for_a_while(8192)
def _called(node: ast.stmt) -> dict[str, list[str]]:
    """What is called in a block for the variables and attributes that are assigned, by their names."""
    found: dict[str, list[str]] = {}
    for part in walk(node):
        if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call):
            for target in part.targets:
                name = getattr(target, "id", None) or getattr(target, "attr", None)
                if name is not None:
                    found.setdefault(name, []).append(ast.unparse(part.value.func))
    return found


def _data(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """The values that a tensor can be computed from."""
    return tuple(v for v in values if not isinstance(v, Thing) or v.kind in ("", "list", "dict"))


def _held(name: str, path: Path) -> Value | None:
    for scope in path.frame.scopes:
        found = path.heap.get((scope, name))
        if found is not None:
            return found
    return None


@for_a_while(8192)
def _loaded(node: ast.stmt) -> tuple[str, ...]:
    names = (n for n in walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return tuple(dict.fromkeys(n.id for n in names))


@for_a_while(8192)
def _stored(node: ast.stmt) -> tuple[tuple[str, str | None], ...]:
    """(name, None) of the variables, (attribute, variable) of the attributes that are assigned."""
    return tuple(dict.fromkeys(_places(node)))


def _places(node: ast.stmt) -> Iterator[tuple[str, str | None]]:
    for part in walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, None
        elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
            if isinstance(part.value, ast.Name):
                yield part.attr, part.value.id
