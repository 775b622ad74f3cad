"""Learning rate schedules."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref


class SchedulerStep(Event, frozen=True, kw_only=True):
    """`scheduler.step()` of a schedule for `optimizer`; setting it to a given epoch is none.

    `beside` says that it moves in the very pass of the loop in which a live scaler may have skipped
    the optimizer's step, and that nothing in its file asks whether it did.
    """

    scheduler: Ref
    optimizer: Ref
    beside: bool = False
