"""Following the hooks that Lightning calls: on the model, and on the callbacks of its Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Event
from mpaudit.source.engine.values import NONE, Pack, Thing, Value
from mpaudit.source.library.trainers.lightning_names import derives, hook
from mpaudit.source.library.trainers.lightning_region import within

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


def follow(call: Call, part: int, owner: Thing, name: str, *arguments: Value) -> Value | None:
    """Follow the method `name` of a project's object, once; what it returns, None if there is none.

    `part` tells the methods apart that one call of the library leads to.
    """
    method = hook(owner, name, call.path)
    if method is None:
        return None
    site, done = call.engine.site(call.node, part), call.path.frame.done
    if site not in done:
        done[site] = call.engine.enter(site, method, (owner, *arguments), {}, call.path)
    return done[site]


def step(call: Call, part: int, model: Thing, name: str) -> None:
    """Follow a step of the model, in the region that Lightning runs it in."""
    method = hook(model, name, call.path)
    site, done = call.engine.site(call.node, part), call.path.frame.done
    if method is not None and site not in done:
        method = within(call, model, method)
        done[site] = call.engine.enter(site, method, (model,), {}, call.path)


def hooks(call: Call, part: int, model: Thing, name: str, *arguments: Value) -> None:
    """Follow a hook of the callbacks, then that of the model, as Lightning does."""
    known = call.path.known(model, "@callbacks")
    trainer = call.path.known(model, "@trainer") or NONE
    for index, each in enumerate(known.items if isinstance(known, Pack) else (), start=1):
        if isinstance(each, Thing) and derives(call.path.known(each, "@class"), "Callback"):
            follow(call, part + index, each, name, trainer, model, *arguments)
    follow(call, part, model, name, *arguments)


def tell(call: Call, part: int, event: Event) -> None:
    """Emit an event once, though the call is gone through again after each hook that is followed."""
    site, done = call.engine.site(call.node, part), call.path.frame.done
    if site not in done:
        done[site] = NONE
        call.emit(event)
