"""`parameter.register_hook(lambda gradient: gradient.clamp(-1, 1))`: what is done to every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.event import GradientsHooked
from mpaudit.finding import Span
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.path import UNSET
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    TRUE,
    Bound,
    Choice,
    Const,
    External,
    Function,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.library.torch.gradient import optimizers_of

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

CLAMPS = frozenset(["clamp", "clamp_", "clip", "clip_"])
NUMBERS = frozenset(["nan_to_num", "nan_to_num_"])
EDITS = CLAMPS | NUMBERS


@method("", "register_hook")
def register(call: Call) -> Value | None:
    """`parameter.register_hook(hook)`; what the hook returns takes the gradient's place."""
    parameter, hook = call.receiver, call.picked(0, "hook")
    if not isinstance(parameter, Thing) or parameter.kind or hook is None:
        return None
    if call.path.known(parameter, "@owners") is None:
        return None
    if call.path.known(parameter, "@gradient") is not None:
        return None
    made = call.made("hook")
    gradient = Thing(call.engine.identities.number("hooked", made), since=made.since)
    call.path.learn(gradient, hooked=TRUE)
    given = _returned(call, hook, gradient)
    results = (gradient, *(parts(given, call.path) if given is not None else ()))
    edit = next((how for each in results for how in _ways(call.path.known(each, "@edit"))), None)
    edit = edit or _by_library(hook)
    if edit is not None:
        call.emit(
            GradientsHooked(
                at=call.span,
                occasional=call.occasional,
                how=edit,
                hook=call.span,
                optimizers=optimizers_of(parameter, call.path),
                places=call.places,
            )
        )
        call.path.learn(made, hook=Const(call.span))
    return made


def _returned(call: Call, hook: Value, gradient: Thing) -> Value | None:
    """What a hook makes of a gradient; None for code that cannot be looked into."""
    node = call.argument_node(0, "hook")
    arguments: tuple[Value, ...] = (gradient,)
    keywords: dict[str, Value] = {}
    if isinstance(hook, Partial):
        arguments, keywords = (*hook.arguments, gradient), dict(hook.keywords)
        hook = hook.function
    if isinstance(hook, Bound) and hook.function is not None:
        arguments, hook = (hook.receiver, *arguments), hook.function
    if node is None or not isinstance(hook, Function):
        return None
    site, done = call.engine.site(node, 1), call.path.frame.done
    if site in done:
        return done[site]
    return call.engine.enter(site, hook, arguments, keywords, call.path, short=True)


def _by_library(hook: Value) -> str | None:
    """`torch.nan_to_num`, `partial(torch.clamp, min=-1, max=1)`."""
    function = hook.function if isinstance(hook, Partial) else hook
    if not isinstance(function, External) or not function.name.startswith("torch."):
        return None
    name = function.name.rpartition(".")[2]
    return name if name in EDITS else None


def _ways(fact: Value | None) -> Iterator[str]:
    """How a gradient is edited, on whatever way through the hook."""
    if isinstance(fact, Choice):
        yield from _ways(fact.yes)
        yield from _ways(fact.no)
    elif isinstance(fact, Const) and fact != UNSET:
        yield str(fact.value)


@on_result(functions=[f"torch.{name}" for name in EDITS], methods=EDITS)
def edited(call: Call, function: Value, made: Value) -> None:
    """`gradient.clamp(-1, 1)`, `torch.nan_to_num(gradient)` in a hook; not with a limit times the scale."""
    name = call.name.rpartition(".")[2]
    inputs = (*call.arguments, *call.keywords.values())
    gradient: Value | None = call.receiver
    if isinstance(function, External):
        gradient = call.argument(0, "input")
    if gradient is None or call.path.known(gradient, "@hooked") is None:
        return
    if any(call.path.known(each, "@scale_of") is not None for each in inputs):
        return
    for thing in (made, gradient) if name.endswith("_") else (made,):
        if isinstance(thing, Thing):
            call.path.learn(thing, edit=Const(name))


@method("hook", "remove")
def remove(call: Call) -> Value:
    """`handle.remove()`."""
    place = call.path.known(call.thing, "@hook")
    if isinstance(place, Const) and isinstance(place.value, Span):
        call.emit(
            GradientsHooked(at=call.span, occasional=call.occasional, how="", hook=place.value)
        )
    return call.made()
