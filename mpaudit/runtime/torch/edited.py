"""Whether gradients are still what backward passes and torch left: a script may make and change them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from mpaudit.runtime.torch.known import Known

_State = tuple[int, ...]


class _Gradients(Struct):
    """What is known of an optimizer's gradients."""

    left: _State | None = None
    """As they were when torch was last at them."""
    reached: bool = False
    """Whether a backward pass was at them since the optimizer stepped last."""
    built: bool = False
    """Whether the optimizer was seen to be built, or has stepped."""


class Edits:
    """Follows the gradients of some parameters of each optimizer, by identity and version.

    Nothing is read of them: what is written through `.data` is not seen.
    """

    def __init__(self) -> None:
        self._kept = Known()  # optimizer -> its _Gradients
        self._before: list[tuple[Any, _Gradients, _State]] = []

    def _of(self, optimizer: Any) -> _Gradients:
        found: _Gradients | None = self._kept.get(optimizer)
        if found is None:
            found = _Gradients()
            self._kept.set(optimizer, found)
        return found

    def built(self, optimizer: Any) -> None:
        """There is an optimizer."""
        self._of(optimizer).built = True

    def optimizers(self) -> list[Any]:
        """Those that there are."""
        return [optimizer for optimizer, kept in self._kept.items() if kept.built]

    def backward_begins(self) -> None:
        """An outermost backward pass is about to begin."""
        known = self._kept.items()
        self._before = [(each, kept, _state(each)) for each, kept in known if kept.built]

    def backward_ended(self) -> None:
        """It has left its gradients."""
        before, self._before = self._before, []
        for optimizer, kept, state in before:
            now = _state(optimizer)
            if now != state:
                kept.left, kept.reached = now, True

    def touched(self, optimizers: Iterable[Any] | None = None) -> None:
        """Torch itself has changed gradients (None: of whichever optimizer): clipped, unscaled, dropped."""
        for optimizer in self.optimizers() if optimizers is None else optimizers:
            kept = self._kept.get(optimizer)
            if kept is not None and kept.left is not None:
                kept.left = _state(optimizer)

    def steps(self, optimizer: Any) -> bool:
        """A scaler is about to have an optimizer use its gradients; returns whether they are edited."""
        kept = self._of(optimizer)
        kept.reached = False
        return kept.left is not None and kept.left != _state(optimizer)

    def stepped(self, optimizer: Any, *, built: bool = False) -> None:
        """An optimizer has used its gradients, or a scaler has kept it from that; `built` if it is known
        from now on, as a copy is that was not built."""
        kept = self._of(optimizer)
        kept.reached = False
        kept.built |= built

    def apart(self, optimizer: Any) -> bool:
        """Whether no backward pass has come to an optimizer since it stepped last; of a copy, which was
        not built, that is not known before it has stepped."""
        kept = self._kept.get(optimizer)
        return kept is not None and kept.built and not kept.reached

    def edited(self, optimizer: Any) -> bool:
        """Whether its gradients are others than torch left."""
        kept = self._kept.get(optimizer)
        return kept is not None and kept.left is not None and kept.left != _state(optimizer)


def _state(optimizer: Any) -> _State:
    """The gradients of the first parameter, of the last in the first group, and of the last."""
    first: Any = None
    last: Any = None
    for group in optimizer.param_groups:
        if params := group["params"]:
            first = params if first is None else first
            last = params
    if first is None:
        return ()
    found: _State = ()
    try:
        for parameter in (first[0], last[-1]) if first is last else (first[0], first[-1], last[-1]):
            grad = parameter.grad
            found += (0, 0) if grad is None else (id(grad), grad._version)
    except AttributeError:  # they are no tensors
        return ()
    return found
