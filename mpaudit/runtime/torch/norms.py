"""The largest magnitudes of many tensors at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mpaudit.runtime.measured import Values, of_amax


class Norms:
    """The largest magnitudes of many tensors, on their way to the host."""

    def __init__(
        self, tensors: Sequence[torch.Tensor], receive: Callable[[list[Values]], None]
    ) -> None:
        self._elements = [each.numel() for each in tensors]
        self._receive = receive
        self._sent: list[tuple[list[int], torch.Tensor, Any]] = []
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, tensor in enumerate(tensors):
            kinds.setdefault((tensor.device, tensor.dtype), []).append(place)
        for (device, _), places in kinds.items():
            norms = torch._foreach_norm([tensors[place] for place in places], math.inf)
            self._send(places, torch.stack(norms), device)

    def _send(self, places: list[int], norms: torch.Tensor, device: torch.device) -> None:
        if device.type == "cpu":
            return self._sent.append((places, norms, None))
        host = torch.empty(norms.shape, dtype=norms.dtype, pin_memory=True)
        with torch.cuda.device(device):
            host.copy_(norms, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        return self._sent.append((places, host, arrived))

    def query(self) -> bool:
        """Whether all of them have arrived."""
        return all(arrived is None or arrived.query() for _, _, arrived in self._sent)

    def deliver(self) -> None:
        """Hand them out; waits for what has not arrived."""
        found = [Values(0, None, 0, 0)] * len(self._elements)
        for places, host, arrived in self._sent:
            if arrived is not None:
                arrived.synchronize()
            for place, amax in zip(places, host.tolist(), strict=True):
                found[place] = of_amax(self._elements[place], amax)
        self._receive(found)
