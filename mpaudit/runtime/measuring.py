"""Runs that measure a step and train nothing: what is lost in one step is lost anyway."""

from __future__ import annotations

from collections.abc import Sequence

from mpaudit.finding import Problem, Span


class FirstSteps:
    """Where the optimizers of a run, by their indices, were stepped first."""

    def __init__(self) -> None:
        self.at: dict[int, Span] = {}
        """The first place counts."""
        self._made_after: dict[int, int] = {}

    def add(self, optimizer: int, at: Span, made_after: int | None = None) -> None:
        """An optimizer is stepped; `made_after` so many others had been, where that is known."""
        self.at.setdefault(optimizer, at)
        if made_after is not None:
            self._made_after.setdefault(optimizer, made_after)

    def measure(self, problem: Problem, steps: Sequence[int]) -> bool:
        """Whether at a place of a problem each of several optimizers was made for one step only.

        `steps` says how often each was stepped. Such are made one after another, each once the one
        before has made its step; those of a script that was stopped after a step were made together.
        One alone may train: who tries a script stops it after a step.
        """
        places = {problem.span, *(each.span for each in problem.related)}
        there = [index for index, at in self.at.items() if at in places]
        made_after = [self._made_after[index] for index in there if index in self._made_after]
        once = len(there) > 1 and all(steps[index] == 1 for index in there)
        return once and len(there) == len(made_after) == len(set(made_after))
