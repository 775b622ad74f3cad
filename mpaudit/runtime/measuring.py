"""Runs that measure a step and train nothing: what is lost in one step is lost anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mpaudit.finding import Problem, Span


def measures(problem: Problem, stepped_at: Mapping[int, Span], steps: Sequence[int]) -> bool:
    """Whether at a place of a problem several optimizers were stepped, each but once.

    `stepped_at` and `steps` say of optimizers, by index, where each was stepped and how often. One
    alone may train: who tries a script stops it after a step.
    """
    places = {problem.span, *(each.span for each in problem.related)}
    there = [steps[index] for index, at in stepped_at.items() if at in places]
    return len(there) > 1 and max(there) == 1
