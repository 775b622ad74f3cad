"""A training that ends after so many steps, with its trace whole."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from mpaudit.runtime.torch.watch import Watch


class Trial:
    """Ends the process once an optimizer has attempted `steps` steps; made after all other hooks."""

    def __init__(self, steps: int, watch: Watch) -> None:
        self._steps = steps
        self._watch = watch
        watch.patches.wrap(torch.amp.grad_scaler.GradScaler, "step", self._scaler_step)
        watch.patches.also(register_optimizer_step_post_hook(self._after_step).remove)
        watch.ended = self._end_if_due

    def _scaler_step(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._end_if_due()
        return result

    def _after_step(self, *_: Any) -> None:
        if not self._watch.thread.stepping:
            self._end_if_due()

    def _end_if_due(self) -> None:
        tracer = self._watch.tracer
        if tracer.step() >= self._steps:
            tracer.flush()
            self._watch.patches.undo()
            tracer.close(0)
            sys.stderr.flush()
            os._exit(0)
