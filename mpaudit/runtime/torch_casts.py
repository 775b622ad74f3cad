"""The emulated policy's casts: which layer they happened in, and what they cost the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mpaudit.runtime.record import Cast, CastOf, Statistics
from mpaudit.runtime.torch_regions import dtype_name
from mpaudit.runtime.torch_watch import Watch

_EVERY = 10  # steps between two looks at flushed gradients, after as many in a row


class Casts:
    """Writes casts down for the layer that is being called (`current`: its path and step)."""

    def __init__(self, watch: Watch, current: Callable[[], tuple[str, int] | None]) -> None:
        self._watch = watch
        self._current = current

    def cast(self, what: CastOf, source: Any, target: Any, size: int) -> None:
        """A tensor was cast; `size` is in bytes, as written."""
        with self._watch.guard("cast"):
            if (layer := self._current()) is not None:
                names = dtype_name(source), dtype_name(target)
                self._watch.tracer.cast(Cast(layer[0], what, *names, 1, size))

    def rounded(self, tensor: torch.Tensor, what: CastOf, dtype: torch.dtype) -> None:
        """`tensor` is an operand whose gradient will be rounded to `dtype`: count what is lost."""
        layer = self._current()
        if layer is None or not tensor.requires_grad:
            return
        path, step = layer
        if step >= _EVERY and step % _EVERY:
            return
        limits = torch.finfo(dtype)
        # halfway to the smallest subnormal, what rounds to the even neighbour: zero
        lost = limits.smallest_normal * limits.eps / 2

        def count(gradient: torch.Tensor) -> None:
            with self._watch.guard("flushed gradients"):
                magnitude = gradient.detach().abs()
                flushed = int(((magnitude > 0) & (magnitude <= lost)).count_nonzero())
                of = gradient.numel()
                weight = what == "parameter"
                self._watch.tracer.measured(
                    Statistics(
                        path,
                        "backward",
                        dtype_name(dtype),
                        flushed=None if weight else flushed,
                        flushed_of=None if weight else of,
                        flushed_weight=flushed if weight else None,
                        flushed_weight_of=of if weight else None,
                    )
                )

        tensor.register_hook(count)
