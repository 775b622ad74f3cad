"""Hooks for calls of libraries that are over: each is told of those alone that it can say something of.

Some forty modules want to know what came of a call, and most of them of a few names only. What a hook
waits for is stated where it is registered, and looked up once for each name that is called.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.source.engine.heap import Place
from mpaudit.source.engine.values import External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

Result = Callable[["Call", Value, Value], None]
Named = Collection[str] | Callable[[str], bool]
"""Names, or what says whether a name is one of them."""


class _Listener(Struct, frozen=True):
    hook: Result
    functions: Named | None
    methods: Named | None
    kinds: Collection[str]
    given: Place | None

    def awaits(self, kind: str | None, name: str) -> bool:
        """Whether the hook is told of a function (`kind` None), or of a method or a thing of a kind."""
        if kind is None:
            return _among(name, self.functions)
        return _among(name, self.methods) or kind in self.kinds


def _among(name: str, named: Named | None) -> bool:
    if named is None:
        return True
    return named(name) if callable(named) else name in named


Told = tuple[tuple[Place | None, tuple[Result, ...]], ...]
"""Hooks in order, in runs that wait for the same place."""

_listeners: list[_Listener] = []
_told: dict[tuple[str | None, str], Told] = {}
_alike: dict[Told, Told] = {}
"""What is told the same is kept once."""


def on_result(
    *,
    functions: Named | None = None,
    methods: Named | None = None,
    kinds: Collection[str] = (),
    given: Place | None = None,
) -> Callable[[Result], Result]:
    """Register a hook for calls of libraries: the call, what was called, what came of it.

    It is told of library functions by `functions`, their full names; of all else by `methods`, the
    name that is called, or by the `kinds` of things that are. None stands for every name. Where a
    place is `given`, nothing is told on paths on which it is empty.
    """

    def register(hook: Result) -> Result:
        _listeners.append(_Listener(hook, functions, methods, kinds, given))
        _told.clear()
        return hook

    return register


def finished(call: Call, function: Value, result: Value) -> Value:
    """Tell the summaries what came of a call of a library. Returns the result."""
    if isinstance(function, External):
        key: tuple[str | None, str] = (None, function.name)
    else:
        key = (function.kind if isinstance(function, Thing) else "", call.name)
    told = _told.get(key)
    if told is None:
        told = _told[key] = _awaiting(*key)
    for given, hooks in told:
        if given is None or given in call.path.heap:
            for hook in hooks:
                hook(call, function, result)
    return result


def _awaiting(kind: str | None, name: str) -> Told:
    runs: list[tuple[Place | None, tuple[Result, ...]]] = []
    for each in _listeners:
        if each.awaits(kind, name):
            if runs and runs[-1][0] == each.given:
                runs[-1] = each.given, (*runs[-1][1], each.hook)
            else:
                runs.append((each.given, (each.hook,)))
    told = tuple(runs)
    return _alike.setdefault(told, told)
