"""Numbers that are on a GPU, and reach the host without a wait: a copy for many of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Ring:
    """Rows of numbers on one device."""

    def __init__(self, rows: torch.Tensor) -> None:
        self._rows = rows
        self._receivers: list[Callable[[list[float]], None]] = []
        self._sent: list[tuple[torch.Tensor, Any, list[Callable[[list[float]], None]]]] = []

    def row(self, receive: Callable[[list[float]], None]) -> torch.Tensor:
        """A fresh row of zeros to write to on the device."""
        if len(self._receivers) == len(self._rows):
            self._send()
        self._receivers.append(receive)
        return self._rows[len(self._receivers) - 1]

    def _send(self) -> None:
        host = torch.empty(self._rows.shape, dtype=self._rows.dtype, pin_memory=True)
        host.copy_(self._rows, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        self._sent.append((host, arrived, self._receivers))
        self._receivers = []
        self._rows = torch.zeros_like(self._rows)
        while len(self._sent) > 1 and self._sent[0][1].query():
            self._deliver(self._sent.pop(0))

    def drain(self) -> None:
        """Hand out all rows. Waits for the device."""
        torch.cuda.synchronize(self._rows.device)
        if self._receivers:
            self._send()
        while self._sent:
            self._sent[0][1].synchronize()
            self._deliver(self._sent.pop(0))

    @staticmethod
    def _deliver(
        sent: tuple[torch.Tensor, Any, list[Callable[[list[float]], None]]],
    ) -> None:
        for values, receive in zip(sent[0].tolist(), sent[2], strict=False):
            receive(values)
