"""Places on shared resources: each holds its own, and all of them are read at once."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy
import pytest
from keras_watched import numbers, read, samples, under, watched

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit.runtime.keras.shelf import Place, Shelf  # noqa: E402
from mpaudit.runtime.keras.sweep import at_once  # noqa: E402

START = numpy.array([[1.0, 2.0], [3.0, 4.0]])
ROOM = 64


def shelved(count: int) -> tuple[Shelf, list[Place]]:
    shelf = Shelf(START)
    return shelf, [shelf.place() for _ in range(count)]


def put(place: Place, number: float) -> None:
    """Write to both rows of a place, as a graph does."""
    held = place.here

    @tf.function
    def write() -> None:
        rows = tf.constant([held.first, held.first + 1], tf.int64)
        updates = tf.fill([2, 2], tf.constant(number, tf.float64))
        tf.raw_ops.ResourceScatterUpdate(resource=held.resource, indices=rows, updates=updates)

    write()


def test_places_share_a_resource_until_it_is_full() -> None:
    _, places = shelved(ROOM + 3)
    resources = [id(place.here.resource) for place in places]
    assert len(set(resources[:ROOM])) == 1
    assert set(resources[ROOM:]).isdisjoint(resources[:ROOM])
    assert [place.here.first for place in places[:3]] == [0, 2, 4]
    assert [place.here.first for place in places[ROOM:]] == [0, 2, 4]


def test_a_place_is_read_with_those_beside_it() -> None:
    _, places = shelved(3)
    for number, place in enumerate(places):
        put(place, 10.0 + number)
    (found,) = places[1].swept(lambda held: held * 2)
    assert found.tolist() == [[11.0, 11.0]] * 2
    left = [place.swept(lambda held: held)[0].tolist() for place in places]
    assert left == [[[20.0] * 2] * 2, [[22.0] * 2] * 2, [[24.0] * 2] * 2]


@pytest.mark.parametrize("places", [3, ROOM + 2])
def test_all_are_read_at_once_and_begin_again(places: int) -> None:
    _, held = shelved(places)
    for number, place in enumerate(held):
        put(place, float(number))

    def begin(rows: Any) -> Any:
        return numpy.broadcast_to(START, rows.shape)

    with at_once():
        (first,) = held[0].swept(begin)
        put(held[1], -1.0)  # comes too late, and is found the next time
        found = [first, *(place.swept(begin)[0] for place in held[1:])]
    assert [each.tolist() for each in found] == [[[float(n)] * 2] * 2 for n in range(places)]
    (late,) = held[1].swept(begin)
    assert late.tolist() == [[-1.0] * 2] * 2
    for place in held:
        assert place.swept(begin)[0].tolist() == START.tolist()


def test_a_resource_lives_as_long_as_a_place_of_it() -> None:
    shelf, places = shelved(ROOM)
    resource = weakref.ref(places[0].here.resource)
    shelf.place()  # on another one: the shelf keeps the first no more
    last = places.pop()
    places.clear()
    gc.collect()
    assert resource() is not None
    assert last.here.first == 2 * (ROOM - 1)
    del last
    gc.collect()
    assert resource() is None


def deep(count: int) -> tuple[Any, list[float]]:
    """A model of `count` layers that multiply by factors of their own; what becomes of 1 in each."""
    factors = [2.0 if n % 3 else 0.25 for n in range(count)]
    layers = [keras.layers.Rescaling(factor, name=f"by{n}") for n, factor in enumerate(factors)]
    head = keras.layers.Dense(1, kernel_initializer="ones", name="head")
    model = keras.Sequential([keras.Input((4,)), *layers, head])
    model.compile(keras.optimizers.SGD(0.0), "mean_squared_error")
    return model, numpy.cumprod(factors).tolist()


def test_each_of_many_layers_has_numbers_of_its_own(tmp_path: Path) -> None:
    """More of them than there is room for on one resource."""
    given = samples(8, 4)
    with under("float32", seed=0), watched(tmp_path):
        model, products = deep(ROOM + 6)
        model.fit(given, tf.zeros([8, 1]), batch_size=4, verbose=0)
    with read(tmp_path) as reader:
        found = numbers(reader)
    for number, product in enumerate(products):
        row = found[f"sequential/by{number}", "forward"]
        assert row.amax == pytest.approx(abs(given).max() * product, rel=1e-6)
        assert (row.calls, row.elements) == (2, given.size)


def executed(work: Any) -> int:
    """How many operations of eager mode are executed."""
    from tensorflow.python.framework import op_callbacks

    found = []

    def count(kind: Any, *_: Any, **__: Any) -> None:
        found.append(kind)

    op_callbacks.add_op_callback(count)
    try:
        work()
    finally:
        op_callbacks.remove_op_callback(count)
    return len(found)


def test_what_many_layers_hold_is_read_with_few_operations(tmp_path: Path) -> None:
    """Also where numbers were counted since the last time."""
    found = []
    for count in (4, ROOM - 10):
        where = tmp_path / str(count)
        where.mkdir()
        with under("float32", seed=0), watched(where) as tracer:
            model, _ = deep(count)
            for _ in range(4):  # numbers are counted in steps 0 to 2 and 4
                model.fit(samples(8, 4), tf.zeros([8, 1]), verbose=0)
            tracer.flush()
            nothing = executed(tracer.flush)
            model.fit(samples(8, 4), tf.zeros([8, 1]), verbose=0)
            found.append((nothing, executed(tracer.flush)))
    (less, counted), (more, counted_of_more) = found
    assert less < 40
    assert more - less <= 8  # those of another resource or two
    assert counted - less <= 8
    assert (
        counted_of_more - counted <= 40
    )  # histograms are large: there is room for thirteen on one
