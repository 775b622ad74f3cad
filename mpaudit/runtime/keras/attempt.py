"""What a graph looks at in one attempt to step, gathered until it is worth an operation of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NamedTuple, cast

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue

from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.recipe import OURS, Plan, ingredients, made, sums_many
from mpaudit.runtime.keras.store import noted

_ATTEMPTS = "_mpaudit_attempts"
_MOST = 1 << 20  # bytes of tensors that wait for each other
_UNKNOWN = 64  # what is taken for a size that a graph does not know, of a batch as a rule
_ZERO = AttrValue(i=0)
_HANDLE, _TICK = tf.TensorSpec([], tf.resource), tf.TensorSpec([], tf.int64)

Body = Callable[..., Any]
"""What is done with a tensor that is looked at, the tick, and handles of resources; it gives whether
something is wrong."""


class Asked(NamedTuple):
    """What a graph knows of an attempt: whether it is looked at (None if all are), its tick, and what is
    to be told whether something is wrong."""

    looks: Any
    tick: Any
    alarm: Callable[[Any], Any] | None


class Look(NamedTuple):
    """A function that is there once, and what it is called with beside the tick: a tensor, or None, and
    handles."""

    body: Body
    value: Any
    handles: Sequence[Any]


class Attempt:
    """The part of an attempt to step that one graph computes.

    What is looked at in it is made when the graph does no more in this attempt, and how it uses each
    tensor is known. To the graph that is one more operation that uses it, whose insides TensorFlow
    does not mix with what is around, and the model trains to the same bits.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._waiting: list[Look] = []

    @classmethod
    def here(cls, key: object, ask: Callable[[], Asked]) -> Attempt:
        """That of the graph that is being traced, by what tells it from others of that graph."""
        held: dict[object, Attempt] = noted(_ATTEMPTS)
        if key not in held:
            with aside():
                held[key] = cls(ask())
        return held[key]

    def look_now(self, looks: list[Look]) -> None:
        """Have this done before what the graph does next."""
        with aside():
            self._made(looks)

    def look(self, look: Look) -> None:
        """Have this done as soon as its tensor is there."""
        self._waiting.append(look)
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:  # this is its device
            self.flush()

    def flush(self) -> None:
        """What waits has waited long enough."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            with aside():
                wrong = [self._made(together) for together in _parcels(waiting)]
                if self._asked.alarm is not None:
                    self._asked.alarm(tf.reduce_any(tf.stack(wrong)))

    def _made(self, together: list[Look]) -> Any:
        from tensorflow.python.ops import cond_v2, control_flow_util_v2

        graph = tf.compat.v1.get_default_graph()
        parts, tensors = [], []
        handles: list[Any] = []
        numbers: dict[
            int, int
        ] = {}  # of handles, each once: to XLA, one given twice are two things
        for body, value, taken in together:
            terms, plan = ([], None) if value is None else ingredients(value)
            tensors += terms
            inside = [graph.capture(each) for each in taken]
            for each in inside:
                if id(each) not in numbers:
                    numbers[id(each)] = len(handles)
                    handles.append(each)
            dtype = tf.bool if value is None else value.dtype
            part = _part(body, dtype, len(terms), plan, len(taken))
            parts.append((part, len(terms), tuple(numbers[id(each)] for each in inside)))
        dtypes = tuple(each.dtype for each in tensors)
        given, whole = (*tensors, self._asked.tick, *handles), _whole(tuple(parts), dtypes)
        if self._asked.looks is None:
            return whole(*given)
        branches = {"then_branch": whole, "else_branch": _nothing(dtypes, len(handles))}
        (wrong,) = tf.raw_ops.If(cond=self._asked.looks, input=given, Tout=[tf.bool], **branches)
        control_flow_util_v2.maybe_set_lowering_attr(wrong.op, False)
        graphs = [each.graph for each in branches.values()]
        cond_v2._set_read_only_resource_inputs_attr(wrong.op, graphs)
        return wrong


def look_alone(ask: Callable[..., Asked], clock: Sequence[Any], look: Look) -> Any:
    """Have this done in a graph of which no attempt is known; gives what something has to wait for.

    `ask` makes of the handles of a clock what is known of the attempt.
    """
    body, value, handles = look
    with aside():
        terms, plan = ingredients(value)
        function = _alone(ask, len(clock), body, value.dtype, len(terms), plan, len(handles))
        return function(*terms, *clock, *handles)


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


def flush() -> None:
    """The graph that is being traced does no more in its attempts; what comes is of the next one."""
    held: dict[object, Attempt] = noted(_ATTEMPTS)
    for attempt in held.values():
        attempt.flush()
    held.clear()


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
    for look in looks:
        large = _size(look.value)
        if apart or large > _MOST:
            yield [look]
            continue
        if size + large > _MOST:
            yield together
            together, size = [], 0
        together.append(look)
        size += large
    if together:
        yield together


def _size(tensor: Any) -> int:
    """In bytes, as far as the graph knows."""
    if tensor.shape.rank is None:
        return _MOST + 1
    sizes = (_UNKNOWN if each is None else each for each in tensor.shape)
    return int(math.prod(sizes) * tensor.dtype.size)


def _traced(function: Body, specs: Sequence[Any], *, inlined: bool) -> Any:
    """`function` as one operation for any graph: traced once, for arguments of these specs."""
    attributes = {"_noinline": not inlined}
    with tf.init_scope():
        whole = tf.function(function, autograph=False, experimental_attributes=attributes)
        return whole.get_concrete_function(*specs)


@cache
def _part(body: Body, dtype: Any, terms: int, plan: Plan | None, handles: int) -> Any:
    """`body` for the terms of a value, traced once for all tensors: a graph is built thirty times
    faster than by calling it for each."""

    def part(*given: Any) -> Any:
        value = None if plan is None else made(plan, given[:terms])
        return body(value, *given[terms:])

    specs = [*[tf.TensorSpec(None, dtype)] * terms, _TICK, *[_HANDLE] * handles]
    return _traced(part, specs, inlined=True)


@cache
def _whole(parts: tuple[tuple[Any, int, tuple[int, ...]], ...], dtypes: tuple[Any, ...]) -> Any:
    """Parts, each with how many tensors it takes and which handles, as one function."""
    tensors = len(dtypes)

    def whole(*given: Any) -> Any:
        each, tick, handles = iter(given[:tensors]), given[tensors], given[tensors + 1 :]
        wrong = [
            part(*(next(each) for _ in range(count)), tick, *(handles[n] for n in numbers))
            for part, count, numbers in parts
        ]
        return tf.reduce_any(tf.stack(wrong))

    handles = 1 + max((n for _, _, numbers in parts for n in numbers), default=-1)
    specs = [*(tf.TensorSpec(None, dtype) for dtype in dtypes), _TICK, *[_HANDLE] * handles]
    return _traced(whole, specs, inlined=False)


@cache
def _nothing(dtypes: tuple[Any, ...], handles: int) -> Any:
    specs = [*(tf.TensorSpec(None, dtype) for dtype in dtypes), _TICK, *[_HANDLE] * handles]
    return _traced(lambda *given: tf.constant(False), specs, inlined=True)  # noqa: ARG005


@cache
def _alone(
    ask: Any, clock: int, body: Body, dtype: Any, terms: int, plan: Plan, handles: int
) -> Any:
    part = _part(body, dtype, terms, plan, handles)

    def alone(*given: Any) -> Any:
        asked = ask(*given[terms : terms + clock])

        def call() -> Any:
            return part(*given[:terms], asked.tick, *given[terms + clock :])

        if asked.looks is None:
            return call()
        wrong = tf.cond(asked.looks, call, lambda: tf.constant(False))
        asked.alarm(wrong)
        return wrong

    specs = [*[tf.TensorSpec(None, dtype)] * terms, *[_HANDLE] * (clock + handles)]
    return _traced(alone, specs, inlined=False)
