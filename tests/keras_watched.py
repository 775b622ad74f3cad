"""Running a piece of training under the Keras probe: what the tests of the probe share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.event import Event  # noqa: E402
from mpaudit.protocols.protocol import Protocol, Verdict  # noqa: E402
from mpaudit.runtime.advice import Advice  # noqa: E402
from mpaudit.runtime.keras.attempt import flush  # noqa: E402
from mpaudit.runtime.keras.probe import install  # noqa: E402
from mpaudit.runtime.record import Statistics  # noqa: E402
from mpaudit.runtime.sampling import Sampling  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402
from mpaudit.runtime.tracer import Tracer  # noqa: E402

if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend", allow_module_level=True)

EVERY_STEP = Sampling(every=1)
MODES = ["eager", "function", "xla"]


@contextmanager
def under(policy: str, *, seed: int) -> Iterator[None]:
    """Keras 3 as at the start of a script with this policy and seed."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


class Heard(Protocol):
    """A protocol that only listens."""

    __slots__ = ("events",)

    takes = (Event,)

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def feed(self, event: Event) -> Iterator[Verdict]:
        self.events.append(event)
        return iter(())

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]


@contextmanager
def watched(
    folder: Path,
    *machines: Protocol,
    sampling: Sampling = EVERY_STEP,
    remedy: Advice | None = None,
) -> Iterator[Tracer]:
    """The probe around a piece of code; the trace lies in `folder` afterwards."""
    tracer = Tracer(folder / "run.mpa", machines, sampling)
    uninstall = install(tracer, None, remedy)
    try:
        yield tracer
    finally:
        uninstall()
        tracer.close(0)


def read(folder: Path) -> Reader:
    """The trace, in which no probe complains."""
    reader = Reader(folder / "run.mpa")
    assert reader.meta["probe_errors"] == [], reader.meta["probe_errors"]
    return reader


def numbers(reader: Reader) -> dict[tuple[str, str], Statistics]:
    return {(row.layer, row.phase): row for row in reader.statistics()}


def attempts(reader: Reader) -> dict[int, tuple[bool | None, float | None]]:
    """Of each step, whether it was applied, and the loss scale in force."""
    rows = reader.attempts()
    return {n: (row.applied, row.scale) for row in rows for n in range(row.first, row.last + 1)}


def compiled(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")


def ended(note: Callable[..., Any]) -> Callable[..., None]:
    """`note`, and that the graph it is in does no more, which the probe sees."""

    def both(*given: Any) -> None:
        note(*given)
        if not tf.executing_eagerly():
            flush()

    return both


def samples(count: int, *shape: int) -> Any:
    return numpy.random.default_rng(3).normal(size=(count, *shape)).astype("float32")


def octaves(values: Any) -> Counter[int]:
    """Exponent to count, by frexp in float64."""
    exact = numpy.abs(numpy.asarray(values, numpy.float64).reshape(-1))
    finite = exact[numpy.isfinite(exact) & (exact > 0)]
    return Counter((numpy.frexp(finite)[1] - 1).tolist())


def batches(arrays: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for begin in range(0, len(arrays[0]), size):
        yield [tf.constant(array[begin : begin + size]) for array in arrays]
