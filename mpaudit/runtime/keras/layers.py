"""Every call of a Keras layer: what dtypes flow through it and, by taps, what numbers."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from mpaudit.errors import MpauditError
from mpaudit.event import Ref
from mpaudit.finding import Span
from mpaudit.runtime.keras import input_range
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.origin import Bad, Interval, judge
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.steps import Steps
from mpaudit.runtime.keras.taps import Clock, Numbers, Tap, measurable
from mpaudit.runtime.record import LARGEST, Flow, Phase, Statistics

MARK = "_mpaudit_mark"
Passage = Literal["forward", "backward", "weights", "entered", "uncast"]
_CARRIED = ("_keras_mask", "_keras_logits")
_UNCHANGED = frozenset({"Dropout", "Flatten", "Identity", "Permute", "RepeatVector", "Reshape"})
_ACTIVATIONS = frozenset({"softmax", "log_softmax", "sigmoid"})


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a tensor: the layer it left, and what it is, as `LossComputed.got` says."""

    layer: Ref
    path: str
    got: str | None
    shown: Span | None


@dataclass(slots=True)
class Watched:
    """A layer of the run; `known` says that the tracer lists it."""

    owner: weakref.ref[Any]
    ref: Ref
    path: str
    kind: str
    made: Span | None = None
    known: bool = False
    flows: set[tuple[str, str]] = field(default_factory=set)
    signatures: set[object] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    taps: dict[tuple[Passage, str], Tap] = field(default_factory=dict)
    calls: int = 0
    attempts: int = 0
    called: bool = False
    cast_at: Span | None = None  # where the user trains what casts its inputs to float16

    def counted(self, calls: int, attempts: int) -> int:
        """Calls per step in training, with those of one more interval of so many attempts.

        An attempt may end in the interval after the one of its calls.
        """
        self.calls += calls
        self.attempts += attempts if calls else min(attempts, self.called)
        self.called = bool(calls)
        return round(self.calls / max(self.attempts, 1))


def recording() -> bool:
    """Whether a gradient tape records what is computed now, in eager mode or in a graph."""
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record())


class Layers:
    """The layers that were made and called, by object; `on_call` is told of every real call."""

    def __init__(self, patches: Patches, clock: Clock) -> None:
        self.on_call: Callable[[Any, Any], None] = lambda *_: None
        self._patches = patches
        self._tracer = patches.tracer
        self._clock = clock
        self._gone: list[Watched] = []
        self._waiting: dict[Passage, dict[str, Bad]] = {}
        self.made = ByObject[Span]()
        self._watched = ByObject[Watched](gone=self._gone.append)
        self._paths: dict[str, Watched] = {}
        self._serial = 0

    def install(self) -> None:
        """Watch every layer from now on."""
        self._patches.wrap(keras.layers.Layer, "__call__", self._around_call)

    def watched(self, layer: Any) -> Watched:
        """What is known of `layer`; its path is what Keras will call it, or already does."""
        found = self._watched.get(layer)
        if found is not None:
            return found
        self._serial += 1
        ref = Ref(("layer", self._serial), layer.name)
        kind = type(layer).__name__
        made = self.made.get(layer)
        return self._watched.put(layer, Watched(weakref.ref(layer), ref, "", kind, made))

    def _own_path(self, variable: Any) -> str | None:
        """The path of the listed layer that owns a Keras variable."""
        path = str(getattr(variable, "path", "")).rpartition("/")[0]
        found = self._paths.get(path)
        return path if found is not None and found.known else None

    def _around_call(self, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            watched = None
            try:
                watched = self._entered(layer)
            except Exception as error:
                self._tracer.failed("layer entered", error)
            outputs = original(layer, *args, **kwargs)
            if watched is None:
                return outputs
            try:
                return self._left(layer, watched, (args, kwargs), outputs)
            except Exception as error:
                self._tracer.failed("layer left", error)
                return outputs

        return call

    def _entered(self, layer: Any) -> Watched:
        watched = self.watched(layer)
        if not watched.path:
            scope = keras.src.backend.common.name_scope.current_path()
            path = layer.path or (f"{scope}/{layer.name}" if scope else layer.name)
            watched.path = self._unique(path, watched)
        return watched

    def _unique(self, path: str, watched: Watched) -> str:
        """`path`, numbered where another layer that is still alive has it."""
        number, wanted = 1, path
        while (other := self._paths.get(wanted)) and other.owner() is not None:
            number += 1
            wanted = f"{path}#{number}"
        self._paths[wanted] = watched
        return wanted

    def _left(self, layer: Any, watched: Watched, inputs: Any, outputs: Any) -> Any:
        flat = [outputs] if isinstance(outputs, tf.Tensor) else keras.tree.flatten(outputs)
        if any(isinstance(each, keras.KerasTensor) for each in flat) or _symbolic():
            return outputs
        if hasattr(layer, "state_size") and _rehearsed():
            return outputs
        tensors = [each for each in flat if isinstance(each, tf.Tensor)]
        contains = bool(layer._layers)
        passed_on = contains and bool(tensors) and all(hasattr(each, MARK) for each in tensors)
        self._arrive(layer, watched, inputs[0])
        if not passed_on:
            self._flowed(layer, watched, inputs, tensors)
            outputs = self._measure(watched, inputs, tensors, outputs)
            self._mark(layer, watched, inputs, outputs)
        self.on_call(layer, outputs)
        return outputs

    def _arrive(self, layer: Any, watched: Watched, args: Any) -> None:
        """Measure data that the layer, or model, is about to cast."""
        if not recording() or not input_range.casts(layer):
            return
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return
        for tensor in input_range.wide(args):
            if not hasattr(tensor, MARK):
                watched.cast_at = watched.cast_at or input_range.caller()
                self._tap(watched, "uncast", tensor.dtype.name).note(tensor)

    def _flowed(self, layer: Any, watched: Watched, inputs: Any, outputs: list[Any]) -> None:
        """Tell the tracer what is new: the layer itself, the dtypes of what goes in and out."""
        if not watched.known:
            watched.known = True
            place = watched.made
            filename, row = (place.filename, place.start.row) if place else (None, None)
            self._tracer.layer(watched.path, watched.kind, filename=filename, row=row)
        entered = [each for each in keras.tree.flatten(inputs) if isinstance(each, tf.Tensor)]
        signature = (tuple(t.dtype for t in entered), tuple(t.dtype for t in outputs))
        if signature in watched.signatures:
            return
        watched.signatures.add(signature)
        for tensor in entered:
            self.saw(watched, "input", tensor.dtype.name)
        for tensor in outputs:
            self.saw(watched, "output", tensor.dtype.name)
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            stored = variable._dtype  # `dtype` is what an autocast scope would make of it
            if keras.backend.is_float_dtype(stored):
                self.saw(watched, "parameter", str(stored))
        policies = self._tracer.fact("policies") or {}
        policy = {"policy": layer.dtype_policy.name, "compute": layer.compute_dtype}
        self._tracer.note("policies", {**policies, watched.path: policy})

    def saw(self, watched: Watched, flow: Flow, dtype: str) -> None:
        """Tell the tracer, once, that `dtype` flowed there."""
        if (flow, dtype) not in watched.flows:
            watched.flows.add((flow, dtype))
            self._tracer.saw(watched.path, flow, dtype)

    def gradient_of(self, variable: Any, gradient: Any, *, measured: bool) -> None:
        """A gradient arrives at an optimizer."""
        path = self._own_path(variable)
        if path is None:
            return
        watched, dtype = self._paths[path], gradient.dtype.name
        self.saw(watched, "parameter_grad", dtype)
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        if measured and measurable(values):
            self._tap(watched, "weights", dtype).note(values)

    def _measure(self, watched: Watched, inputs: Any, tensors: list[Any], outputs: Any) -> Any:
        training = recording()
        eager = tf.executing_eagerly()
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            self._tracer.failed("taps", MpauditError("of several replicas only dtypes are seen"))
            return outputs
        if not (training or eager):
            return outputs  # graphs without gradients may be exported: no resource belongs in them
        for tensor in keras.tree.flatten(inputs):
            if hasattr(tensor, MARK):
                watched.sources.add(getattr(tensor, MARK).path)
            elif measurable(tensor):
                self._tap(watched, "entered", tensor.dtype.name).note(tensor)
        counts = {"calls": 1} if training else {"others": 1}
        measured = [tensor for tensor in tensors if measurable(tensor)]
        if not measured:
            self._tap(watched, "forward", "float32").count(**counts)
            return outputs
        for tensor in measured:
            self._tap(watched, "forward", tensor.dtype.name).note(tensor, **counts)
            counts = {}
        if not training:
            return outputs
        if isinstance(outputs, tf.Tensor):
            return self._followed(watched, outputs)
        return keras.tree.map_structure(
            lambda each: self._followed(watched, each) if measurable(each) else each, outputs
        )

    def _followed(self, watched: Watched, value: Any) -> Any:
        """`value`, such that the gradient which comes back to it is measured.

        Keras attaches the logits to what a softmax returns, and computes the loss from them: they
        are followed as well. In a graph it finds a bare softmax by the operation, which therefore
        has to stay the last one.
        """
        logits = getattr(value, "_keras_logits", None)
        bare = logits is None and not tf.executing_eagerly()
        if bare and value.op.type in ("Softmax", "Sigmoid"):
            return value
        followed = self._identity(watched, value)
        for name in _CARRIED:
            if hasattr(value, name):
                setattr(followed, name, getattr(value, name))
        if logits is not None and measurable(logits):
            followed._keras_logits = self._identity(watched, logits)
        return followed

    def _identity(self, watched: Watched, value: Any) -> Any:
        dtype = value.dtype.name
        note = self._tap(watched, "backward", dtype).later()

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def follow(tensor: Any) -> tuple[Any, Call]:
            def back(gradient: Any) -> Any:
                try:
                    if self._patches.active:
                        self.saw(watched, "output_grad", dtype)
                        sparse = isinstance(gradient, tf.IndexedSlices)
                        done = note(gradient.values if sparse else gradient)
                        if done is not None:
                            with tf.control_dependencies([done]):
                                return tf.identity(gradient)
                except Exception as error:
                    self._tracer.failed("gradient of a layer", error)
                return gradient

            return tensor, back

        return follow(value)

    def _tap(self, watched: Watched, passage: Passage, dtype: str) -> Tap:
        tap = watched.taps.get((passage, dtype))
        if tap is None:
            tap = watched.taps[passage, dtype] = Tap(self._clock, dtype)
        return tap

    def _mark(self, layer: Any, watched: Watched, inputs: Any, outputs: Any) -> None:
        before = next(
            (getattr(t, MARK) for t in keras.tree.flatten(inputs) if hasattr(t, MARK)), None
        )
        mark = Mark(watched.ref, watched.path, *_nature(layer, watched, before))
        for tensor in keras.tree.flatten(outputs):
            if isinstance(tensor, tf.Tensor):
                setattr(tensor, MARK, mark)

    def drain(self, steps: Steps, attempts: int) -> None:
        """Hand what the taps hold to the tracer; `attempts` ended since the last time."""
        gone = self._gone.copy()
        del self._gone[: len(gone)]
        found: dict[Passage, dict[str, Bad]] = {passage: {} for passage in get_args(Passage)}
        largest: dict[str, float] = {}
        sources: dict[str, set[str]] = {}
        for watched in [*self._watched.values(), *gone]:
            calls = others = 0
            sources[watched.path] = watched.sources
            for (passage, dtype), tap in watched.taps.items():
                numbers = tap.read()
                if numbers is None:
                    continue
                calls, others = calls + numbers.calls, others + numbers.others
                if numbers.tensors and passage in ("forward", "backward"):
                    self._tracer.measured(_statistics(watched.path, passage, dtype, numbers, steps))
                largest_given = numbers.amax or 0.0
                beyond = passage == "uncast" and largest_given > LARGEST["float16"]
                if beyond and watched.cast_at is not None:
                    told = watched.cast_at, watched.path, watched.kind, largest_given
                    self._tracer.problem(input_range.beyond(*told))
                if passage == "forward":
                    largest[watched.path] = max(largest.get(watched.path, 0.0), numbers.amax or 0.0)
                if numbers.first_bad is not None and numbers.last_bad is not None:
                    ticks = (numbers.first_bad, numbers.last_bad)
                    bad = Bad(*ticks, numbers.inf, numbers.nan, dtype)
                    found[passage][watched.path] = bad.joined(found[passage].get(watched.path))
            per_step = watched.counted(calls, attempts)
            if calls or others:
                self._tracer.counted(watched.path, calls + others, per_step)
        backward = self._decided("backward", found["backward"], steps)
        weights = self._decided("weights", found["weights"], steps)
        tables = (found["forward"], backward, weights, found["entered"], sources, largest)
        judge(self._tracer, Interval(*tables, steps.step, steps.applied))

    def _decided(self, what: Passage, found: dict[str, Bad], steps: Steps) -> dict[str, Bad]:
        """The bad gradients whose attempt has ended; the others wait for it."""
        waited = self._waiting.pop(what, {})
        both = {path: bad.joined(waited.get(path)) for path, bad in found.items()}
        both = {**waited, **both}
        if steps.over:
            return both
        ended = {path: bad for path, bad in both.items() if steps.ended(bad.last)}
        self._waiting[what] = {path: bad for path, bad in both.items() if path not in ended}
        return ended


def _statistics(path: str, phase: Phase, dtype: str, numbers: Numbers, steps: Steps) -> Statistics:
    first, last = numbers.first_bad, numbers.last_bad
    return Statistics(
        path,
        phase,
        dtype,
        calls=numbers.tensors,
        elements=numbers.elements,
        inf=numbers.inf,
        nan=numbers.nan,
        first_bad_step=None if first is None else steps.step(first),
        last_bad_step=None if last is None else steps.step(last),
        amax=numbers.amax,
        zeros=numbers.zeros,
        zeros_of=numbers.zeros_of,
    )


def _rehearsed() -> bool:
    """Whether a recurrent cell is called outside its loop: Keras throws that result away."""
    loop = sys.modules["keras.src.backend.tensorflow.rnn"].rnn.__code__
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != loop.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_code is loop and not frame.f_locals["unroll"]


def _symbolic() -> bool:
    return bool(keras.src.backend.common.symbolic_scope.in_symbolic_scope())


def _nature(layer: Any, watched: Watched, before: Mark | None) -> tuple[str | None, Span | None]:
    """What the layer's output is ("logits", "softmax", ...) and where that was decided."""
    activation = getattr(getattr(layer, "activation", None), "__name__", None)
    if watched.kind == "Softmax":
        return "softmax", watched.made
    if activation in _ACTIVATIONS:
        return activation, watched.made
    if activation == "linear" and hasattr(layer, "kernel"):
        return "logits", watched.made
    unchanged = watched.kind in _UNCHANGED or (
        watched.kind == "Activation" and activation == "linear"
    )
    return (before.got, before.shown) if unchanged and before else (None, None)
