"""What is looked at together is one operation: few of them in a step that nobody looks at."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from keras_watched import numbers, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.keras.parcel import whole_of  # noqa: E402
from mpaudit.runtime.keras.recipe import OURS  # noqa: E402
from mpaudit.runtime.sampling import FIRST, Sampling  # noqa: E402


def trained(shape: str) -> None:
    layers = keras.layers
    with under("float32", seed=0):
        if shape == "plain":
            given = keras.Input((16,))
            x = given
            for _ in range(3):
                x = layers.Dense(8, activation="relu")(x)
            inputs = samples(16, 16)
        else:
            given = keras.Input((8, 8, 3))
            x = layers.Conv2D(4, 3, padding="same")(given)
            for _ in range(3):
                normal = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
                x = layers.Activation("relu")(layers.Add()([x, normal]))
            x = layers.GlobalAveragePooling2D()(x)
            inputs = samples(16, 8, 8, 3)
        model = keras.Model(given, layers.Dense(3)(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01), loss)
        model.fit(inputs, tf.range(16) % 3, batch_size=8, verbose=0)


def graph(shape: str) -> list[Any]:
    """The operations of a training as TensorFlow runs them, constants aside."""
    from tensorflow.python.eager import context

    context.enable_graph_collection()
    try:
        trained(shape)
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    found = max((each.post_optimization_graph for each in graphs), key=lambda each: len(each.node))
    return [node for node in found.node if node.op not in ("Const", "NoOp", "_Arg", "_Retval")]


def of_kinds(nodes: list[Any]) -> Counter[str]:
    return Counter(node.op for node in nodes)


def executed(nodes: list[Any]) -> list[Any]:
    """Those that are not passed over in an attempt that is not looked at: what is behind a switch is, up
    to a merge."""
    over: set[str] = {f"{node.name}:1" for node in nodes if node.op == "Switch"}
    before = 0
    while len(over) > before:
        before = len(over)
        for node in nodes:
            if node.op != "Merge" and over & {each.removeprefix("^") for each in node.input}:
                over.add(node.name)
    return [node for node in nodes if node.name not in over]


def test_a_step_that_is_not_looked_at_executes_few_operations_more(tmp_path: Path) -> None:
    """All but what stands in the branch that is not taken; the other one gives a constant."""
    plain = of_kinds(graph("plain"))
    with watched(tmp_path, sampling=Sampling()):
        nodes = graph("plain")
    ours = of_kinds(nodes)
    more = ours - plain
    assert not plain - ours
    assert more["If"] == 2
    assert more.total() <= 12, more
    assert any(OURS in node.name for node in nodes)
    read(tmp_path)


def test_nor_does_one_of_a_network_in_which_each_tensor_is_looked_at_by_itself(
    tmp_path: Path,
) -> None:
    """That those looks are conditions that do not hold is not enough: each would be called."""
    plain = of_kinds(graph("residual"))
    with watched(tmp_path, sampling=Sampling()):
        nodes = graph("residual")
    looks = [node for node in nodes if node.op == "StatelessIf"]
    more = of_kinds(executed(nodes)) - plain
    assert len(looks) > 30
    assert more["StatelessIf"] == 0
    assert more["If"] == 2
    assert more.total() <= 30, more
    read(tmp_path)


def test_what_is_only_counted_is_passed_over_in_a_step_in_which_nothing_is(tmp_path: Path) -> None:
    """The gradients of weights are looked at by themselves there, too."""
    with watched(tmp_path, sampling=Sampling()):
        nodes = graph("residual")
    named = {node.name: node for node in nodes}
    switched = {node.name for node in nodes if node.op == "Switch"}
    ticks = [
        next(name for each in node.input if (name := each.split(":")[0].strip("^")) in switched)
        for node in nodes
        if node.op == "StatelessIf"
    ]
    by_switch = Counter(ticks)
    assert set(by_switch) <= set(named)
    measured, counted = sorted(by_switch.values(), reverse=True)
    assert measured > 20
    assert counted > 10
    read(tmp_path)


def test_a_network_trains_to_the_same_weights_in_steps_in_which_all_looks_are_passed_over(
    tmp_path: Path,
) -> None:
    """What is passed over there lets nothing else be so; each look is done in its own steps only."""
    steps = FIRST + 8

    def weights() -> list[bytes]:
        layers = keras.layers
        with under("float32", seed=0):
            given = keras.Input((8, 8, 3))
            first = layers.Conv2D(4, 3, padding="same")(given)
            x = layers.Add()([first, layers.BatchNormalization()(layers.Conv2D(4, 1)(first))])
            model = keras.Model(given, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
            model.compile(keras.optimizers.SGD(0.01), "mse")
            data = tf.data.Dataset.from_tensors((samples(8, 8, 8, 3), samples(8, 3))).repeat(steps)
            model.fit(data, verbose=0)
            return [each.tobytes() for each in model.get_weights()]

    plain = weights()
    with watched(tmp_path, sampling=Sampling()):
        assert weights() == plain
    with read(tmp_path) as reader:
        found = {name: row.calls for name, row in numbers(reader).items()}
        counted = [each for of_layer in reader.histograms().values() for each in of_layer]
    assert set(found.values()) == {FIRST + 2}  # at 10 and 16
    assert {each.tensors for each in counted if each.what == "weight_gradient"} == {12}


def test_what_differs_by_its_rows_only_is_traced_once(tmp_path: Path) -> None:
    """Where many tensors are added up each is looked at by itself, as soon as it is there."""
    before = whole_of.cache_info()
    with watched(tmp_path, sampling=Sampling()):
        ours = of_kinds(graph("residual"))
    after = whole_of.cache_info()
    assert ours["StatelessIf"] > 30
    assert after.misses - before.misses <= 12
    with read(tmp_path) as reader:
        found = numbers(reader)
    looked = {layer for layer, phase in found if phase == "backward"}
    assert {f"batch_normalization{n}" for n in ("", "_1", "_2")} <= looked
    assert all(row.amax for (_, phase), row in found.items() if phase == "forward")


@pytest.mark.parametrize("mode", ["function", pytest.param("xla", marks=pytest.mark.slow)])
def test_what_shares_a_function_keeps_numbers_of_its_own(tmp_path: Path, mode: str) -> None:
    """Tensors beyond a MiB are looked at by themselves, all by the same function."""
    sizes: list[float] = [3.0, 5.0, 7.0, 11.0]

    class Net(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(name="net")
            self.parts = [keras.layers.Rescaling(each, name=f"by{each:.0f}") for each in sizes]
            self.head = keras.layers.Dense(1, name="head")

        def call(self, given: Any) -> Any:
            return self.head(sum(part(given)[:, :2] for part in self.parts))

    with under("float32", seed=0), watched(tmp_path):
        model = Net()
        model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=mode == "xla")
        model.fit(tf.ones([2, 1 << 18]), tf.zeros([2, 1]), epochs=3, verbose=0)
    with read(tmp_path) as reader:
        found = numbers(reader)
    for each in sizes:
        row = found[f"net/by{each:.0f}", "forward"]
        assert (row.amax, row.elements, row.zeros) == (each, 3 << 19, 0)


class Distiller(keras.Model):  # type: ignore[misc, name-defined]
    """Learns from what another model gives, which is computed last and gets no gradients."""

    def __init__(self, teacher: Any, student: Any) -> None:
        super().__init__()
        self.teacher, self.student = teacher, student

    def call(self, inputs: Any) -> Any:
        return self.student(inputs)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, *_: Any, **__: Any) -> Any:
        told = self.teacher(x, training=False)
        return keras.ops.mean(keras.ops.square(keras.ops.cast(told - y_pred, "float32")))


def test_what_is_counted_in_a_parcel_may_be_less_than_what_is_measured_there(
    tmp_path: Path,
) -> None:
    def net(filters: int) -> Any:
        layers = keras.layers
        return keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Conv2D(filters, 3, strides=2),
                layers.LeakyReLU(),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(3),
            ]
        )

    with under("mixed_float16", seed=0), watched(tmp_path):
        model = Distiller(net(64), net(8))  # more than a parcel has room for, together
        model.compile(optimizer=keras.optimizers.SGD(0.01))
        model.fit(samples(4, 28, 28, 1), tf.zeros(4), verbose=0)
    with read(tmp_path) as reader:
        assert reader.meta["probe_errors"] == []
        bad = [each for each in reader.statistics() if each.inf or each.nan]
    assert not bad
