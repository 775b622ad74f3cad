"""`mpaudit.keras.Callback()` in a real `fit`: what `mpaudit.trace` around it would have seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import mpaudit  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

X = numpy.random.default_rng(0).normal(size=(24, 6)).astype("float32")


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from tensorflow.python.framework import config

    monkeypatch.chdir(tmp_path)
    config.enable_op_determinism()
    yield
    keras.config.set_dtype_policy("float32")
    config.disable_op_determinism()


def model() -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(2)
    keras.config.set_dtype_policy("mixed_float16")
    found = keras.Sequential([keras.layers.Dense(5), keras.layers.Dense(1, dtype="float32")])
    inner = keras.optimizers.SGD(0.1)
    found.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=256.0), "mse")
    found.build((None, 6))
    return found


def fit(trained: Any, *callbacks: Any) -> list[float]:
    history = trained.fit(X, X[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    return [float(each) for each in history.history["loss"]]


def test_each_fit_is_watched_whole_and_nothing_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, ours, before = model(), model(), keras.layers.Layer.__call__
    callback = mpaudit.keras.Callback("fit.mpa")
    for number in range(3):  # the last is not watched
        expected = fit(plain)
        assert fit(ours, *([callback] if number < 2 else [])) == expected
        for one, other in zip(plain.get_weights(), ours.get_weights(), strict=True):
            assert numpy.array_equal(one, other)
    assert callback.path == tmp_path / "fit.mpa"
    assert "mpaudit report fit.mpa" in capsys.readouterr().err
    assert keras.layers.Layer.__call__ is before
    with Reader(callback.path) as trace:
        calls = {each.path: each.calls for each in trace.layers()}
        assert list(calls.values()) == [6, 6]
        (attempts,) = trace.attempts()
        assert (attempts.last, attempts.applied, attempts.scale) == (5, True, 256.0)
        losses = trace.meta["losses"]["means"]
        assert numpy.mean(losses[3:]) == pytest.approx(expected_second(), rel=1e-5)
        assert (trace.meta["complete"], trace.meta["probe_errors"]) == (True, [])
        assert trace.meta["overhead"]["seconds"] > 0
        first, second = (trace.dtypes()[path]["output"] for path in calls)
    assert (first, second) == (["float16"], ["float32"])


def expected_second() -> float:
    """The loss of the second epoch of a second `fit`."""
    trained = model()
    fit(trained)
    return fit(trained)[1]


def test_a_fit_that_fails_leaves_a_trace_and_room_for_the_next(tmp_path: Path) -> None:
    class Fails(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            raise RuntimeError("mine")

    trained = model()
    with pytest.raises(RuntimeError, match="mine"):
        fit(trained, mpaudit.keras.Callback("one.mpa"), Fails())
    fit(trained, mpaudit.keras.Callback("two.mpa"))
    for name, steps in (("one", 1), ("two", 6)):
        with Reader(tmp_path / f"{name}.mpa") as trace:
            assert [each.last + 1 for each in trace.attempts()] == [steps]


def test_within_a_trace_it_leaves_the_run_to_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mpaudit.trace("outer.mpa"):
        fit(model(), callback := mpaudit.keras.Callback("inner.mpa"))
    assert "this run is watched already" in capsys.readouterr().err
    assert callback.path is None
    assert not (tmp_path / "inner.mpa").exists()
    with Reader(tmp_path / "outer.mpa") as trace:
        assert [each.last + 1 for each in trace.attempts()] == [6]
