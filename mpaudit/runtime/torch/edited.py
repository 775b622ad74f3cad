"""Whether gradients are still what backward passes and torch left: a script may make and change them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpaudit.runtime.torch.watch import Known

_State = tuple[tuple[int, int], ...]


class Edits:
    """Follows the gradients of some parameters of each optimizer, by identity and version.

    Nothing is read of them: what is written through `.data` is not seen.
    """

    def __init__(self, optimizers: Known) -> None:
        self._optimizers = optimizers
        self._left = Known()  # optimizer -> its gradients when torch was last at them
        self._reached = Known()  # optimizer -> whether backward was, since it stepped last
        self._before: list[tuple[Any, _State]] = []

    def backward_begins(self) -> None:
        """An outermost backward pass is about to begin."""
        self._before = [(each, _state(each)) for each in self._optimizers.things()]

    def backward_ended(self) -> None:
        """It has left its gradients."""
        before, self._before = self._before, []
        for optimizer, state in before:
            now = _state(optimizer)
            if now != state:
                self._left.set(optimizer, now)
                self._reached.set(optimizer, True)

    def touched(self, optimizers: Iterable[Any] | None = None) -> None:
        """Torch itself has changed gradients (None: of whichever optimizer): clipped, unscaled, dropped."""
        for optimizer in self._optimizers.things() if optimizers is None else optimizers:
            if self._left.get(optimizer) is not None:
                self._left.set(optimizer, _state(optimizer))

    def stepped(self, optimizer: Any) -> None:
        """An optimizer has used its gradients, or a scaler has kept it from that."""
        self._reached.set(optimizer, False)

    def reached(self, optimizer: Any) -> bool:
        """Whether a backward pass has come to an optimizer since it stepped last."""
        return bool(self._reached.get(optimizer))

    def edited(self, optimizer: Any) -> bool:
        """Whether its gradients are others than torch left."""
        left = self._left.get(optimizer)
        return left is not None and left != _state(optimizer)


def _state(optimizer: Any) -> _State:
    """The gradients of the first parameter, of the last, and of the last in the first group."""
    groups = [params for group in optimizer.param_groups if (params := group["params"])]
    if not groups:
        return ()
    first, last = groups[0], groups[-1]
    return _of(first[0]), _of(first[-1]), _of(last[-1])


def _of(parameter: Any) -> tuple[int, int]:
    grad = getattr(parameter, "grad", None)
    return (0, 0) if grad is None else (id(grad), grad._version)
