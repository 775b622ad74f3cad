"""What is done with the tensors that are looked at together: functions that are traced once.

Each is one operation to the graph that looks: its insides are not mixed with what is around.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from mpaudit.runtime.keras.recipe import Plan, made
from mpaudit.runtime.keras.shelf import Held
from mpaudit.runtime.keras.tick import alarmed, decided, sampled_at, state_of

_HANDLE, _TICK = tf.TensorSpec([], tf.resource), tf.TensorSpec([], tf.int64)
_ROWS = tf.TensorSpec([None], tf.int64)

Body = Callable[..., Any]
"""What is done with a tensor in a sampled attempt: it is called with that, the tick, and handles of
resources, and gives what has to be run."""


class Member(NamedTuple):
    """One of the tensors that are looked at together: itself, flat; what was found in it alone; handles."""

    value: Any
    found: Sequence[Any]
    handles: Sequence[Held]


class Together(Protocol):
    """What is done with tensors in each attempt that is looked at, or `sampled`, with all of a graph at
    once."""

    sampled: bool

    def alone(self, value: Any) -> Sequence[Any]:
        """What is found in one of them, flat."""
        ...

    def __hash__(self) -> int:
        """Each is there once."""
        ...

    def all(self, tick: Any, members: Sequence[Member]) -> Any:
        """Keep what was found; gives whether something is wrong."""
        ...


class Asked(NamedTuple):
    """What a graph knows of an attempt: whether it is looked at, its tick, the resource of the clock, and
    of how many attempts one is looked at."""

    looks: Any
    tick: Any
    clock: Any
    every: int

    @classmethod
    def of(cls, clock: Any, every: int) -> Asked:
        """What the resource of a clock says."""
        state = state_of(clock)
        return cls(state[0] >= state[1], state[0], clock, every)


class Once(list[Any]):
    """Tensors, each of which is there once: to XLA, a handle that is given twice is two things."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers: dict[int, int] = {}

    def numbers(self, tensors: Iterable[Any]) -> tuple[int, ...]:
        """Where some of them are, put there if they are not yet."""
        return tuple(map(self._number, tensors))

    def _number(self, tensor: Any) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self)
            self.append(tensor)
        return self._numbers[id(tensor)]


def chosen(
    condition: Any, then: Any, otherwise: Any, given: Sequence[Any], *, unordered: bool = False
) -> Any:
    """What one of two functions gives, as one operation that stays one; `unordered` among what has
    effects, it is run for what it gives alone."""
    from tensorflow.python.ops import cond_v2, control_flow_util_v2

    dtypes = [each.dtype for each in then.outputs]
    branches = {"then_branch": then, "else_branch": otherwise}
    operation = tf.raw_ops.StatelessIf if unordered else tf.raw_ops.If
    (result,) = operation(cond=condition, input=given, Tout=dtypes, **branches)
    control_flow_util_v2.maybe_set_lowering_attr(result.op, False)
    graphs = [each.graph for each in branches.values()]
    cond_v2._set_read_only_resource_inputs_attr(result.op, graphs)
    return result


def one_of(number: Any, ways: Sequence[Any], given: Sequence[Any]) -> Any:
    """What one of several functions gives that have no resources, as one operation that stays one."""
    from tensorflow.python.ops import control_flow_util_v2

    dtypes = [each.dtype for each in ways[0].outputs]
    (result,) = tf.raw_ops.Case(branch_index=number, input=given, Tout=dtypes, branches=ways)
    control_flow_util_v2.maybe_set_lowering_attr(result.op, False)
    return result


def traced(function: Body, specs: Sequence[Any], *, inlined: bool) -> Any:
    """`function` as one operation for any graph: traced once, for arguments of these specs."""
    attributes = {"_noinline": not inlined}
    with tf.init_scope():
        whole = tf.function(function, autograph=False, experimental_attributes=attributes)
        return whole.get_concrete_function(*specs)


class Part(NamedTuple):
    """What is done with one tensor, of the terms of these numbers by a plan (None: held by the last handle),
    with such handles and rows of them, by their numbers too: what differs by its rows only is traced once."""

    body: Body | Together
    dtype: Any
    terms: tuple[int, ...]
    plan: Plan | None
    handles: tuple[int, ...]
    rows: tuple[int, ...]


class End(NamedTuple):
    """What is done with the clock when all that is looked at together is: the last thing of an attempt
    decides which one is looked at next."""

    every: int
    decides: bool


@cache
def _member(body: Together, dtype: Any, terms: int, plan: Plan) -> Any:
    """A tensor of these terms and what is found in it, traced once for all tensors: a graph is built
    thirty times faster than by calling it for each."""

    def member(*given: Any) -> Any:
        flat = tf.reshape(made(plan, given), [-1])
        return flat, *body.alone(flat)

    return traced(member, [tf.TensorSpec(None, dtype)] * terms, inlined=True)


@cache
def _stored(body: Together, dtype: Any) -> Any:
    """The same of what a variable holds."""

    def stored(handle: Any) -> Any:
        value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        flat = tf.reshape(value, [-1])
        return flat, *body.alone(flat)

    return traced(stored, [_HANDLE], inlined=True)


class _Members:
    """The tensors that are looked at together: what is found in one is there once, of however many places
    it is looked at for. The gradient of an addition is that of all its terms."""

    def __init__(self, given: Sequence[Any]) -> None:
        self._given = given
        self._found: dict[object, Sequence[Any]] = {}

    def of(self, part: Part, handles: Sequence[Held]) -> Member:
        """One of them; `handles` are its own."""
        body: Any = part.body
        if part.plan is None:
            *handles, variable = handles
            value, *found = _stored(body, part.dtype)(variable.resource)
            return Member(value, found, handles)
        key = body, part.terms, part.plan
        if key not in self._found:
            own = [self._given[n] for n in part.terms]
            self._found[key] = _member(body, part.dtype, len(own), part.plan)(*own)
        value, *found = self._found[key]
        return Member(value, found, handles)


@cache
def _sampled(body: Body, dtype: Any, terms: int, plan: Plan, handles: int) -> Any:
    """What is done with one tensor in sampled attempts only."""

    def part(*given: Any) -> Any:
        value = made(plan, given[:terms])
        tick, taken, rows = given[terms], given[terms + 1 :][:handles], given[terms + 1 + handles :]
        with tf.control_dependencies([body(value, tick, *map(Held, taken, rows))]):
            return tf.constant(False)

    specs = [*[tf.TensorSpec(None, dtype)] * terms, _TICK, *[_HANDLE] * handles, *[_TICK] * handles]
    return traced(part, specs, inlined=True)


@cache
def whole_of(parts: tuple[Part, ...], dtypes: tuple[Any, ...], end: End | None) -> Any:
    """Parts as one function of tensors, rows, the tick and handles, the clock the last one if there is
    an end."""
    tensors = len(dtypes)

    def whole(*given: Any) -> Any:
        rows, tick, *handles = given[tensors:]
        wrong = _done(parts, given[:tensors], rows, tick, handles)
        if end is not None:
            _end(end, wrong, tick, handles[-1])
        return wrong

    handles = 1 + max((n for part in parts for n in part.handles), default=-1)
    handles += end is not None
    return _called(whole, _specs(dtypes, handles))


def _called(function: Body, specs: Sequence[Any]) -> Any:
    """What does no more than to call a function: as the branch of a condition, that is not taken apart, and
    optimised once for all conditions."""
    inside = traced(function, specs, inlined=False)
    return traced(lambda *given: inside(*given), specs, inlined=False)


def _done(
    parts: Sequence[Part], given: Sequence[Any], rows: Any, tick: Any, handles: Sequence[Any]
) -> Any:
    """Do what there is in an attempt that is looked at; gives whether something is wrong."""
    count = 1 + max(n for part in parts for n in part.rows)
    firsts = list(tf.unstack(rows, count))
    together: dict[Together, list[Member]] = {}
    sampled: list[Part] = []
    terms, used, members = Once(), Once(), _Members(given)
    for part in parts:
        own = [given[n] for n in part.terms]
        numbered = zip(part.handles, part.rows, strict=True)
        taken = [Held(handles[n], firsts[row]) for n, row in numbered]
        if callable(part.body) or part.body.sampled:
            numbers = terms.numbers(own), used.numbers(each.resource for each in taken)
            sampled.append(part._replace(terms=numbers[0], handles=numbers[1]))
        else:
            together.setdefault(part.body, []).append(members.of(part, taken))
    wrong = [body.all(tick, all_) for body, all_ in together.items()]
    if sampled:
        dtypes = tuple(each.dtype for each in terms)
        then = _counting(tuple(sampled), dtypes, len(used), count)
        nothing = nothing_of(dtypes, len(used))
        chosen(sampled_at(tick), then, nothing, (*terms, rows, tick, *used))
    return tf.reduce_any(tf.stack(wrong)) if wrong else tf.constant(False)


@cache
def _counting(parts: tuple[Part, ...], dtypes: tuple[Any, ...], handles: int, count: int) -> Any:
    """What is done in sampled attempts only, as one function; there are `count` rows, of other parts, too."""
    tensors = len(dtypes)

    def whole(*given: Any) -> Any:
        rows, tick, *held = given[tensors:]
        firsts, done = list(tf.unstack(rows, count)), []
        together: dict[Together, list[Member]] = {}
        members = _Members(given)
        for part in parts:
            body, plan = part.body, part.plan
            taken = [
                Held(held[n], firsts[row]) for n, row in zip(part.handles, part.rows, strict=True)
            ]
            if callable(body):
                assert plan is not None
                one = _sampled(body, part.dtype, len(part.terms), plan, len(taken))
                own = [given[n] for n in part.terms]
                done.append(
                    one(*own, tick, *(h.resource for h in taken), *(h.first for h in taken))
                )
            else:
                together.setdefault(body, []).append(members.of(part, taken))
        done += [body.all(tick, all_) for body, all_ in together.items()]
        with tf.control_dependencies(done):
            return tf.constant(False)

    return traced(whole, _specs(dtypes, handles), inlined=False)


@cache
def nothing_of(dtypes: tuple[Any, ...], handles: int) -> Any:
    """What is done where nothing is looked at, given the same."""
    nothing = lambda *given: tf.constant(False)  # noqa: ARG005, E731
    return traced(nothing, _specs(dtypes, handles), inlined=True)


def _specs(dtypes: Iterable[Any], handles: int) -> list[Any]:
    tensors = (tf.TensorSpec(None, dtype) for dtype in dtypes)
    return [*tensors, _ROWS, _TICK, *[_HANDLE] * handles]


@cache
def ended_by(end: End | None) -> Any:
    """The end by itself; None does nothing."""

    def ended(wrong: Any, tick: Any, clock: Any) -> Any:
        if end is not None:
            _end(end, wrong, tick, clock)
        return wrong

    return traced(ended, [tf.TensorSpec([], tf.bool), _TICK, _HANDLE], inlined=False)


def _end(end: End, wrong: Any, tick: Any, clock: Any) -> None:
    if end.decides:
        decided(clock, tick, wrong, end.every)
    else:
        alarmed(clock, tick, wrong)


@cache
def alone_by(every: int, part: Part) -> Any:
    """One look as a function of terms, rows, the clock and handles."""

    dtypes = (part.dtype,) * len(part.terms)

    def alone(*given: Any) -> Any:
        terms, (rows, clock, *handles) = given[: len(dtypes)], given[len(dtypes) :]
        asked = Asked.of(clock, every)
        whole = whole_of((part,), dtypes, End(every, False))
        nothing = nothing_of(dtypes, len(handles) + 1)
        return chosen(asked.looks, whole, nothing, (*terms, rows, asked.tick, *handles, clock))

    terms = [tf.TensorSpec(None, part.dtype)] * len(dtypes)
    specs = [*terms, _ROWS, *[_HANDLE] * (1 + len(part.handles))]
    return traced(alone, specs, inlined=False)
