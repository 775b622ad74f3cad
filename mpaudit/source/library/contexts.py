"""Contexts that are entered without a `with` of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.values import FALSE, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


@function("contextlib.ExitStack", "contextlib.AsyncExitStack")
def exit_stack(call: Call) -> Value:
    """`ExitStack()`: what is entered through it is left with the `with` around it."""
    return call.made("ExitStack")


@method("ExitStack", "enter_context")
def enter_context(call: Call) -> Value:
    """`stack.enter_context(autocast("cuda"))`."""
    context = call.picked(0, "cm")
    if isinstance(context, Thing) and context.kind == "autocast":
        call.engine.enter_region(context, call.span, call.path)
    return call.made()


# backward


@method("autocast", "__enter__")
def enter(call: Call) -> Value:
    """`region.__enter__()`: it stays entered until its `__exit__()`."""
    call.engine.enter_region(call.thing, call.span, call.path)
    return call.thing


@method("autocast", "__exit__")
def leave(call: Call) -> Value:
    """`region.__exit__(None, None, None)`."""
    regions = call.path.regions
    if call.thing in regions:
        last = len(regions) - 1 - regions[::-1].index(call.thing)
        call.path.regions = (*regions[:last], *regions[last + 1 :])
    return FALSE
