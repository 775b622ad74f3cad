"""Copies of weights that autocast made without gradients and uses again with them."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import Backward, CachingForward, CastCacheCleared, Event
from mpaudit.finding import Problem, Related
from mpaudit.protocols.protocol import Broken, Protocol, Verdict


class NoGradCacheProtocol(Protocol):
    """MP211.

    State: ("cast", model) -> its first forward pass in the region's entry in progress, if that was
    without gradients; ("used", place) -> that pass and the one with gradients, until a backward pass.
    """

    __slots__ = ()

    takes = (CachingForward, CastCacheCleared, Backward)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Advance by one event."""
        if isinstance(event, CachingForward):
            self._forward(event)
        elif isinstance(event, CastCacheCleared):
            self._forget()
        else:
            for used in self.state.values():
                if isinstance(used, tuple):
                    yield _poisoned(*used)
            self.state.clear()

    def _forward(self, event: CachingForward) -> None:
        cast = self.state.get(("cast", event.model))
        if isinstance(cast, CachingForward) and cast.entry == event.entry:
            if event.gradients:
                self.state[("used", event.at)] = (cast, event)
        elif event.gradients:
            self.state.pop(("cast", event.model), None)
        else:
            self.state[("cast", event.model)] = event

    def _forget(self) -> None:
        for key in [key for key, value in self.state.items() if isinstance(value, CachingForward)]:
            del self.state[key]


def _poisoned(cast: CachingForward, used: CachingForward) -> Broken:
    return Broken(
        Problem(
            "no-grad-poisons-cache",
            used.at,
            f"`{used.model.text}` runs on weights that autocast has cast without gradients",
            "before torch 2.10, the copies made under no_grad serve the whole region and have no history: "
            "the weights get no gradient and are not trained",
            (
                Related(cast.region.span, "the region is entered here, and keeps the copies"),
                Related(cast.at, "the weights are cast here, without gradients"),
            ),
        ),
        grounded=True,
    )
