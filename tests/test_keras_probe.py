"""The Keras probe on real runs: every number is computed a second time, without the probe."""

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from keras_watched import (
    MODES,
    Heard,
    attempts,
    compiled,
    ended,
    numbers,
    read,
    samples,
    under,
    watched,
)

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.event import (  # noqa: E402
    Event,
    GradientsApplied,
    LayerMade,
    LossComputed,
    LossScaled,
    ModelMade,
    OptimizerWrapped,
    PolicySet,
    TapeGradient,
)
from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.probe import install  # noqa: E402
from mpaudit.runtime.keras.taps import Tap  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

ARTICLE = Path(__file__).parents[1] / "fixtures" / "article" / "run_tensorflow.py"


@pytest.fixture(autouse=True)
def fresh_keras() -> Iterator[None]:
    from tensorflow.python.framework import config

    config.enable_op_determinism()
    with under("float32", seed=7):
        yield
    config.disable_op_determinism()


# The numbers


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_tap_counts_what_numpy_counts(mode: str, dtype: str) -> None:
    values = samples(60, 5) * 100
    values[values < 20] = 0
    values[3, 2], values[5, 1], values[6] = numpy.inf, -numpy.inf, numpy.nan
    tensor = tf.cast(values, dtype)
    clock = Clock()
    tap = Tap(clock, dtype)
    note = compiled(ended(lambda value: tap.note(value, calls=1)), mode)
    clean = tf.ones([4], tensor.dtype)
    for each in (clean, tensor, tensor, clean):
        note(each)
        clock.advance()
    found = tap.read()
    exact = tf.cast(tensor, tf.float64).numpy()
    assert found is not None
    assert found.amax == numpy.abs(exact[numpy.isfinite(exact)]).max()
    assert (found.inf, found.nan) == (4, 10)
    zeros = numpy.count_nonzero(exact == 0)
    assert (found.zeros, found.zeros_of) == (2 * zeros, 608 if mode == "eager" else 604)
    assert (found.elements, found.tensors, found.calls) == (2 * 300 + 8, 4, 4)
    assert (found.first_bad, found.last_bad) == (1, 2)
    assert tap.read() is None


def test_a_tap_of_nothing_finite_and_of_nothing_at_all() -> None:
    tap = Tap(Clock(), "float16")
    tap.note(tf.fill([3], tf.constant(numpy.nan, tf.float16)))
    tf.function(ended(tap.note))(tf.zeros([0], tf.float16))
    found = tap.read()
    assert found is not None
    assert (found.amax, found.nan, found.elements, found.tensors) == (None, 3, 3, 2)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_layers_are_those_of_the_same_arithmetic_by_hand(
    tmp_path: Path, mode: str
) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    x, y = samples(24, 6), samples(24, 3)
    factor = 512.0
    with watched(tmp_path):
        model = keras.Sequential(
            [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, dtype="float32")]
        )
        model.build((None, 6))
        optimizer = keras.optimizers.SGD(0.01)

        def step(inputs, targets):
            with tf.GradientTape() as tape:
                difference = model(inputs, training=True) - targets
                loss = factor * tf.reduce_sum(difference * difference)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply([g / factor for g in gradients], model.trainable_variables)

        run = compiled(step, mode)
        hidden, outer, hidden_back, outer_back = [], [], [], []
        for begin in range(0, 24, 8):
            first, bias, second, offset = (tf.constant(w) for w in model.get_weights())
            inputs, targets = tf.constant(x[begin : begin + 8]), tf.constant(y[begin : begin + 8])
            half = [tf.cast(each, tf.float16) for each in (inputs, first, bias)]
            hidden.append(tf.nn.relu(half[0] @ half[1] + half[2]))
            outer.append(tf.cast(hidden[-1], tf.float32) @ second + offset)
            outer_back.append(2 * factor * (outer[-1] - targets))
            hidden_back.append(tf.cast(outer_back[-1] @ tf.transpose(second), tf.float16))
            run(inputs, targets)
    with read(tmp_path) as reader:
        found = numbers(reader)
        layers = reader.layers()
        dtypes = reader.dtypes()
    expected = {
        ("sequential/dense", "forward"): ("float16", hidden),
        ("sequential/dense", "backward"): ("float16", hidden_back),
        ("sequential/dense_1", "forward"): ("float32", outer),
        ("sequential/dense_1", "backward"): ("float32", outer_back),
    }
    assert found.keys() == expected.keys()
    for place, (dtype, tensors) in expected.items():
        row = found[place]
        assert (row.dtype, row.calls) == (dtype, 3)
        assert row.elements == sum(int(tf.size(each)) for each in tensors)
        assert (row.inf, row.nan, row.first_bad_step) == (0, 0, None)
        zeros = sum(numpy.count_nonzero(each.numpy() == 0) for each in tensors)
        assert (row.zeros, row.zeros_of) == (zeros, row.elements)  # a graph samples from step 3 on
        amax = max(float(tf.reduce_max(tf.abs(each))) for each in tensors)
        assert row.amax == pytest.approx(amax, rel=1e-6 if mode == "eager" else 2e-3)
    assert [(layer.path, layer.type, layer.calls, layer.calls_per_step) for layer in layers] == [
        ("sequential/dense", "Dense", 3, 1),
        ("sequential/dense_1", "Dense", 3, 1),
    ]
    assert dtypes == {
        "sequential/dense": {
            "input": ["float16"],
            "output": ["float16"],
            "output_grad": ["float16"],
            "parameter": ["float32"],
            "parameter_grad": ["float32"],
        },
        "sequential/dense_1": {
            "input": ["float16"],
            "output": ["float32"],
            "output_grad": ["float32"],
            "parameter": ["float32"],
            "parameter_grad": ["float32"],
        },
    }


@pytest.mark.parametrize("mode", MODES)
def test_an_overflow_is_counted_in_its_step(tmp_path: Path, mode: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    x = numpy.ones((4, 2), "float32")
    with watched(tmp_path):
        layer = keras.layers.Dense(3, kernel_initializer="ones", use_bias=False)
        optimizer = keras.optimizers.SGD(0.0)
        layer.build((None, 2))

        def step(inputs):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.cast(layer(inputs), tf.float32))
            (gradient,) = tape.gradient(loss, layer.trainable_variables)
            optimizer.apply([tf.zeros_like(gradient)], layer.trainable_variables)

        run = compiled(step, mode)
        for size in (1.0, 2.0, 40000.0, 4.0, 50000.0, 8.0):
            batch = x.copy()
            batch[1:] *= size  # 40000 + 40000 is more than float16 holds: 3 rows of 3
            run(tf.constant(batch))
    with read(tmp_path) as reader:
        row = numbers(reader)["dense", "forward"]
    assert (row.inf, row.nan, row.first_bad_step, row.last_bad_step) == (18, 0, 2, 4)
    assert (row.amax, row.calls, row.elements) == (16.0, 6, 72)


def test_a_tape_around_a_compiled_forward_pass(tmp_path: Path) -> None:
    """The backward pass is a graph of its own then, also that of a loop."""
    x = tf.constant(samples(6, 4, 3))
    with watched(tmp_path):
        layers = [keras.layers.RNN(keras.layers.LSTMCell(5)), keras.layers.Dense(2)]
        optimizer = keras.optimizers.SGD(0.0)

        @tf.function
        def forward(inputs):
            return layers[1](layers[0](inputs))

        for _ in range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(forward(x) * 7.0)
            variables = [v for layer in layers for v in layer.trainable_variables]
            optimizer.apply(tape.gradient(loss, variables), variables)
    with read(tmp_path) as reader:
        found = numbers(reader)
        layers_seen = {row.path: (row.calls, row.calls_per_step) for row in reader.layers()}
    assert found["dense", "backward"].amax == 7.0
    assert (found["dense", "backward"].elements, found["dense", "backward"].calls) == (36, 3)
    assert found["rnn/lstm_cell", "backward"].calls == found["rnn/lstm_cell", "forward"].calls
    assert found["rnn/lstm_cell", "backward"].amax > 0
    assert layers_seen["rnn"] == (3, 1)
    assert layers_seen["rnn/lstm_cell"] == (12, 4)


def test_micro_batches_and_validation_are_counted_apart(tmp_path: Path) -> None:
    x, y = samples(8, 2), samples(8, 1)
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1)
        for _ in range(3):
            for _ in range(2):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean((model(x) - y) ** 2)
                gradients = tape.gradient(loss, model.trainable_variables)
            model(x)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    with read(tmp_path) as reader:
        (layer,) = reader.layers()
        (optimizer_row,) = reader.optimizers()
        (attempts,) = reader.attempts()
    assert (layer.calls, layer.calls_per_step) == (9, 2)
    assert optimizer_row.type == "SGD"
    assert (attempts.first, attempts.last, attempts.applied, attempts.scale) == (0, 2, True, None)


# Steps and the loss scale


@pytest.mark.parametrize("mode", MODES)
def test_skipped_steps_and_the_scale_in_force(tmp_path: Path, mode: str) -> None:
    weights = [1.0, numpy.inf, 1.0, 1.0, numpy.nan, numpy.inf, 1.0]
    with watched(tmp_path):
        layer = keras.layers.Dense(1)
        layer.build((None, 2))
        inner = keras.optimizers.SGD(0.01)
        optimizer = keras.optimizers.LossScaleOptimizer(
            inner, initial_scale=1024.0, dynamic_growth_steps=2
        )
        scales, applied = [], []

        def step(inputs, weight):
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_mean(layer(inputs)) * weight)
            variables = layer.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

        run = compiled(step, mode)
        for weight in weights:
            before = int(inner.iterations.numpy())
            scales.append(float(optimizer.dynamic_scale) if optimizer.built else 1024.0)
            run(tf.ones([4, 2]), tf.constant(weight))
            applied.append(int(inner.iterations.numpy()) > before)
        iterations = int(optimizer.iterations.numpy())
    with read(tmp_path) as reader:
        found = attempts(reader)
        kinds = [each.type for each in reader.optimizers()]
    assert kinds == ["LossScaleOptimizer"]
    assert applied == [True, False, True, True, False, False, True]
    assert found == dict(enumerate(zip(applied, scales, strict=True)))
    assert len(weights) - iterations == sum(state is False for state, _ in found.values())
    assert sorted(set(scales)) == [256.0, 512.0, 1024.0]


def test_attempts_are_counted_for_each_optimizer(tmp_path: Path) -> None:
    with watched(tmp_path):
        one, two = keras.layers.Dense(1), keras.layers.Dense(1)
        optimizers = [keras.optimizers.Adam(0.1), keras.optimizers.SGD(0.1)]

        @tf.function
        def step(inputs):
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_sum(two(one(inputs)))
            for layer, optimizer in zip((one, two), optimizers, strict=True):
                variables = layer.trainable_variables
                optimizer.apply(tape.gradient(loss, variables), variables)

        for _ in range(4):
            step(tf.ones([2, 3]))
    with read(tmp_path) as reader:
        kinds = [each.type for each in reader.optimizers()]
        rows = [(row.optimizer, row.first, row.last) for row in reader.attempts()]
    assert kinds == ["Adam", "SGD"]
    assert rows == [(0, 0, 3), (1, 0, 3)]


# Where it began


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_the_origin_of_an_overflow_and_not_what_passes_it_on(tmp_path: Path, mode: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    sizes = [1.0, 1.0, 300.0, 1.0]
    with watched(tmp_path):
        layers = [
            keras.layers.Dense(4, kernel_initializer="ones"),
            keras.layers.Dense(4, kernel_initializer=keras.initializers.Constant(64.0)),
            keras.layers.Dense(1, dtype="float32"),
        ]
        model = keras.Sequential(layers)
        model.build((None, 2))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0))

        def step(inputs):
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_mean(model(inputs)))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        run = compiled(step, mode)
        for size in sizes:
            run(tf.fill([2, 2], size))  # 300: 600 leaves the first layer, 153600 the second
    with read(tmp_path) as reader:
        incidents, problems = reader.incidents(), reader.problems()
    (incident,) = [each for each in incidents if each.kind.startswith("activation")]
    assert (incident.layer, incident.kind) == ("sequential/dense_1", "activation-overflow")
    assert (incident.first_step, incident.last_step, incident.judgement) == (2, 2, "defect")
    (problem,) = [each for each in problems if each.rule == "activation-overflow"]
    assert "first at step 2" in problem.message
    assert "the largest float16 is 65504" in problem.consequence
    assert (problem.moment.step, problem.moment.layer) == (2, "sequential/dense_1")
    row = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert "Constant(64.0)" in row


@pytest.mark.parametrize("mode", ["eager", "function"])
def test_calibration_of_the_loss_scale_is_benign(tmp_path: Path, mode: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1, dtype="float32")])
        model.build((None, 3))
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.001), initial_scale=2.0**20
        )

        def step(inputs):
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(tf.reduce_sum(model(inputs)))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        run = compiled(step, mode)
        for _ in range(8):
            run(tf.ones([2, 3]))
        applied = int(optimizer.iterations.numpy())
    with read(tmp_path) as reader:
        incidents, problems = reader.incidents(), reader.problems()
        skipped = [row.last for row in reader.attempts() if row.applied is False]
    assert 0 < applied < 8
    assert {(each.kind, each.judgement) for each in incidents} == {("gradient-overflow", "benign")}
    head, weights = sorted(incidents, key=lambda each: each.first_step)
    assert (head.layer, head.first_step) == ("sequential/dense_1", 0)
    assert (weights.layer, weights.last_step) == ("sequential/dense", max(skipped))
    assert head.last_step == weights.last_step - 1  # two rows of 2**15 overflow only as a sum
    assert problems == []


@pytest.mark.parametrize("mode", ["eager", "function", "fit"])
def test_a_loss_scale_that_falls_for_ever_is_a_finding(tmp_path: Path, mode: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")

    def spread(_, outputs):
        apart = outputs[:, None] - outputs[None]  # a row is at no distance from itself
        return -tf.reduce_mean(tf.sqrt(tf.reduce_sum(apart * apart, axis=-1)))

    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2, dtype="float32")])
        model.build((None, 3))
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

        def step(inputs):
            with tf.GradientTape() as tape:
                loss = optimizer.scale_loss(spread(None, model(inputs)))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        inputs = samples(4, 3)
        if mode == "fit":
            model.compile(optimizer, spread, jit_compile=False)
            model.fit(inputs, inputs, batch_size=4, epochs=24, verbose=0)
        else:
            run = compiled(step, mode)
            for _ in range(24):
                run(inputs)
        applied, scale = int(optimizer.iterations.numpy()), float(optimizer.dynamic_scale)
    assert (applied, scale) == (0, 2.0**15 / 2**24)
    with read(tmp_path) as reader:
        problems = [each for each in reader.problems() if each.rule == "loss-scale-collapse"]
        incidents = reader.incidents()
    (problem,) = problems
    assert (
        f"all 24 steps from step 0 on were skipped, the scale went from 32768 to {2 * scale:.3g}"
        in (problem.message)
    )
    row = Path(__file__).read_text(encoding="utf-8").splitlines()[problem.span.start.row - 1]
    assert ("model.fit(" if mode == "fit" else "apply_gradients(") in row
    assert {each.judgement for each in incidents} == {"defect"}


def test_bad_data_is_no_defect_of_a_layer(tmp_path: Path) -> None:
    with watched(tmp_path):
        layer = keras.layers.Dense(2)
        layer(tf.constant([[1.0, numpy.nan]]))
    with read(tmp_path) as reader:
        (incident,) = reader.incidents()
        assert reader.problems() == []
    assert (incident.kind, incident.judgement) == ("input-nonfinite", "from-data")


# Nothing changes


class BareSoftmax(keras.layers.Layer):
    """A softmax that Keras recognises only by its operation."""

    def call(self, inputs):
        return tf.nn.softmax(inputs)


def trained(mode: str) -> list[bytes]:
    """Weights and losses of one training, as bytes."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(11)
    keras.config.set_dtype_policy("mixed_float16")
    if mode == "logits":
        head = [keras.layers.Dense(4, dtype="float32", activation="softmax")]
    else:
        head = [keras.layers.Dense(4, dtype="float32"), BareSoftmax(dtype="float32")]
    recurrent = []
    if mode == "function":
        recurrent = [keras.layers.Reshape((4, 2)), keras.layers.RNN(keras.layers.LSTMCell(6))]
    body = [
        keras.layers.Dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
    ]
    model = keras.Sequential(body + recurrent + head)
    x, y = 40 * samples(64, 5), numpy.arange(64) % 4
    loss_of = keras.losses.SparseCategoricalCrossentropy()
    losses = []
    if mode in ("fit", "logits"):
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        history = model.fit(x, y, 16, epochs=2, verbose=0)
        losses = history.history["loss"]
    else:
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        model.build((None, 5))

        def step(inputs, targets):
            with tf.GradientTape() as tape:
                loss = loss_of(targets, model(inputs, training=True))
                scaled = optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            if mode == "xla":  # its random numbers differ from run to run
                return loss
            return loss + tf.reduce_sum(tf.random.normal([2]))  # the seeds of graphs count too

        run = compiled(step, mode)
        for begin in (*range(0, 64, 16), *range(0, 64, 16)):
            batch = tf.constant(x[begin : begin + 16]), tf.constant(y[begin : begin + 16])
            losses.append(float(run(*batch)))
    keras.config.set_dtype_policy("float32")
    return [numpy.array(losses).tobytes(), *(each.tobytes() for each in model.get_weights())]


@pytest.mark.parametrize(
    "mode",
    [
        "eager",
        pytest.param("function", marks=pytest.mark.slow),
        "xla",
        "fit",
        pytest.param("logits", marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_to_the_last_bit(tmp_path: Path, mode: str) -> None:
    plain = trained(mode)
    with watched(tmp_path):
        seen = trained(mode)
    with read(tmp_path) as reader:
        assert all(row.calls for row in reader.statistics())
        phases = {(row.layer, row.phase) for row in reader.statistics()}
    heads = {("sequential/dense", "forward"), ("sequential/dense", "backward")}
    assert heads | {("sequential/batch_normalization", "backward")} <= phases
    assert seen == plain


def test_a_graph_gets_a_few_operations_for_each_layer(tmp_path: Path) -> None:
    def operations(count: int) -> int:
        layers = [keras.layers.Dense(4) for _ in range(count)]

        @tf.function
        def step(inputs):
            with tf.GradientTape() as tape:
                for layer in layers:
                    inputs = layer(inputs)
                loss = tf.reduce_sum(inputs)
            variables = [each for layer in layers for each in layer.trainable_variables]
            return tape.gradient(loss, variables)

        return len(step.get_concrete_function(tf.TensorSpec([3, 4])).graph.get_operations())

    plain = operations(12) - operations(2)
    with watched(tmp_path):
        seen = operations(12) - operations(2)
    assert 0 < seen - plain <= 10 * 20  # two taps and an identity


def test_gradients_of_gradients_and_jacobians_still_work(tmp_path: Path) -> None:
    layer = keras.layers.Dense(3, activation="tanh")
    x = tf.constant(samples(4, 5))
    layer(x)

    def compute():
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x)
                total = tf.reduce_sum(y * y)
            penalty = tf.reduce_sum(inner.gradient(total, x) ** 2)
        return outer.gradient(penalty, layer.kernel.value), outer.jacobian(y, x)

    plain = [each.numpy() for each in (*compute(), *tf.function(compute)())]
    with watched(tmp_path):
        seen = [each.numpy() for each in (*compute(), *tf.function(compute)())]
    for one, other in zip(plain, seen, strict=True):  # the sums of second order associate otherwise
        numpy.testing.assert_allclose(other, one, rtol=1e-5)
    with read(tmp_path) as reader:
        assert ("dense", "backward") in numbers(reader)


def test_a_model_can_be_saved_exported_and_loaded(tmp_path: Path) -> None:
    x = samples(8, 3)
    with watched(tmp_path):
        model = keras.Sequential([keras.layers.Dense(2)])
        model.compile("sgd", "mse")
        model.fit(x, x[:, :2], verbose=0)
        expected = model.predict(x, verbose=0)
        model.save(tmp_path / "model.keras")
        model.export(str(tmp_path / "exported"), verbose=False)
        loaded = keras.models.load_model(tmp_path / "model.keras")
        served = tf.saved_model.load(str(tmp_path / "exported"))
        assert numpy.array_equal(loaded.predict(x, verbose=0), expected)
        assert numpy.allclose(served.serve(x), expected, rtol=1e-6)
    read(tmp_path).close()


def test_uninstalling_puts_everything_back(tmp_path: Path) -> None:
    places = [
        (keras.layers.Layer, "__call__"),
        (keras.layers.Layer, "__new__"),
        (keras.losses.Loss, "__call__"),
        (keras.losses.Loss, "__init__"),
        (keras.optimizers.Optimizer, "apply"),
        (keras.optimizers.Optimizer, "scale_loss"),
        (keras.optimizers.LossScaleOptimizer, "apply"),
        (keras.optimizers.LossScaleOptimizer, "scale_loss"),
        (tf.GradientTape, "gradient"),
        (type(tf.function(lambda: None)), "__call__"),
        (keras.src.backend.common.global_state, "set_global_attribute"),
    ]
    before = [vars(owner).get(name) for owner, name in places]
    x = tf.constant(samples(4, 2))
    with watched(tmp_path) as tracer:
        during = [vars(owner).get(name) for owner, name in places]
        layer = keras.layers.Dense(1)

        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x))
            return tape.gradient(loss, layer.kernel.value)

        first = step()
    after = [vars(owner).get(name) for owner, name in places]
    assert all(one is not other for one, other in zip(before, during, strict=True))
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert not tracer.draining
    assert numpy.array_equal(step(), first)
    keras.layers.Dense(1)(x)
    with read(tmp_path) as reader:
        assert [row.path for row in reader.layers()] == ["dense"]


class Hostile(keras.layers.Layer):
    """A layer that the probe cannot describe."""

    @property
    def path(self):
        raise RuntimeError("no path for you")

    def call(self, inputs):
        return inputs * 2.0


def test_a_fault_of_the_probe_is_recorded_and_not_raised(tmp_path: Path) -> None:
    with watched(tmp_path):
        assert numpy.array_equal(Hostile()(tf.ones([2])), [2.0, 2.0])
        with pytest.raises(ValueError, match="mine"):
            keras.layers.Lambda(_raise)(tf.ones([2]))
    with Reader(tmp_path / "run.mpa") as reader:
        assert reader.meta["probe_errors"] == ["layer entered: RuntimeError: no path for you"]


def _raise(_: object) -> None:
    raise ValueError("mine")


def test_the_probe_is_installed_once(tmp_path: Path) -> None:
    with watched(tmp_path) as tracer:
        install(tracer)()  # as for a script that imports tf_keras as well
        with tf.GradientTape():
            keras.layers.Dense(1)(tf.ones([2, 2]))
    with read(tmp_path) as reader:
        assert [row.calls for row in reader.layers()] == [1]
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
        assert reader.meta["versions"].items() >= versions.items()


def test_devices_may_still_be_set_up_after_the_import(tmp_path: Path) -> None:
    script = f"""
        import json
        from pathlib import Path
        import keras
        from mpaudit.runtime.keras.probe import install
        from mpaudit.runtime.tracer import Tracer
        tracer = Tracer(Path({str(tmp_path / "run.mpa")!r}))
        uninstall = install(tracer)
        import tensorflow as tf
        (cpu,) = tf.config.list_physical_devices("CPU")
        half = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [half, half])
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        with strategy.scope():
            model = keras.Sequential([keras.layers.Dense(1)])
            model.compile("sgd", "mse")
        model.fit(tf.ones([8, 2]), tf.ones([8, 1]), batch_size=4, verbose=0)
        uninstall()
        tracer.close(0)
        print(json.dumps(strategy.num_replicas_in_sync))
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == 2
    with Reader(tmp_path / "run.mpa") as reader:
        assert [row.path for row in reader.layers()] == ["sequential/dense"]
        assert reader.dtypes()["sequential/dense"]["output"] == ["float32"]
        assert reader.meta["probe_errors"] == []


# Events and findings


def script(folder: Path, text: str) -> Path:
    path = folder / "train.py"
    path.write_text(dedent(text), encoding="utf-8")
    return path


def execute(path: Path) -> None:
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    exec(code, {"__name__": "__main__"})


def line(path: Path, event: Event) -> str:
    return path.read_text(encoding="utf-8").splitlines()[event.at.start.row - 1].strip()


def spanned(path: Path, event: Event) -> str:
    """The text that an event's span covers, within one line."""
    row = path.read_text(encoding="utf-8").splitlines()[event.at.start.row - 1]
    assert event.at.start.row == event.at.end.row
    return row[event.at.start.column - 1 : event.at.end.column - 1]


def test_the_article_runs_in_float32_and_that_is_a_finding(tmp_path: Path) -> None:
    heard = Heard()
    with watched(tmp_path, heard):
        execute(ARTICLE)
    with read(tmp_path) as reader:
        dtypes, problems, attempts = reader.dtypes(), reader.problems(), reader.attempts()
    assert {name for flows in dtypes.values() for each in flows.values() for name in each} == {
        "float32"
    }
    assert list(dtypes) == ["sequential/dense", "sequential/dense_1"]
    assert [problem.rule for problem in problems] == ["no-mixed-precision"]
    assert "set_global_policy(policy)" in line(ARTICLE, problems_as_event(problems[0]))
    assert [(row.first, row.last, row.applied) for row in attempts] == [(0, 159, True)]
    kinds = [type(event) for event in heard.events]
    cycle = [LossComputed, TapeGradient, GradientsApplied]
    assert kinds == [LayerMade, LayerMade, ModelMade, PolicySet, *cycle, *cycle]
    made = heard.of(LayerMade)
    assert [(e.kind, e.policy, e.activation) for e in made] == [
        ("Dense", None, "relu"),
        ("Dense", None, "softmax"),
    ]
    assert line(ARTICLE, made[1]) == "tf.keras.layers.Dense(10, activation='softmax')"
    (model,) = heard.of(ModelMade)
    assert (model.layers, model.output) == ((made[0].layer, made[1].layer), (made[1].layer,))
    (policy,) = heard.of(PolicySet)
    assert policy.policy == "mixed_float16"
    loss = heard.of(LossComputed)[0]
    assert (loss.loss, loss.wants, loss.got) == (
        "SparseCategoricalCrossentropy",
        "logits",
        "softmax",
    )
    assert loss.shown == made[1].at
    gradient, applied = heard.of(TapeGradient)[1], heard.of(GradientsApplied)[1]
    assert gradient.model == model.model
    assert gradient.scaled_by == ()
    assert (applied.scales, applied.gradients) == (False, gradient.gradients)
    assert (applied.optimizer.text, gradient.loss.text) == ("optimizer", "loss")


def problems_as_event(problem) -> Event:
    return Event(at=problem.span)


CORRECTED = """
    import numpy
    import tensorflow as tf

    policy = tf.keras.mixed_precision.Policy('mixed_float16')
    tf.keras.mixed_precision.set_global_policy(policy)
    model = tf.keras.models.Sequential([
        tf.keras.layers.Dense(16, activation='relu'),
        tf.keras.layers.Dense(10, dtype='float32'),
    ])
    optimizer = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())
    loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x = numpy.random.default_rng(0).normal(size=(8, 12)).astype("float32")

    {decorator}
    def step(x, y):
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            loss = loss_fn(y, predictions)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    for _ in range(4):
        step(tf.constant(x), tf.range(8))
"""


@pytest.mark.parametrize("decorator", ["", "@tf.function", "@tf.function(jit_compile=True)"])
def test_the_corrected_script_is_mixed_with_a_float32_head(tmp_path: Path, decorator: str) -> None:
    path = script(tmp_path, CORRECTED.format(decorator=decorator))
    heard = Heard()
    with watched(tmp_path, heard):
        execute(path)
    with read(tmp_path) as reader:
        dtypes, problems, meta = reader.dtypes(), reader.problems(), reader.meta
        (attempts,) = reader.attempts()
    assert problems == []
    assert meta["policies"] == {
        "sequential/dense": {"policy": "mixed_float16", "compute": "float16"},
        "sequential/dense_1": {"policy": "float32", "compute": "float32"},
    }
    assert dtypes["sequential/dense"]["output"] == ["float16"]
    assert dtypes["sequential/dense_1"]["output"] == ["float32"]
    assert (attempts.last, attempts.applied, attempts.scale) == (3, True, 32768.0)
    kinds = [type(event) for event in heard.events]
    cycle = [LossComputed, LossScaled, TapeGradient, GradientsApplied]
    made = [PolicySet, LayerMade, LayerMade, ModelMade, OptimizerWrapped]
    assert kinds == [*made, *cycle, *cycle]
    (wrapped,) = heard.of(OptimizerWrapped)
    assert (wrapped.by_hand, wrapped.nested) == (True, False)
    assert [event.policy for event in heard.of(LayerMade)] == [None, "float32"]
    loss, scaled, gradient, applied = heard.events[5:9]
    assert (loss.wants, loss.got) == ("logits", "logits")
    assert gradient.scaled_by == (scaled.scaler,)
    assert applied.optimizer == scaled.scaler == wrapped.optimizer
    assert (applied.scales, applied.gradients) == (True, gradient.gradients)
    exact = sys.version_info >= (3, 11) or decorator
    expected = {
        loss: "loss_fn(y, predictions)",
        scaled: "optimizer.scale_loss(loss)",
        gradient: "tape.gradient(scaled, model.trainable_variables)",
        applied: "optimizer.apply_gradients(zip(gradients, model.trainable_variables))",
    }
    for event, text in expected.items():
        assert text in (spanned(path, event) if exact else line(path, event))
    if exact:
        assert spanned(path, gradient) == expected[gradient]


def test_a_loss_that_is_scaled_elsewhere_is_not_called_unscaled(tmp_path: Path) -> None:
    heard = Heard()
    with watched(tmp_path, heard):
        layer = keras.layers.Dense(1)
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        for scale in (False, True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(tf.ones([2, 2])))
                if scale:
                    loss = optimizer.scale_loss(loss) + 0.0
            variables = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
    unscaled, unknown = heard.of(TapeGradient)
    assert (unscaled.scaled_by, unknown.scaled_by) == ((), None)
    assert [event.scales for event in heard.of(GradientsApplied)] == [True, True]


def test_what_another_optimizer_scaled_and_applied_leaves_a_loss_known_as_unscaled(
    tmp_path: Path,
) -> None:
    """As in a GAN of which one half only is scaled; a loss that is scaled and lost leaves doubt."""
    heard = Heard()
    with watched(tmp_path, heard):
        layer = keras.layers.Dense(1)
        scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
        plain = keras.optimizers.SGD(0.1)
        for optimizer, lost in ((scaling, False), (plain, False), (plain, True), (plain, False)):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(tf.ones([2, 2])))
                if optimizer is scaling:
                    loss = scaling.scale_loss(loss)
                if lost:
                    loss = loss + 0.0 * scaling.scale_loss(loss)
            variables = layer.trainable_variables
            optimizer.apply(tape.gradient(loss, variables), variables)
    (wrapped,) = heard.of(OptimizerWrapped)
    scaled = [event.scaled_by for event in heard.of(TapeGradient)]
    assert scaled == [(wrapped.optimizer,), (), None, None]


def test_fit_scales_the_loss_by_itself(tmp_path: Path) -> None:
    heard = Heard()
    with watched(tmp_path, heard):
        keras.config.set_dtype_policy("mixed_float16")
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(4, activation="relu")(inputs)
        probabilities = keras.layers.Dense(2, activation="softmax")(hidden)
        model = keras.Model(
            inputs, keras.layers.Activation("linear", dtype="float32")(probabilities)
        )
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(samples(8, 3), numpy.arange(8) % 2, batch_size=4, epochs=2, verbose=0)
    with read(tmp_path) as reader:
        dtypes = reader.dtypes()
        (attempts,) = reader.attempts()
        layers = [(row.path, row.calls, row.calls_per_step) for row in reader.layers()]
    assert layers == [("dense", 4, 1), ("dense_1", 4, 1), ("activation", 4, 1)]
    assert [dtypes[path]["output"] for path, *_ in layers] == [
        ["float16"],
        ["float16"],
        ["float32"],
    ]
    assert (attempts.first, attempts.last, attempts.scale) == (0, 3, 32768.0)
    made = {event.layer: event for event in heard.of(LayerMade)}
    (model_made,) = heard.of(ModelMade)
    assert [made[ref].kind for ref in model_made.output] == ["Activation"]
    loss = heard.of(LossComputed)[0]
    assert (loss.loss, loss.wants, loss.got) == (
        "sparse_categorical_crossentropy",
        "softmax",
        "softmax",
    )
    gradient, applied = heard.of(TapeGradient)[0], heard.of(GradientsApplied)[0]
    assert gradient.scaled_by == (applied.optimizer,)
    (wrapped,) = heard.of(OptimizerWrapped)
    assert (wrapped.optimizer, wrapped.by_hand) == (applied.optimizer, False)
    assert applied.at.filename == __file__
    assert (
        "model.fit"
        in inspect.getsource(sys.modules[__name__]).splitlines()[applied.at.start.row - 1]
    )
