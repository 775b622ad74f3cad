"""`loss.backward()` where a library is in view that runs backward, unscales and steps itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpaudit.event import RawBackward, Ref
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Pack, Thing, Value
from mpaudit.source.library.trainers.lightning_names import derives

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

OWNERS = (0, "@owners in view")
"""Where the Fabrics and engines of a path are kept."""
_OPTIONS = frozenset(["retain_graph", "create_graph", "inputs"])


def in_view(call: Call, owner: Thing) -> None:
    """Note that a Fabric or an engine runs what it was given."""
    known = call.path.heap.get(OWNERS)
    others = known.items if isinstance(known, Pack) else ()
    if owner not in others:
        call.path.heap[OWNERS] = Pack((*others, owner))


@on_result(functions=(), methods=("backward",))
def raw_backward(call: Call, function: Value, _: Value) -> None:  # noqa: ARG001 - as all hooks
    """`loss.backward()`; with an argument by position it is somebody's `engine.backward(loss)`."""
    if call.arguments or not call.keywords.keys() <= _OPTIONS:
        return
    if not isinstance(call.receiver, Thing) or call.receiver.kind not in ("", "list"):
        return
    path = call.path
    known = path.heap.get(OWNERS)
    scopes = path.frame.scopes
    owners = tuple(
        Ref(each.uid, spelled(each, path, within))
        for held, within in (
            (known.items if isinstance(known, Pack) else (), scopes),
            (_modules(path), scopes[:-1]),
        )
        for each in held
        if isinstance(each, Thing)
    )
    if owners:
        call.emit(
            RawBackward(
                at=call.span,
                occasional=call.occasional,
                loss=call.ref(call.receiver),
                owners=owners,
            )
        )


def _modules(path: Path) -> dict[Value, None]:
    """The LightningModules whose methods are in progress."""
    found: dict[Value, None] = {}
    for frame in path.frames:
        function = frame.function
        if function is None or function.owner is None:
            continue
        if derives(function.owner, "LightningModule"):
            spec = function.node.args
            first = [*spec.posonlyargs, *spec.args][:1]
            receiver = path.heap.get((frame.scopes[0], first[0].arg)) if first else None
            if isinstance(receiver, Thing):
                found[receiver] = None
    return found


def spelled(thing: Thing, path: Path, scopes: Sequence[int]) -> str:
    """How code in these scopes can reach a thing: `fabric`, `self.fabric`; "" if it cannot."""
    for scope in scopes:
        names = [(name, value) for name, value in path.heap.of(scope) if name[0] != "@"]
        for name, value in names:
            if value == thing:
                return name
        for name, value in names:
            if isinstance(value, Thing) and value.kind in ("instance", "Module"):
                for attribute, held in path.heap.of(value.uid):
                    if held == thing and attribute.isidentifier():
                        return f"{name}.{attribute}"
    return ""
