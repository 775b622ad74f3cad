"""What a DeepSpeed configuration asks for: one precision."""

from __future__ import annotations

from collections.abc import Iterator

from mpaudit.event import EngineConfigured, Event
from mpaudit.finding import Problem
from mpaudit.protocols.protocol import Broken, Kept, Protocol, Verdict

RULE = "deepspeed-config-conflict"


class EngineConfigProtocol(Protocol):
    """MP613; every configuration is judged by itself."""

    __slots__ = ()

    takes = (EngineConfigured,)

    def feed(self, event: Event) -> Iterator[Verdict]:
        """Judge one configuration."""
        assert isinstance(event, EngineConfigured)
        if not event.both:
            yield Kept(RULE, event.at)
            return
        if event.switch:
            yield _disagreeing(event)
            return
        yield Broken(
            Problem(
                RULE,
                event.at,
                "`fp16` and `bf16` are both enabled in a DeepSpeed configuration",
                'DeepSpeed raises "bfloat16 and fp16 modes cannot be simultaneously enabled"',
                (event.other,) if event.other is not None else (),
            )
        )


def _disagreeing(event: EngineConfigured) -> Broken:
    other = "bf16" if event.switch == "fp16" else "fp16"
    return Broken(
        Problem(
            RULE,
            event.at,
            f"`{event.switch}=True` in {event.maker}, while its DeepSpeed configuration enables `{other}`",
            'it raises "Please correct the following DeepSpeed config values that mismatch '
            'TrainingArguments values"; `"auto"` in the configuration takes them over',
            (event.other,) if event.other is not None else (),
        )
    )
