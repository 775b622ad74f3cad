"""Numbers of activations, gradients and weights by power of two, in sampled steps."""

from __future__ import annotations

import torch
from msgspec.structs import replace

from mpaudit.runtime.histogram import SCALED, Histogram, What, exponent
from mpaudit.runtime.octaves import read
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch


class Histograms:
    """Has tensors counted, and holds the counts until it is known which loss scale is in them."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._waiting: dict[tuple[int, bool, Histogram], Histogram] = {}
        watch.tracer.draining.append(self._roll)
        watch.tracer.forgetting.append(lambda: self._waiting.clear())
        watch.patches.also(self._finish)

    def add(
        self, layer: str, what: What, step: int, tensor: torch.Tensor, *, unscaled: bool = False
    ) -> None:
        """Count a tensor of a sampled step. `unscaled`: the loss scale was taken out of it."""
        if not measurable(tensor):
            return
        name = Histogram(layer, what, dtype_name(tensor.dtype))
        elements, key = tensor.numel(), (step, unscaled, name)

        def receive(counts: list[float]) -> None:
            first, inside, zeros, inf, nan = read(counts)
            found = replace(
                name,
                tensors=1,
                elements=elements,
                zeros=zeros,
                inf=inf,
                nan=nan,
                first=first,
                counts=inside,
            )
            known = self._waiting.get(key)
            self._waiting[key] = found if known is None else known.joined(found)

        self._watch.numbers.count(tensor, receive)

    def _roll(self, *, last: bool = False) -> None:
        """Hand over what is known of: nothing is scaled before its step is over."""
        tracer = self._watch.tracer
        waiting, self._waiting = self._waiting, {}
        for key, found in waiting.items():
            step, unscaled, _ = key
            settled, scale = tracer.scale_at(step)
            if not settled and not last:
                self._waiting[key] = found
                continue
            power = exponent(scale if settled else tracer.scale())
            if found.what in SCALED:
                found = replace(found.shifted(power if unscaled else 0), scale=2.0**power)
            tracer.histogram(found)

    def _finish(self) -> None:
        self._watch.numbers.drain()
        self._roll(last=True)
