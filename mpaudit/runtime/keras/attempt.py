"""What a graph looks at in one attempt to step, gathered until it is worth an operation of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.python.framework import ops
from tensorflow.python.framework.auto_control_deps_utils import READ_ONLY_RESOURCE_INPUTS_ATTR

from mpaudit.runtime.keras.parcel import (
    Asked,
    Body,
    End,
    Once,
    Part,
    Together,
    alone_by,
    chosen,
    ended_by,
    nothing_of,
    whole_of,
)
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.recipe import OURS, ingredients, sums_many
from mpaudit.runtime.keras.shelf import Held
from mpaudit.runtime.keras.store import noted
from mpaudit.runtime.keras.switch import Switch, switches
from mpaudit.runtime.keras.tick import sampled_at, tick_of

_ATTEMPTS = "_mpaudit_attempts"
_MOST = 1 << 20  # bytes of tensors that wait for each other
_UNKNOWN = 64  # what is taken for a size that a graph does not know, of a batch as a rule
_ZERO = AttrValue(i=0)


class Look(NamedTuple):
    """A function, or a `Together`, that is there once, and what it is called with beside the tick: a
    tensor, or None, and handles. What a `Together` takes instead of None is what the last one of the handles,
    of a variable of dtype `reads`, holds."""

    body: Body | Together
    value: Any
    handles: Sequence[Held]
    reads: Any = None


class Attempt:
    """The part of an attempt to step that one graph computes.

    What is looked at in it is made when the graph does no more in this attempt, and how it uses each
    tensor is known. To the graph that is one more operation that uses it, whose insides TensorFlow
    does not mix with what is around, and the model trains to the same bits.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._switches = switches()
        self._waiting: list[Look] = []

    @classmethod
    def here(cls, key: object, ask: Callable[[], Asked]) -> Attempt:
        """That of the graph that is being traced, by what tells it from others of that graph."""
        held: dict[object, Attempt] = noted(_ATTEMPTS)
        if key not in held:
            with aside():
                held[key] = cls(ask())
        return held[key]

    @property
    def tick(self) -> Any:
        """As a tensor."""
        return self._asked.tick

    def look(self, look: Look) -> None:
        """Have this done as soon as its tensor is there."""
        self._waiting.append(look)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:  # this is its device
            self.flush()

    def flush(self, *, decides: bool = False) -> bool:
        """What waits has waited long enough; the attempt is over if it is to decide which one is looked
        at next. Gives whether there was anything."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return False
        end = End(self._asked.every, decides)
        with aside():
            parcels = list(_parcels(waiting))
            if len(parcels) == 1:
                self._made(parcels[0], end)
            else:
                given = (self._apart(parcels), self._asked.tick, self._asked.clock)
                chosen(self._asked.looks, ended_by(end), ended_by(None), given)
        return True

    def _apart(self, parcels: list[list[Look]]) -> Any:
        """Each made such that it waits for no other but those of the same places: a tensor that it waits
        for would live longer. Gives whether something is wrong in one of them."""
        if not self._switches:
            return tf.reduce_any(tf.stack(self._each(parcels, None)))
        measured, counted = _by_how_often(parcels)
        switch = Switch(self._asked)
        wrong = switch.joined(self._each(measured, switch)) if measured else None
        if not counted:
            return wrong
        # each switch is joined in each attempt: what is passed over makes nothing else be so
        asked = self._asked._replace(looks=switch.joined([sampled_at(switch.asked.tick)]))
        counts = Switch(asked)
        found = counts.joined(self._each(counted, counts))
        return found if wrong is None else found | wrong

    def _each(self, parcels: list[list[Look]], switch: Switch | None) -> list[Any]:
        """Whether something is wrong in each."""
        last: dict[object, Any] = {}
        wrong = []
        for together in parcels:
            places = _places(together)
            with tf.control_dependencies([last[each] for each in places if each in last]):
                found = self._made(together, None, switch)
            _reads_only(found.op)
            last.update((each, found.op) for each in places)
            wrong.append(found)
        return wrong

    def look_now(self, looks: list[Look]) -> None:
        """Have this done before what the graph does next."""
        with aside():
            self._made(looks, None)

    def _made(self, together: list[Look], end: End | None, switch: Switch | None = None) -> Any:
        graph = tf.compat.v1.get_default_graph()
        asked = self._asked if switch is None else switch.asked
        parts, rows = list[Part](), dict[tuple[int, int], int]()
        tensors, handles = Once(), Once()
        for body, value, taken, reads in together:
            terms, plan = ([], None) if value is None else ingredients(value)
            dtype = reads if value is None else value.dtype
            captured = [graph.capture(each.resource) for each in taken]
            used = handles.numbers(captured if switch is None else map(switch.copy, captured))
            places = [(n, each.first) for n, each in zip(used, taken, strict=True)]
            numbers = tuple(rows.setdefault(each, len(rows)) for each in places)
            parts.append(Part(body, dtype, tensors.numbers(terms), plan, used, numbers))
        if end is not None:
            handles.numbers([asked.clock])
        dtypes = tuple(each.dtype for each in tensors)
        given = (*tensors, _constant(first for _, first in rows), asked.tick, *handles)
        ways = whole_of(tuple(parts), dtypes, end), nothing_of(dtypes, len(handles))
        return chosen(asked.looks, *ways, given, unordered=switch is not None)


def _reads_only(operation: Any) -> None:
    """TensorFlow does not order it among those that use the same resources."""
    resources = [n for n, each in enumerate(operation.inputs) if each.dtype == tf.resource]
    ops.set_int_list_attr(operation, READ_ONLY_RESOURCE_INPUTS_ATTR, resources)


def look_alone(every: int, clock: Any, look: Look) -> Any:
    """Have this done in a graph of which no attempt is known; gives what something has to wait for."""
    body, value, handles, _ = look
    with aside():
        terms, plan = ingredients(value)
        numbers = tuple(range(len(terms))), tuple(range(len(handles)))
        part = Part(body, value.dtype, numbers[0], plan, numbers[1], numbers[1])
        rows = _constant(each.first for each in handles)
        return alone_by(every, part)(*terms, rows, clock, *(each.resource for each in handles))


def _constant(rows: Iterable[int]) -> Any:
    with tf.control_dependencies(None):  # it waits for nothing
        return tf.constant(list(rows), tf.int64)


def decide_alone(clock: Any, every: int) -> None:
    """Have it decided which attempt is looked at next, where nothing else is done at the end of one."""
    with aside():
        ended_by(End(every, True))(tf.constant(False), tick_of(clock), clock)


def timeless() -> AbstractContextManager[None]:
    """What is made in a graph within this takes no time, where TensorFlow estimates what a graph does.

    It estimates when which tensors are in memory, and adds up many tensors in another order if they are
    there when most memory is in use. That depends on each operation before, to the microsecond.
    """
    if tf.executing_eagerly():
        return nullcontext()
    scope = tf.compat.v1.get_default_graph()._attr_scope({"_execution_count": _ZERO})
    return cast("AbstractContextManager[None]", scope)


@contextmanager
def aside() -> Iterator[None]:
    """What is made in a graph within this is on no tape, and no tensor lives longer for it: of what is
    ready at the same time, TensorFlow's estimate takes what comes first by name."""
    from tensorflow.python.eager import record

    graph = tf.compat.v1.get_default_graph()
    with record.stop_recording(), graph.name_scope(f"{OURS}/"), timeless():
        yield


def flush(*, decides: bool = False) -> bool:
    """The graph that is being traced does no more in its attempts; what comes is of the next one.

    Gives whether that has been decided, if asked, of an attempt of one replica.
    """
    held: dict[object, Attempt] = noted(_ATTEMPTS)
    alone = decides and len(held) == 1
    done = [attempt.flush(decides=alone) for attempt in held.values()]
    held.clear()
    return alone and all(done)


class Ends:
    """Sees to it that what waits in a graph is looked at when the graph is complete."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def install(self) -> None:
        """TensorFlow puts the operations of a graph in order then."""
        from tensorflow.python.framework.auto_control_deps import AutomaticControlDependencies

        self._patches.wrap(AutomaticControlDependencies, "__exit__", self._around_exit)

    def _around_exit(self, original: Call) -> Call:
        def exit_(order: Any, kind: Any, error: Any, trace: Any) -> Any:
            if kind is None and not tf.executing_eagerly():
                with self._patches.guarded("the end of a graph"):
                    flush()
            return original(order, kind, error, trace)

        return exit_


def _parcels(looks: list[Look]) -> Iterator[list[Look]]:
    """What is looked at together: calling a function in each step costs more than a small tensor is
    worth, but all of them live until the last one is there.

    TensorFlow adds up many tensors in another order if they are there when most memory is in use, as
    it estimates: in a graph where it might, each one is looked at as soon as it is there.
    """
    together: list[Look] = []
    size = 0
    apart = sums_many(tf.compat.v1.get_default_graph())
    of_one: dict[int, list[Look]] = {}
    for look in looks:
        of_one.setdefault(id(look.value), []).append(look)
    for each in of_one.values():
        large = _size(each[0].value)
        if large and (apart or large > _MOST):
            yield each
            continue
        if size + large > _MOST:
            yield together
            together, size = [], 0
        together += each
        size += large
    if together:
        yield together


def _places(looks: Iterable[Look]) -> list[tuple[int, Any]]:
    """Where they keep what they find."""
    return [(id(held.resource), held.first) for look in looks for held in look.handles]


def _by_how_often(parcels: list[list[Look]]) -> tuple[list[list[Look]], list[list[Look]]]:
    """Those of each attempt that is looked at, and those in which there is nothing but numbers to count: a
    function that finds nothing to do takes as long as a small tensor.

    What keeps something at the same place is done in turn, and goes with the first ones.
    """
    measured, counted = list[list[Look]](), list[list[Look]]()
    for each in parcels:
        (counted if all(_counts(look.body) for look in each) else measured).append(each)
    taken = {place for each in measured for place in _places(each)}
    apart = list[list[Look]]()
    for each in counted:
        (apart if taken.isdisjoint(_places(each)) else measured).append(each)
    return measured, apart


def _counts(body: Body | Together) -> bool:
    """Whether it does something in attempts only in which numbers are counted."""
    return callable(body) or body.sampled


def _size(tensor: Any) -> int:
    """In bytes, as far as the graph knows; None has none."""
    if tensor is None:
        return 0
    if tensor.shape.rank is None:
        return _MOST + 1
    sizes = (_UNKNOWN if each is None else each for each in tensor.shape)
    return int(math.prod(sizes) * tensor.dtype.size)
