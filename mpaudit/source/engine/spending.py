"""What following costs, how much of it is allowed, and whether that will suffice."""

from __future__ import annotations

from mpaudit.source.engine.binding import Exhausted

FIRST = 4
"""What is left is compared with what is foreseen when this part of what is allowed is spent,"""
NEXT = 8
"""and whenever this part of what is left is spent again."""
SURE = 2
"""An attempt is given up where so many times what is left is foreseen: it may cost less than it has cost."""


Around = tuple[int, int, int, int, bool]
"""What an attempt leaves as it was, as `Spending` notes it."""


class Repeat:
    """What is done several times at about the same cost: the passes of a loop, a statement on many paths."""

    __slots__ = ("before", "begun", "left")

    def __init__(self, times: int, budget: int) -> None:
        self.left = times
        self.begun = budget
        self.before = 0
        """What it cost the last time."""

    def turn(self, budget: int) -> None:
        """The next one begins."""
        self.left -= 1
        self.before, self.begun = max(self.begun - budget, 0), budget


class Spending:
    """Counts work, in evaluations of an expression.

    An attempt, of an entry point or a call, may spend its allowance and no more; one that will not suffice,
    as it goes, ends at once, so that less is thrown away.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.left = budget
        self.floor = 0
        """What must be left of the budget when the attempt in progress ends."""
        self.mark = 0
        """Of how much is left when what is foreseen is looked at again."""
        self.repeats: list[Repeat] = []
        self.since = 0
        """The repeats that belong to the attempt in progress begin here."""
        self.steady = True
        """Whether no training in it had to be followed more narrowly: the next time that costs less."""

    def spend(self, amount: int = 1) -> None:
        """Count work. Raises Exhausted beyond the budget, or beyond the share of a call in progress."""
        self.budget -= amount
        if self.budget < self.mark:
            self._weigh()

    def _weigh(self) -> None:
        left = self.budget - self.floor
        if left < 0 or (self.steady and self.foreseen() > SURE * left):
            self.budget = min(self.budget, self.floor - 1)  # it would have been spent all the same
            raise Exhausted
        self.mark = self.budget - left // NEXT

    def foreseen(self) -> int:
        """What the attempt in progress will cost at least, if what is repeated costs what it has cost."""
        ahead = 0
        for each in reversed(self.repeats[self.since :]):
            spent = each.begun - self.budget
            whole = max(each.before, spent + ahead)
            ahead = whole - spent + each.left * whole
        return ahead

    def attempt_within(self, floor: int) -> Around:
        """An attempt begins that must leave so much of the budget; what `attempted` wants to be told."""
        around = self.floor, self.mark, self.since, len(self.repeats), self.steady
        self.floor, self.since, self.steady = floor, len(self.repeats), True
        self.mark = self.budget - (self.budget - floor) // FIRST
        return around

    def attempted(self, around: Around) -> None:
        """The attempt has ended, or was given up."""
        self.floor, self.mark, self.since, depth, steady = around
        self.steady = self.steady and steady
        del self.repeats[depth:]

    def repeat(self, times: int) -> Repeat:
        """Something is done several times; popped from `repeats` once it is done."""
        self.repeats.append(Repeat(times, self.budget))
        return self.repeats[-1]

    def refund(self, amount: int) -> None:
        """Give work back to the entry point in progress, as far as the file's budget allows."""
        if self.left - self.budget >= amount:
            self.left -= amount
            self.budget += amount
