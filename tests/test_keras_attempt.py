"""What a graph looks at in one attempt: together where that is cheap, and dated by when it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from keras_watched import ended, watched

tf = pytest.importorskip("tensorflow")

from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.recipe import OURS  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402

SMALL, LARGE = tf.TensorSpec([8, 8]), tf.TensorSpec([512, 1024])  # 256 bytes, and 2 MiB


def looks(graph: Any) -> list[int]:
    """How many floating tensors each look of a graph takes; what only keeps the clock takes none."""
    conditions = [each for each in graph.get_operations() if each.type in ("If", "StatelessIf")]
    found = [each for each in conditions if OURS in each.name]
    taken = (sum(one.dtype.is_floating for one in each.inputs) for each in found)
    return [count for count in taken if count]


@pytest.mark.parametrize("sums", [False, True])
def test_small_tensors_are_looked_at_together_but_not_where_many_are_added_up(sums: bool) -> None:
    tap = Tap(Clock(every=10), "float32")

    def note(first: Any, second: Any, large: Any) -> None:
        for each in map(tf.exp, (first, large, second)):
            tap.note(each)
        if sums:
            tf.add_n([first, second, first * second])

    graph = tf.function(ended(note)).get_concrete_function(SMALL, SMALL, LARGE).graph
    assert sorted(looks(graph)) == ([1, 1, 1] if sums else [1, 2])


def test_what_is_looked_at_is_dated_by_when_it_was_there(tmp_path: Path) -> None:
    """A graph looks at its tensors at its end, behind an inner function that ended the attempt."""
    clock = Clock(every=10)
    tap = Tap(clock, "float32")
    inner = tf.function(clock.advance)
    inner()

    @tf.function
    def outer(value: Any) -> None:
        tap.note(value)
        inner()

    with watched(tmp_path, sampling=Sampling()):
        outer(tf.constant([float("inf")]))
    found = tap.read()
    assert found is not None
    assert (found.first_bad, found.inf) == (1, 1)
    assert clock.read() == 2


def test_what_was_wrong_has_the_next_attempts_looked_at() -> None:
    clock = Clock(every=10)
    tap = Tap(clock, "float32")

    @tf.function
    def attempt(value: Any) -> None:
        tap.note(value)
        clock.advance()

    for tick in range(40):
        attempt(tf.constant([float("inf") if tick == 20 else 1.0]))
    found = tap.read()
    assert found is not None
    looked = [n for n in range(40) if n < 10 or n % 10 == 0 or n == 16 or n == 32 or 20 < n < 26]
    assert (found.tensors, found.first_bad) == (len(looked), 20)
