"""Which gradients a value stands for: the fact "@tape", the thing that a tape or a function returned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpaudit.source.engine.path import UNSET, Path
from mpaudit.source.engine.values import UNKNOWN, Choice, Pack, Thing, Value

CONTAINERS = ("list", "dict")


def taped(sources: Sequence[Value], path: Path) -> Value | None:
    """The gradients that something is made of which is computed from `sources`; None: of none.

    A Choice where that depends on an open condition, UNKNOWN for gradients from several places.
    """
    return _one_of(taped_in(source, path) for source in sources)


def taped_in(value: Value | None, path: Path) -> Value | None:
    """The gradients that a value stands for, or the items that it holds."""
    if isinstance(value, Choice):
        yes, no = taped_in(value.yes, path), taped_in(value.no, path)
        return yes if yes == no else Choice(value.condition, yes or UNSET, no or UNSET)
    if isinstance(value, Pack):
        return _one_of(taped_in(item, path) for item in value.items)
    if not isinstance(value, Thing):
        return None
    fact = path.known(value, "@tape")
    items = path.known(value, "@items") if value.kind in CONTAINERS else None
    return taped_in(items, path) if fact is None and isinstance(items, Pack) else fact


def _one_of(found: Iterable[Value | None]) -> Value | None:
    each = [tape for tape in dict.fromkeys(found) if tape is not None]
    return UNKNOWN if len(each) > 1 else each[0] if each else None
