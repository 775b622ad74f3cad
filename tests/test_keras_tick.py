"""The clock on the device: which attempt is looked at next, as `sampling` says of every single one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy
import pytest

tf = pytest.importorskip("tensorflow")

from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.store import resource  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402
from mpaudit.runtime.keras.tick import (  # noqa: E402
    START,
    advanced,
    alarmed,
    decided,
    ordinal_of,
    sampled_at,
    settled,
    state_of,
)
from mpaudit.runtime.sampling import AFTER, FIRST, sampled  # noqa: E402

TICKS = [*range(300), 511, 512, 513, 9_999, 10_000, 2**40]


def held(*state: int) -> Any:
    return resource(tf.constant(state, tf.int64))


def after(change: Callable[..., Any], state: tuple[int, ...], *given: Any) -> list[int]:
    """What a resource holds behind a graph that changes it."""
    handle = held(*state)

    @tf.function
    def graph() -> None:
        change(handle, *given)

    graph()
    found: list[int] = state_of(handle).numpy().tolist()
    return found


def test_numbers_are_counted_in_a_graph_when_they_are_on_the_host() -> None:
    ticks = tf.constant(TICKS, tf.int64)
    assert sampled_at(ticks).numpy().tolist() == [sampled(tick) for tick in TICKS]


def test_sampled_ticks_are_numbered_one_after_the_other() -> None:
    numbers = [int(ordinal_of(tf.constant(tick, tf.int64))) for tick in range(600) if sampled(tick)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("every", [2, 7, 10, 100, 1000])
def test_the_next_attempt_that_is_looked_at_is_the_first_one_that_is_due(every: int) -> None:
    cases = [(n, FIRST, False) for n in (0, 3, 8, 9, 10, 15, 16, 63, 99, 100, 127, 128, 999)]
    cases += [(n, until, True) for n in (0, 9, 20, 64, 203) for until in (FIRST, n + 9)]
    for tick, until, wrong in [*cases, (30, 33, False)]:
        until_then = max(until, tick + 1 + AFTER) if wrong else until
        due = next(
            each
            for each in count(tick + 1)
            if each < until_then or each % every == 0 or sampled(each)
        )
        given = tf.constant(tick, tf.int64), tf.constant(wrong), every
        assert after(decided, (tick, tick, until), *given) == [tick, due, until_then]


def test_an_attempt_that_is_over_is_counted_and_nothing_else_changes() -> None:
    assert after(advanced, (4, 10, 12)) == [5, 10, 12]


@pytest.mark.parametrize(("wrong", "until"), [(False, 12), (True, 21 + AFTER)])
def test_those_behind_a_wrong_one_are_looked_at(wrong: bool, until: int) -> None:
    tick = tf.constant(20, tf.int64)
    assert after(alarmed, (20, 30, 12), tick, tf.constant(wrong)) == [20, 30, until]
    assert after(alarmed, (20, 30, 99), tick, tf.constant(wrong)) == [20, 30, 99]


def test_those_behind_a_skipped_one_are_looked_at() -> None:
    tick = tf.constant(40, tf.int64)
    assert after(settled, (40, 50, FIRST), tick, tf.constant(True)) == [40, 50, FIRST]
    assert after(settled, (40, 50, FIRST), tick, tf.constant(False)) == [40, 41, 41 + AFTER]


@pytest.mark.parametrize("xla", [False, True])
def test_attempts_of_a_graph_are_looked_at_as_their_clock_says(xla: bool) -> None:
    """One number for each attempt: what a tap has seen tells which ones it saw."""
    clock = Clock(every=10)
    tap = Tap(clock, "float32")

    @tf.function(jit_compile=xla)
    def attempt(value: Any) -> None:
        tap.note(value)
        clock.advance()

    seen = []
    for tick in range(140):
        attempt(tf.constant([tick + 1.0]))
        if (found := tap.read()) is not None:
            seen.append(tick)
            assert (found.amax, found.tensors) == (tick + 1.0, 1)
    assert seen == [n for n in range(140) if n < FIRST or n % 10 == 0 or sampled(n)]
    assert clock.read() == 140


def test_what_a_clock_begins_with_has_the_first_attempts_looked_at() -> None:
    assert numpy.array_equal(START, (0, 0, FIRST))
