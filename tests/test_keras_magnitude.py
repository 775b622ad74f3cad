"""The largest magnitude of a tensor in a graph, found as integers, and its zeros, counted in a sample."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from keras_watched import compiled, ended

tf = pytest.importorskip("tensorflow")

from mpaudit.runtime.keras.clock import Clock  # noqa: E402
from mpaudit.runtime.keras.taps import Numbers, Tap  # noqa: E402
from mpaudit.runtime.octaves import SAMPLE  # noqa: E402

DTYPES = ["float16", "bfloat16", "float32", "float64"]
GRAPHS = ["function", "xla"]
NAN, INF = float("nan"), float("inf")


def found(values: Any, dtype: str, mode: str) -> Numbers:
    """What a tap says of a tensor; a second, ordinary one makes sure that there is something."""
    tap = Tap(Clock(), dtype)
    tensor = tf.constant(values, dtype)
    compiled(ended(lambda given: tap.note(given)), mode)(tensor)
    numbers = tap.read()
    assert numbers is not None
    return numbers


@pytest.mark.parametrize("mode", GRAPHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_magnitude_is_that_of_either_sign(mode: str, dtype: str) -> None:
    for values, amax in [
        ([1.0, -3.0, 2.0], 3.0),
        ([-1.0, 3.0, -2.0], 3.0),
        ([-5.0, -0.5, -4.0], 5.0),
        ([-0.0, -0.0], 0.0),
        ([0.0, -0.0, 0.0], 0.0),
        ([2.0**-20, -(2.0**-18)], 2.0**-18),
    ]:
        numbers = found(values, dtype, mode)
        assert (numbers.amax, numbers.inf, numbers.nan) == (amax, 0, 0), values
        assert numbers.zeros == sum(each == 0 for each in values)


@pytest.mark.parametrize("mode", GRAPHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_counted_whatever_its_sign(mode: str, dtype: str) -> None:
    for values, amax, inf, nan in [
        ([1.0, -INF], 1.0, 1, 0),
        ([INF, -INF, -7.0], 7.0, 2, 0),
        ([-NAN, 2.0], 2.0, 0, 1),
        ([NAN, INF], None, 1, 1),
    ]:
        given = numpy.array(values)
        if numpy.isnan(given).any():  # of both signs: -nan keeps its own as bits
            given = numpy.copysign(given, [-1.0, 1.0])
        numbers = found(given, dtype, mode)
        assert (numbers.amax, numbers.inf, numbers.nan) == (amax, inf, nan), values
        assert (numbers.first_bad, numbers.last_bad) == (0, 0)


@pytest.mark.parametrize("mode", GRAPHS)
def test_a_tensor_without_elements_has_no_magnitude(mode: str) -> None:
    numbers = found(numpy.zeros([0], "float32"), "float32", mode)
    assert (numbers.amax, numbers.elements, numbers.zeros_of) == (None, 0, 0)


@pytest.mark.parametrize("mode", GRAPHS)
def test_zeros_of_a_large_tensor_are_counted_in_a_sample(mode: str) -> None:
    random = numpy.random.default_rng(1)
    values = random.normal(size=20 * SAMPLE + 3).astype("float32")
    values[random.random(values.size) < 0.3] = 0.0
    numbers = found(values, "float32", mode)
    assert (numbers.elements, numbers.zeros_of) == (values.size, SAMPLE)
    share = numpy.count_nonzero(values == 0) / values.size
    spread = (share * (1 - share) / SAMPLE) ** 0.5
    assert abs(numbers.zeros / numbers.zeros_of - share) < 4 * spread
    assert numbers.amax == abs(values).max()


def test_subnormal_numbers_are_no_zeros() -> None:
    values = numpy.array([1e-40, -1e-45, 0.0, 1.0], "float32")
    numbers = found(values, "float32", "function")
    assert (numbers.zeros, numbers.zeros_of) == (1, 4)
