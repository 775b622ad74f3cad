"""A network whose graph TensorFlow adds up otherwise where it is looked at trains to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keras_watched import numbers, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.keras.recipe import OURS, ingredients, made  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    yield
    config.disable_op_determinism()


def weights(policy: str) -> list[bytes]:
    """Of a small residual network after some steps.

    To TensorFlow a batch normalisation, a residual addition and what follows are one sum, which is added
    in another order where somebody looks at what is in between.
    """
    layers = keras.layers

    def normal(x: Any) -> Any:
        return layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))

    with under(policy, seed=0):
        given = keras.Input((12, 12, 3))
        x = layers.Activation("relu")(normal(given))
        x = layers.Add(name="add")([normal(x), x])
        head = layers.Dense(5, dtype="float32", name="head")(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(given, head)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss)
        images, labels = samples(32, 12, 12, 3), tf.range(32) % 5
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
        return [each.tobytes() for each in model.get_weights()]


@pytest.mark.parametrize(
    "policy", [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"]
)
def test_a_residual_network_trains_to_the_same_bits(tmp_path: Path, policy: str) -> None:
    plain = weights(policy)
    for name, sampling in (
        ("all", Sampling()),
        ("each", Sampling(every=1)),
        ("light", Sampling(light=True)),
    ):
        (tmp_path / name).mkdir()
        with watched(tmp_path / name, sampling=sampling):
            assert weights(policy) == plain
    with read(tmp_path / "all") as reader:
        looked = numbers(reader).keys()
    for layer in ("add", "head"):
        assert {(layer, "forward"), (layer, "backward")} <= looked


def live_at_the_peak(policy: str) -> tuple[set[str], dict[str, bool]]:
    """The tensors of the network's graph that are there when most memory is in use, as TensorFlow
    estimates, and of all whether they take time; constants and what is only read aside, of which one
    stands for another."""
    from tensorflow.core.protobuf.device_properties_pb2 import NamedDevice
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
    from tensorflow.python.eager import context
    from tensorflow.python.grappler import cluster, item

    context.enable_graph_collection()
    try:
        weights(policy)
        graphs = context.export_run_metadata().function_graphs
    finally:
        context.disable_graph_collection()
    graph = max((each.post_optimization_graph for each in graphs), key=lambda each: len(each.node))
    meta = MetaGraphDef(graph_def=graph)
    ends = [node.name for node in graph.node if node.op in ("_Retval", "If")]
    meta.collection_def["train_op"].node_list.value.extend(ends)
    device = NamedDevice(name="/job:localhost/replica:0/task:0/device:CPU:0")
    device.properties.type, device.properties.frequency = "CPU", 2000
    device.properties.num_cores = 2
    usage = cluster.Cluster(devices=[device]).DeterminePeakMemoryUsage(item.Item(meta))
    known = {
        node.name: "_execution_count" not in node.attr
        for node in graph.node
        if node.op not in ("_Arg", "Const", "ReadVariableOp")
    }
    return {name for name, *_ in usage[device.name][1]} & known.keys(), known


def test_tensorflow_expects_the_same_tensors_in_memory_at_the_peak(tmp_path: Path) -> None:
    """By that it decides whether to add up many tensors in another order, as in ResNet-50."""
    plain, known = live_at_the_peak("float32")
    with watched(tmp_path, sampling=Sampling()):
        live, more = live_at_the_peak("float32")
    assert live & known.keys() == plain
    assert len(plain) > 10
    assert any(OURS in name for name in more)
    assert [name for name in more if name not in known and more[name]] == []
    read(tmp_path)


def test_sums_and_products_are_taken_apart_down_to_what_is_used_more_than_once() -> None:
    seen = {}

    @tf.function
    def compute(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        once = tf.identity(a + b)
        twice = tf.add_n([b, b, b])
        total = (once + c) + (twice + a)
        product = total * twice
        scaled = (tf.sqrt(a) * c) / b
        step = scaled * 0.1
        values = {
            "total": total,
            "product": product,
            "twice": twice,
            "scaled": scaled,
            "step": step,
        }
        for name, value in values.items():
            terms, plan = ingredients(value)
            seen[name] = [each.op.type for each in terms]
            seen[f"{name} again"] = made(plan, terms)
        return total, seen["total again"], scaled, seen["scaled again"]

    one, other, scaled, again = compute(*map(tf.constant, (1.0, [2.0, 3.0], [4.0])))
    assert one.numpy().tolist() == other.numpy().tolist()
    assert scaled.numpy().tolist() == again.numpy().tolist()
    assert seen["scaled"] == ["Sqrt", "Placeholder", "Placeholder"]
    assert seen["step"] == [*seen["scaled"], "Const"]
    assert seen["total"] == ["Placeholder", "Placeholder", "Placeholder", "AddN", "Placeholder"]
    assert seen["product"] == ["AddV2", "AddN"]
    assert seen["twice"] == ["AddN"]


def scaled() -> list[bytes]:
    """The weights of a network in which the gradient of a batch normalisation's factor is a product: the
    step is another one of that, which TensorFlow multiplies in another order."""
    layers = keras.layers
    with under("float32", seed=0):
        given = keras.Input((12, 12, 3))
        twice = layers.Conv2D(8, 3, padding="same")
        normal = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(given))
        x = layers.Activation("relu")(normal)
        x = layers.Add()([(once := twice(x)), x, twice(once)])
        head = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
        model = keras.Model(given, head)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05), loss)
        images, labels = samples(64, 12, 12, 3), tf.range(64) % 5
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0, epochs=2)
        return [each.tobytes() for each in model.get_weights()]


@pytest.mark.parametrize("sampling", [Sampling(every=1), Sampling(light=True)], ids=repr)
def test_a_gradient_is_multiplied_by_the_learning_rate_first(
    tmp_path: Path, sampling: Sampling
) -> None:
    plain = scaled()
    with watched(tmp_path, sampling=sampling):
        assert scaled() == plain
    read(tmp_path)


def joined(kind: str) -> list[bytes]:
    """The weights of a network in which TensorFlow makes one operation of a product, its bias and what is
    behind it."""
    layers = keras.layers
    with under("float32", seed=0):
        given = keras.Input((24,))
        if kind == "added":
            x = layers.Add(name="add")([layers.Dense(32)(given), layers.Dense(32)(given)])
        elif kind == "activated":
            x = layers.Activation("tanh")(layers.Dense(32)(given))
        else:
            image = layers.Reshape((3, 4, 2))(given)
            convolved = (layers.Conv2D(8, 3, padding="same")(image) for _ in range(2))
            x = layers.Flatten()(layers.Add(name="add")(list(convolved)))
        model = keras.Model(given, layers.Dense(5, name="head")(x))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.fit(samples(64, 24), tf.range(64) % 5, batch_size=16, shuffle=False, verbose=0)
        return [each.tobytes() for each in model.get_weights()]


@pytest.mark.parametrize("kind", ["added", "activated", "convolved"])
def test_a_product_is_made_with_what_is_behind_it(tmp_path: Path, kind: str) -> None:
    plain = joined(kind)
    with watched(tmp_path, sampling=Sampling()):
        assert joined(kind) == plain
    with read(tmp_path) as reader:
        looked = numbers(reader).keys()
    assert {("head", "forward"), ("head", "backward")} <= looked
