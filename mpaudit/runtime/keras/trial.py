"""A training that ends after so many steps, with its trace whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from mpaudit.runtime.tracer import Tracer


class Trial:
    """Ends the process once `steps` attempts were made; `uninstall` takes the probe away."""

    def __init__(self, steps: int, tracer: Tracer, uninstall: Callable[[], None]) -> None:
        self.steps = steps
        self._tracer = tracer
        self._uninstall = uninstall

    def end(self) -> None:
        """End it, before the script goes on."""
        self._uninstall()
        self._tracer.close(0)
        sys.stderr.flush()
        os._exit(0)
