"""Learning rate schedules."""

from __future__ import annotations

from dataclasses import dataclass

from mpaudit.event.core import Event, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStep(Event):
    """`scheduler.step()` of a schedule for `optimizer`; setting it to a given epoch is none."""

    scheduler: Ref
    optimizer: Ref
