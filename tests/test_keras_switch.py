"""What an attempt that is not looked at passes over is in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest

tf = pytest.importorskip("tensorflow")

from mpaudit.runtime.keras.attempt import flush  # noqa: E402
from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.sweep import at_once  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402

LARGE = 1 << 19  # numbers: more than a MiB, and looked at apart
EVERY, STEPS = 10, 24
LOOKED = 10 + 3  # the first ones, and at 10, 16 and 20


class Attempts:
    """Attempts that look at several tensors, each by itself, and keep what is made of them."""

    def __init__(self) -> None:
        self.clock = Clock(every=EVERY)
        self.taps = [Tap(self.clock, "float32") for _ in range(3)]
        self.total = tf.Variable(0.0)
        self.step = tf.function(self._step, autograph=False)

    def _step(self, value: Any) -> Any:
        made = [value * float(n + 1) for n in range(len(self.taps))]
        for tap, each in zip(self.taps, made, strict=True):
            tap.note(each)
        self.total.assign_add(tf.add_n([tf.reduce_max(each) for each in made]))
        self.clock.advance()
        return self.total.read_value()

    def check(self, steps: int = STEPS, looked: int = LOOKED) -> None:
        """All that was to be done was, each attempt's once, and no more."""
        assert float(self.total) == 6.0 * steps
        assert self.clock.read() == steps
        with at_once():
            found = [tap.read() for tap in self.taps]
        measured = [(each.tensors, each.amax) for each in found if each is not None]
        assert measured == [(looked, n + 1.0) for n in range(len(self.taps))]


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


def value() -> Any:
    return tf.ones([LARGE])


def test_what_comes_after_is_done_in_each_attempt(attempts: Attempts) -> None:
    found = [float(attempts.step(value())) for _ in range(STEPS)]
    assert found == [6.0 * (n + 1) for n in range(STEPS)]
    attempts.check()


def test_two_attempts_of_one_graph_are_looked_at_or_not_by_themselves(attempts: Attempts) -> None:
    """The function is a part of the graph that calls it, whose other operations wait for it."""
    after = tf.Variable(0.0)

    @tf.function
    def twice(given: Any) -> Any:
        attempts.step(given)
        attempts.step(given)
        after.assign_add(1.0)
        return after.read_value()

    found = [float(twice(value())) for _ in range(STEPS // 2)]
    assert found == [n + 1.0 for n in range(STEPS // 2)]
    attempts.check()


def test_attempts_in_a_loop(attempts: Attempts) -> None:
    @tf.function
    def loop(given: Any, steps: Any) -> Any:
        for _ in tf.range(steps):
            attempts.step(given)
        return attempts.total.read_value()

    assert float(loop(value(), tf.constant(STEPS))) == 6.0 * STEPS
    attempts.check()


@pytest.mark.parametrize("before", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_function_that_was_traced_before_is_compiled_by_xla(
    attempts: Attempts, before: bool
) -> None:
    """XLA has no switch."""
    done = STEPS // 2 if before else 0
    for _ in range(done):
        attempts.step(value())
    compiled = tf.function(lambda given: attempts.step(given), autograph=False, jit_compile=True)
    for _ in range(STEPS - done):
        compiled(value())
    attempts.check()


def test_a_concrete_function_is_compiled_by_xla_as_it_is(attempts: Attempts) -> None:
    """It is not traced again, so that it has no switch from the beginning."""
    concrete = attempts.step.get_concrete_function(tf.TensorSpec([LARGE]))
    compiled = tf.function(lambda given: concrete(given), autograph=False, jit_compile=True)
    for _ in range(STEPS):
        compiled(value())
    attempts.check()


def test_a_function_may_wait_for_what_is_passed_over(attempts: Attempts) -> None:
    """One that uses the same places in another graph, and comes in the same attempts."""
    tap = attempts.taps[0]
    seen = tf.Variable(0)

    @tf.function(autograph=False)
    def inner(given: Any) -> None:
        tap.note(given)
        seen.assign_add(1)
        flush()

    @tf.function(autograph=False)
    def outer(given: Any) -> None:
        inner(given)
        attempts.step(given)
        inner(given)

    for _ in range(STEPS):
        outer(value())
    assert int(seen) == 2 * STEPS
    assert float(attempts.total) == 6.0 * STEPS
    found = tap.read()
    assert found is not None
    later = LOOKED - 1  # the inner function's second call is of the next attempt
    assert (found.tensors, found.amax) == (2 * LOOKED + later, 1.0)
