"""What watching Keras costs, counted: operations of a step that is looked at, and calls on the host."""

from __future__ import annotations

import cProfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keras_watched import samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from tensorflow.python.eager.context import context  # noqa: E402

from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.recipe import OURS  # noqa: E402
from mpaudit.runtime.keras.sweep import at_once  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402
from mpaudit.runtime.sampling import EVERY, FIRST, Sampling  # noqa: E402

NOTHING = {"Const", "NoOp", "Identity", "Placeholder"}
LAYERS = 3  # that one model has more than the other


def functions_of(node: Any, *, sampled: bool) -> list[str]:
    """What is run of a condition that holds; of the ways to measure, that of a step like others."""
    if node.op in ("If", "StatelessIf"):
        return [node.attr["then_branch" if sampled else "else_branch"].func.name]
    if node.op in ("Case", "StatelessCase"):
        return [node.attr["branches"].list.func[-1].name]
    if "f" in node.attr:
        return [node.attr["f"].func.name]
    return [node.op] if context().has_function(node.op) else []


def operations(name: str, *, sampled: bool) -> int:
    """How many operations a function runs, with those that it calls."""
    found = 0
    for node in context().get_function_def(name).node_def:
        inside = functions_of(node, sampled=sampled)
        found += sum(operations(each, sampled=sampled) for each in inside)
        found += not inside and node.op not in NOTHING
    return found


def kinds_of(name: str) -> Counter[str]:
    """The operations of a function that is looked with, by type, where nothing is bad or counted."""
    found = Counter[str]()
    for node in context().get_function_def(name).node_def:
        inside = functions_of(node, sampled=False)
        found += sum(map(kinds_of, inside), Counter()) if inside else Counter([node.op])
    return found


def looked_at(hidden: int, folder: Path, *, sampled: bool) -> int:
    """How many operations a training of a model with so many hidden layers has for its looks."""
    folder.mkdir()
    before = set(context().list_function_names())
    with under("float32", seed=0), watched(folder, sampling=Sampling()):
        layers = [keras.layers.Dense(8, activation="relu") for _ in range(hidden)]
        model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.fit(samples(16, 8), samples(16, 2), batch_size=8, verbose=0)
    total = 0
    for name in set(context().list_function_names()) - before:
        for node in context().get_function_def(name).node_def:
            if node.op == "If" and node.name.startswith(OURS):
                branch = node.attr["then_branch"].func.name
                total += operations(branch, sampled=sampled)
    return total


@pytest.mark.parametrize(("sampled", "most"), [(False, 8), (True, 26)])
def test_another_tensor_costs_few_operations_where_it_is_looked_at(
    tmp_path: Path, sampled: bool, most: int
) -> None:
    """A layer has an output and its gradient; in a sampled step two weights and their gradients, too."""
    tensors = LAYERS * (6 if sampled else 2)
    few, many = (looked_at(n, tmp_path / str(n), sampled=sampled) for n in (2, 2 + LAYERS))
    assert 0 < many - few <= most * tensors


def calls(work: Callable[[], Any]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(each.callcount for each in profile.getstats())


def test_a_tensor_that_several_layers_have_is_read_once(tmp_path: Path) -> None:
    """The gradient of an addition is that of all its terms; each is read twice for its largest magnitude,
    and one more operation puts the two together."""
    before = set(context().list_function_names())
    with under("float32", seed=0), watched(tmp_path, sampling=Sampling()):
        given = keras.Input((8,), batch_size=8)
        terms = [keras.layers.Dense(8)(given) for _ in range(4)]
        model = keras.Model(given, keras.layers.Dense(2)(keras.layers.Add()(terms)))
        model.compile(keras.optimizers.SGD(0.01), "mse")
        model.fit(tf.data.Dataset.from_tensors((samples(8, 8), samples(8, 2))), verbose=0)
    looks = [
        node.attr["then_branch"].func.name
        for name in set(context().list_function_names()) - before
        for node in context().get_function_def(name).node_def
        if node.op in ("If", "StatelessIf") and node.name.startswith(OURS)
    ]
    given_and_made = 1 + len(terms) + 2
    gradients = 1 + 1  # of the sum and all its terms, and of what is made
    assert sum(kinds_of(each)["Max"] for each in looks) <= 3 * (given_and_made + gradients)


def test_reading_what_was_not_looked_at_costs_few_calls_on_the_host() -> None:
    """A large model has hundreds of taps, and they are read each second."""
    clock = Clock(every=EVERY)
    taps = [Tap(clock, "float32") for _ in range(20)]

    @tf.function(autograph=False)
    def step(value: Any) -> None:
        for number, tap in enumerate(taps):
            tap.note(value * float(number), calls=1)
        clock.advance()

    def swept() -> list[Any]:
        with at_once():
            return [tap.read() for tap in taps]

    for _ in range(FIRST + 1):
        step(tf.ones([4]))
    assert {each.tensors for each in swept()} == {FIRST + 1}
    step(tf.ones([4]))
    assert {(each.tensors, each.calls) for each in swept()} == {(0, 1)}
    step(tf.ones([4]))
    assert calls(swept) / len(taps) <= 24


def test_a_function_that_ends_costs_few_calls_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpaudit.runtime.tracer.FLUSH_EVERY", 1e9)
    function = tf.function(lambda given: given + 1.0)
    given = tf.constant(1.0)
    function(given)
    plain = calls(lambda: [function(given) for _ in range(20)])
    with watched(tmp_path, sampling=Sampling()):
        layer = keras.layers.Dense(1)
        layer.build((None, 1))
        optimizer = keras.optimizers.SGD(0.0)
        for _ in range(2):
            optimizer.apply([tf.zeros([1, 1]), tf.zeros([1])], layer.trainable_variables)
            function(given)
        ours = calls(lambda: [function(given) for _ in range(20)])
    assert (ours - plain) / 20 <= 16
