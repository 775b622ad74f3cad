"""Calls in graphs, which are counted by how often each graph runs."""

from __future__ import annotations

import gc
from typing import Any

import pytest

tf = pytest.importorskip("tensorflow")

from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.runs import Calls  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402


@pytest.mark.parametrize("xla", [False, True])
def test_calls_in_loops_and_branches_are_counted_when_they_happen(xla: bool) -> None:
    calls = Calls()

    @tf.function(jit_compile=xla)
    def step(often: Any) -> Any:
        calls.add(2, 0)
        calls.add(0, 1)

        def body(number: Any) -> Any:
            calls.add(1, 0)
            return number + 1

        number = tf.while_loop(lambda number: number < often, body, [tf.constant(0)])

        def branch() -> Any:
            calls.add(0, 10)
            return tf.constant(1)

        return tf.cond(often > 3, branch, lambda: tf.constant(0)) + number[0]

    for often in (2, 5, 0):
        step(tf.constant(often))
    assert calls.read() == (3 * 2 + 7, 3 + 10)
    assert calls.read() == (0, 0)
    step(tf.constant(1))
    assert calls.read() == (3, 1)


def test_a_graph_that_is_gone_is_forgotten() -> None:
    calls = Calls()
    for _ in range(3):
        tf.function(lambda: calls.add(1, 0))()
    gc.collect()
    assert calls.read() == (3, 0)
    assert calls.read() == (0, 0)
    assert calls.held <= 1


def test_what_is_looked_at_is_decided_again_after_each_attempt_of_one_graph() -> None:
    clock = Clock(every=4)
    tap = Tap(clock, "float32")

    @tf.function
    def attempts(value: Any) -> None:
        for _ in range(6):
            tap.note(value, calls=1)
            clock.advance()

    for _ in range(5):
        attempts(tf.ones([2]))
    found = tap.read()
    looked = [tick for tick in range(30) if tick < 10 or tick % 4 == 0 or tick == 16]
    assert found is not None
    assert (found.calls, found.tensors) == (30, len(looked))
