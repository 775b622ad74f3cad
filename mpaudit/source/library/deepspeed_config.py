"""What a DeepSpeed configuration asks for, as far as a dict of the program or a file says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING

from mpaudit.source.library.accelerate import entry
from mpaudit.source.requirement import allowed
from mpaudit.source.values import FALSE, NONE, TRUE, Const, Thing, Value

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.request import Call

CONFIG = ("config", "config_params")
"""The arguments of `deepspeed.initialize` that take one; `args` may name a file as well."""
PLAIN_BACKWARD = (0, 18)
"""Since 0.18.3 `loss.backward()` is let through in bf16 under ZeRO."""


@dataclass(frozen=True, slots=True)
class Configured:
    """Switches of a configuration, None where they are not known; `at` is where fp16 is asked for."""

    fp16: bool | None = None
    bf16: bool | None = None
    stage: int | None = None
    at: Span | None = None

    @property
    def requires_engine(self) -> bool | None:
        """Whether `loss.backward()` is refused, or comes out wrong, in every release."""
        if self.fp16 or self.stage == 0:
            return True
        return False if self.fp16 is False and self.stage is not None else None

    @property
    def wraps_optimizer(self) -> bool | None:
        """Whether the engine trains copies of the parameters, so that the given optimizer has none."""
        if self.fp16 or self.bf16 or self.stage:
            return True
        return False if (self.fp16, self.bf16, self.stage) == (False, False, 0) else None


def configured(call: Call, config: Value | None) -> Configured:
    """What a configuration says."""
    config = call.engine.logic.settled(config, call.path)
    if isinstance(config, Thing) and config.kind == "dict":
        bf16 = _enabled(call, config, "bf16")
        return Configured(
            _enabled(call, config, "fp16"),
            bf16 if bf16 is not False else _enabled(call, config, "bfloat16"),
            _stage(call, config),
        )
    return Configured()


def silent_about(call: Call, engine: Thing) -> bool:
    """Whether a script whose configuration is not in view may well train so that nothing is amiss.

    It speaks of bfloat16, or its project asks for a release that lets a plain backward through.
    """
    place = call.engine.places.get(engine.uid)
    texts = [frame.module.text for frame in call.path.frames]
    if any("bf16" in text or "bfloat16" in text for text in texts):
        return True
    floor = allowed(File(place.filename), ("deepspeed",)).floor if place is not None else None
    return floor is not None and floor >= PLAIN_BACKWARD


def _enabled(call: Call, config: Thing, name: str) -> bool | None:
    """Whether a precision is switched on; "auto" and what is computed is not known."""
    part = entry(config, name, call)
    if part in (None, NONE):
        return False
    if not isinstance(part, Thing) or part.kind != "dict":
        return None
    value = entry(part, "enabled", call)
    if value is None:
        return False
    return {TRUE: True, FALSE: False}.get(value) if isinstance(value, Const) else None


def _stage(call: Call, config: Thing) -> int | None:
    part = entry(config, "zero_optimization", call)
    if part in (None, NONE):
        return 0
    if not isinstance(part, Thing) or part.kind != "dict":
        return None
    value = entry(part, "stage", call)
    if value is None:
        return 0
    stage = value.value if isinstance(value, Const) else None
    return stage if isinstance(stage, int) and not isinstance(stage, bool) else None
