"""A call to something that a library summary knows: what it is given, and what it can do."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.event import Event, Ref
from mpaudit.finding import Span
from mpaudit.source.engine.path import Path
from mpaudit.source.engine.site import Site, sites
from mpaudit.source.engine.values import Bound, Choice, Function, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls

_COUNTED = frozenset(["==", "not", "and", "or", "whole", "Lt", "Add", "Sub", "int"])
"""What may be made of a count of passes and still rest on it: `last or (i + 1) % steps == 0`."""


class Call(Struct):
    """A call to something a library summary knows.

    `name` is the function's full dotted name, or the method's own name; `receiver` what a method is
    called on; `receiver_node` and `node` are the syntax.
    """

    engine: Calls
    path: Path
    node: ast.Call
    name: str
    receiver: Value | None
    arguments: tuple[Value, ...]
    keywords: Mapping[str, Value]

    def argument(self, position: int, keyword: str | None = None) -> Value | None:
        """An argument by position or keyword, None if it was not given; a Choice is resolved."""
        if position < len(self.arguments):
            value: Value | None = self.arguments[position]
        else:
            value = self.keywords.get(keyword) if keyword else None
        return None if value is None else self.engine.logic.settled(value, self.path)

    def argument_node(self, position: int, keyword: str | None = None) -> ast.expr | None:
        """The syntax of an argument."""
        if position < len(self.node.args):
            return self.node.args[position]
        return next((k.value for k in self.node.keywords if keyword and k.arg == keyword), None)

    def picked(self, position: int, keyword: str | None = None) -> Value | None:
        """An argument; raises Fork where it depends on an open condition."""
        value = self.argument(position, keyword)
        return None if value is None else self.engine.logic.pick(value, self.path)

    @property
    def thing(self) -> Thing:
        """The receiver of a method that only things have."""
        assert isinstance(self.receiver, Thing)
        return self.receiver

    @property
    def span(self) -> Span:
        """Where the call stands."""
        return self.path.frame.module.span(self.node)

    @property
    def sites(self) -> list[Site]:
        """The call, and the calls of the functions around it, innermost first."""
        return sites(self.node, self.path, self.engine.identities)

    @property
    def places(self) -> tuple[Span, ...]:
        """Where the call stands, and where the functions around it were called from, innermost first."""
        return tuple(frame.module.span(node) for frame, node in self.sites)

    @property
    def occasional(self) -> bool:
        """Whether the call stands under a condition that changes from pass to pass."""
        return any(frame.occasional for frame in self.path.frames)

    @property
    def counted(self) -> bool:
        """Whether a condition that this path has met in this pass counts the passes."""
        return self.occasional and any(
            asked.since >= self.path.frame.iteration and self._counts(asked)
            for asked in self.path.facts
        )

    def _counts(self, value: object) -> bool:
        if isinstance(value, Choice):
            return any(self._counts(part) for part in (value.condition, value.yes, value.no))
        if not isinstance(value, Thing):
            return False
        operation, *operands = self.engine.identities.description(value.uid)
        return operation == "Mod" or (
            operation in _COUNTED and any(self._counts(operand) for operand in operands)
        )

    def callback(self, position: int, keyword: str | None = None, times: int = 1) -> None:
        """Follow a function that is handed to a library, which calls it so many times or more.

        What the library hands to it is not known.
        """
        node, function = self.argument_node(position, keyword), self.picked(position, keyword)
        if node is None or not isinstance(function, (Function, Bound)):
            return
        receiver = () if isinstance(function, Function) else (function.receiver,)
        called = function if isinstance(function, Function) else function.function
        if called is None:
            return
        for site in (node, *(self.engine.site(node, index) for index in range(1, times))):
            if site not in self.path.frame.done:
                self.engine.enter(site, called, receiver, {}, self.path)

    def made(self, kind: str = "") -> Thing:
        """The call's own new result."""
        return self.engine.made(self.node, self.path, kind=kind)

    def derived(self, *sources: Value) -> Thing:
        """A new result that was computed from `sources`."""
        return self.engine.derive(self.made(), sources, self.path)

    def ref(self, value: Value | None, node: ast.expr | None = None) -> Ref:
        """An object of an event; `node` is how the user spells it (the receiver if None)."""
        if node is None and isinstance(self.node.func, ast.Attribute):
            node = self.node.func.value
        text = " ".join(self.path.frame.module.source(node).split()) if node is not None else ""
        key = value.uid if isinstance(value, Thing) else ("value", value)
        return Ref(key, text)

    def emit(self, event: Event) -> None:
        """Feed an event to the protocols of this path."""
        self.engine.emit(event, self.path)
