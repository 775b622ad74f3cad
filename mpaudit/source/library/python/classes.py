"""What class an object is of, where the program shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import of_making
from mpaudit.source.engine.registry import answers
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Choice,
    Class,
    Const,
    External,
    Pack,
    Thing,
    Value,
)

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

ROOTS = frozenset(["builtins.object", "abc.ABC", "torch.nn.Module", "torch.nn.modules.Module"])
"""Bases that derive from no class of a library that anyone asks for."""
ADAMS = frozenset(["torch.optim.Adam", "torch.optim.AdamW"])
"""Of these, one derives from the other in some versions."""


@answers("builtins.isinstance")
def is_of_class(call: Call) -> Value | None:
    """`isinstance(x, C)` of an object that was made in view; None where that does not settle it."""
    value, asked = call.argument(0), call.argument(1)
    if value is None or asked is None:
        return None
    return _answered(call, value, asked.items if isinstance(asked, Pack) else (asked,))


def _answered(call: Call, value: Value, asked: Sequence[Value]) -> Value | None:
    """The answer for either side of a Choice, for an object that was made.

    Of a side that is not settled it is the question itself: what was made instead is still what it is.
    """
    if isinstance(value, Choice):
        yes, no = _answered(call, value.yes, asked), _answered(call, value.no, asked)
        if yes is None and no is None:
            return None
        yes, no = (
            call.engine.term(call.name, side, call.arguments[1]) if answer is None else answer
            for side, answer in ((value.yes, yes), (value.no, no))
        )
        return yes if yes == no else Choice(value.condition, yes, no)
    if value == NONE:
        return FALSE if all(_never_none(each) for each in asked) else None
    if not isinstance(value, Thing):
        return None
    if call.engine.identities.description(value.uid)[0] != "made":
        return None
    each = [_is(value, one, call.path) for one in asked]
    if True in each:
        return TRUE
    return None if None in each else FALSE


def _is(value: Thing, asked: Value, path: Path) -> bool | None:
    if value.kind == "Loss":
        return _is_loss(of_making(path.known(value, "@layer")), asked)
    owner, maker = path.known(value, "@class"), path.known(value, "@maker")
    if isinstance(owner, Class):
        line = list(_line(owner))
        if asked in line:
            return True
        plain = all(isinstance(each, Class) or _root(each) for each in line)
        if isinstance(asked, Class):
            return False if plain else None
        return False if plain and isinstance(asked, External) and _layer(asked.name) else None
    if isinstance(maker, Const) and isinstance(asked, External) and value.kind == "Optimizer":
        if maker.value == asked.name:
            return True
        both = {str(maker.value), asked.name}
        optimizers = all(name.rpartition(".")[0] == "torch.optim" for name in both)
        return (
            False if optimizers and both != ADAMS and "torch.optim.Optimizer" not in both else None
        )
    return None


def _never_none(asked: Value) -> bool:
    """Whether None is no object of a class: of one of the project, or of a library's but the root of all."""
    if isinstance(asked, External):
        return asked.name.startswith("torch.")
    return isinstance(asked, Class)


def _is_loss(made: Value | None, asked: Value) -> bool | None:
    """Whether a loss of `torch.nn` is what is asked for: none of them derives from another."""
    if not isinstance(made, Const) or not isinstance(asked, External):
        return None
    package, _, name = asked.name.rpartition(".")
    public = name.endswith("Loss") and not name.startswith("_")
    return name == made.value if public and package.startswith("torch.nn") else None


def _line(owner: Class, depth: int = 0) -> Iterator[Value]:
    """A class and what it derives from, nearest first."""
    yield owner
    for base in owner.bases:
        if isinstance(base, Class) and depth < 8:
            yield from _line(base, depth + 1)
        else:
            yield base


def _root(base: Value) -> bool:
    return isinstance(base, External) and base.name in ROOTS


def _layer(name: str) -> bool:
    """Whether a name is that of a layer in `torch.nn`, and of no wrapper of other modules."""
    package, _, last = name.rpartition(".")
    return package == "torch.nn" and last not in ("Module", "DataParallel")
