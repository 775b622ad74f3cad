"""What gives back values and their indices: `scores.max(dim=-1)`, `torch.topk(scores, 4)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.dtypes import Dtype, fact, learned
from mpaudit.source.engine.registry import attributes
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import TRUE, Const, External, Pack, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_ALWAYS = ("topk", "sort", "kthvalue", "mode", "cummax", "cummin")
_ALONG = ("max", "min", "median", "nanmedian")
"""These give a pair along a dimension only."""
_NAMES = (*_ALWAYS, *_ALONG)
_FIELDS = ("values", "indices")


@on_result(functions=tuple(f"torch.{name}" for name in _NAMES), methods=_NAMES)
def paired(call: Call, callee: Value, made: Value) -> None:
    """The values have the dtype of what they are picked from, the indices are whole numbers."""
    operation = call.name.rpartition(".")[2]
    own = isinstance(callee, External)
    tensor = call.argument(0, "input") if own else call.receiver
    if not isinstance(made, Thing) or not isinstance(tensor, Thing) or tensor.kind:
        return
    if operation in _ALONG and not _along(call, 1 if own else 0):
        return
    path = call.path
    facts = (fact(tensor, path), Const(Dtype("int64", call.span)))
    items: list[Value] = []
    for name, known in zip(_FIELDS, facts, strict=True):
        item = call.engine.derive(call.engine.term(".", made, Const(name)), (made,), path)
        items.append(learned(item, known, path))
    learned(made, None, path)
    path.learn(made, items=Pack(tuple(items)), pair=TRUE)


def _along(call: Call, place: int) -> bool:
    """Whether a dimension is stated; the other argument of `torch.max(a, b)` is a tensor."""
    dimension = call.argument(place, "dim")
    return isinstance(dimension, Const) and isinstance(dimension.value, int)


def _field(position: int) -> None:
    @attributes(_FIELDS[position])
    def field(_: Calls, pair: Thing, path: Path) -> Value | None:
        items = path.known(pair, "@items")
        if path.known(pair, "@pair") is None or not isinstance(items, Pack):
            return None
        item = items.items[position]
        return item if isinstance(item, Thing) else None


for _position in range(len(_FIELDS)):
    _field(_position)
