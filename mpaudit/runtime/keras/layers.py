"""Every call of a Keras layer: what dtypes flow through it and, by taps, what numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import CodeType
from typing import Any

import tensorflow as tf

from mpaudit.errors import MpauditError
from mpaudit.runtime.histogram import What
from mpaudit.runtime.keras import input_range
from mpaudit.runtime.keras.attempt import Look
from mpaudit.runtime.keras.carried import carried
from mpaudit.runtime.keras.casts import Casts
from mpaudit.runtime.keras.clock import Clock
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.follow import followed
from mpaudit.runtime.keras.nature import MARK, Mark, nature
from mpaudit.runtime.keras.octaves import Octaves, of_variable
from mpaudit.runtime.keras.order import runs_by_itself
from mpaudit.runtime.keras.output import OUTPUT, Output, Outputs
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.peaks import Ring
from mpaudit.runtime.keras.register import COUNTED, Passage, Register, Watched
from mpaudit.runtime.keras.rounding import ROUNDED, Rounding
from mpaudit.runtime.keras.store import unseen
from mpaudit.runtime.keras.taps import MEASURABLE, Tap, measurable
from mpaudit.runtime.record import Flow

_CARRIED = ("_keras_mask", "_keras_logits")


def recording() -> bool:
    """Whether a gradient tape records what is computed now, in eager mode or in a graph."""
    from tensorflow.python.eager import record

    return bool(record.could_possibly_record())


class Layers:
    """Watches the calls of layers; `on_call` is told of every real one.

    With `light` no number of a layer is looked at, only the gradients of its parameters are.
    """

    def __init__(
        self,
        patches: Patches,
        clock: Clock,
        register: Register,
        casts: Casts,
        outputs: Outputs,
    ) -> None:
        self._casts = casts
        self._outputs = outputs
        self.on_call: Callable[[Family, Any, Any], None] = lambda *_: None
        self._patches = patches
        self._tracer = patches.tracer
        self._light = patches.tracer.sampling.light
        self._clock = clock
        self._register = register

    def follow(self, family: Family) -> None:
        """Watch every layer of one Keras from now on."""
        self._patches.wrap(family.layer, "__call__", partial(self._around_call, family))

    def _around_call(self, family: Family, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            watched, leaves, real = None, [], False
            with self._patches.guarded("layer entered"):
                leaves = family.flatten((args, kwargs))
                real = not family.symbolic(leaves)
                if real or family.named_early:
                    watched = self._register.entered(family, layer)
            self._outputs.entered(leaves if real else ())
            try:
                with self._casts.called(watched if real else None):
                    outputs = original(layer, *args, **kwargs)
            finally:
                self._outputs.left()
            if real and watched is not None:
                with self._patches.guarded("layer left"):
                    outputs = self._left(layer, watched, args, leaves, outputs)
                    self._outputs.given(family.flatten(outputs))
            return outputs

        return call

    def _left(
        self, layer: Any, watched: Watched, args: Any, leaves: list[Any], outputs: Any
    ) -> Any:
        """A call is over; `leaves` are all its arguments."""
        family = watched.family
        if hasattr(layer, "state_size") and _rehearsed(family.loop()):
            return outputs
        flat = [outputs] if isinstance(outputs, tf.Tensor) else family.flatten(outputs)
        tensors = [each for each in flat if isinstance(each, tf.Tensor)]
        contains = bool(tensors) and family.contains(layer)
        passed_on = contains and all(hasattr(each, MARK) for each in tensors)
        self._arrive(layer, watched, args)
        if not passed_on:
            self._flowed(layer, watched, leaves, tensors)
            outputs = self._measure(watched, leaves, tensors, outputs)
            self._mark(layer, watched, leaves, outputs, [carried(each) for each in tensors])
        self.on_call(family, layer, outputs)
        return outputs

    def _arrive(self, layer: Any, watched: Watched, args: Any) -> None:
        """Measure data that the layer, or model, is about to cast."""
        if self._light or not recording() or not input_range.casts(watched.family, layer):
            return
        if unseen():
            return
        for tensor in watched.family.flatten(args[0]) if args else ():
            wide = measurable(tensor) and tensor.dtype.name in input_range.WIDER
            if wide and not hasattr(tensor, MARK):
                watched.cast_at = watched.cast_at or input_range.caller()
                self._tap(watched, "uncast", tensor.dtype.name).note(tensor)

    def _flowed(self, layer: Any, watched: Watched, inputs: list[Any], outputs: list[Any]) -> None:
        """Tell the tracer what is new: the layer itself, the dtypes of what goes in and out."""
        if not watched.known:
            watched.known = True
            place = watched.made
            filename, row = (place.filename, place.start.row) if place else (None, None)
            self._tracer.claims.used("keras")
            self._tracer.layer(watched.path, watched.kind, filename=filename, row=row)
            self._register.own(layer, watched)
        entered = [each for each in inputs if isinstance(each, tf.Tensor)]
        signature = (tuple(t.dtype for t in entered), tuple(t.dtype for t in outputs))
        if signature in watched.signatures:
            return
        watched.signatures.add(signature)
        for tensor in entered:
            self.saw(watched, "input", tensor.dtype.name)
        for tensor in outputs:
            self.saw(watched, "output", tensor.dtype.name)
        for variables in watched.family.variables(layer):
            for stored in map(watched.family.stored, variables):
                if tf.as_dtype(stored).is_floating:
                    self.saw(watched, "parameter", stored)
        policies = self._tracer.fact("policies") or {}
        policy = {"policy": watched.family.policy_of(layer), "compute": layer.compute_dtype}
        self._tracer.note("policies", {**policies, watched.path: policy})

    def saw(self, watched: Watched, flow: Flow, dtype: str) -> None:
        """Tell the tracer, once, that `dtype` flowed there."""
        if (flow, dtype) not in watched.flows:
            watched.flows.add((flow, dtype))
            self._tracer.saw(watched.path, flow, dtype)

    def gradients_of(
        self, pairs: Iterable[tuple[Any, Any]], *, measured: bool, unscaled: bool
    ) -> None:
        """Gradients arrive at an optimizer with their variables, divided by the loss scale already if
        `unscaled`."""
        weights: list[Look] = []
        for gradient, variable in pairs:
            watched = None if gradient is None else self._register.owner(variable)
            if watched is not None:
                weights += self._gradient_of(
                    watched, variable, gradient, measured=measured, unscaled=unscaled
                )
        self._clock.look_now(weights)

    def _gradient_of(
        self, watched: Watched, variable: Any, gradient: Any, *, measured: bool, unscaled: bool
    ) -> Iterator[Look]:
        """Measures a gradient; gives what is to be looked at before the variable changes."""
        dtype = gradient.dtype.name
        self.saw(watched, "parameter_grad", dtype)
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        if not measurable(values) or unseen():
            return
        if measured or self._light:
            self._tap(watched, "weights", dtype).note(values)
        if not self._light:
            self._octaves(watched, "weight_gradient", dtype, unscaled=unscaled).note(values)
            kept = watched.family.stored(variable)
            if tf.as_dtype(kept) not in MEASURABLE:
                return
            weight = self._octaves(watched, "weight", kept)
            if tf.executing_eagerly():
                weight.note(watched.family.value(variable))
            else:
                yield of_variable(weight, watched.family.handle(variable), kept)

    def _measure(
        self, watched: Watched, inputs: list[Any], tensors: list[Any], outputs: Any
    ) -> Any:
        if self._light:
            return outputs
        training = recording()
        eager = tf.executing_eagerly()
        if (why := unseen()) is not None:
            self._tracer.failed("taps", MpauditError(why))
            return outputs
        if not (training or eager):
            return outputs  # graphs without gradients may be exported: no resource belongs in them
        for tensor in inputs:
            if hasattr(tensor, MARK):
                watched.sources.add(getattr(tensor, MARK).path)
            elif measurable(tensor):
                self._tap(watched, "entered", tensor.dtype.name).note(tensor)
        counts = {"calls": 1} if training else {"others": 1}
        passage: Passage = "forward" if training else "evaluated"
        measured = [tensor for tensor in tensors if measurable(tensor)]
        if not measured:
            self._tap(watched, passage, "float32").count(**counts)
            return outputs
        for tensor in measured:
            self._tap(watched, passage, tensor.dtype.name).note(tensor, **counts)
            counts = {}
        if not training:
            return outputs
        if isinstance(outputs, tf.Tensor):
            return self._followed(watched, outputs)
        return watched.family.mapped(
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
        output = Output.new() if value.dtype == tf.float16 else None
        followed = self._identity(watched, value, output)
        if output is not None:
            setattr(followed, OUTPUT, output)
            watched.rounding = watched.rounding or Rounding(self._clock)
            setattr(followed, ROUNDED, watched.rounding.later())
        for name in _CARRIED:
            if hasattr(value, name):
                setattr(followed, name, getattr(value, name))
        if logits is not None and measurable(logits):
            followed._keras_logits = self._identity(watched, logits, output)
        return followed

    def _identity(self, watched: Watched, value: Any, output: Output | None) -> Any:
        dtype = value.dtype.name
        note = self._tap(watched, "backward", dtype).later()

        def back(gradient: Any) -> Any:
            with self._patches.guarded("gradient of a layer"):
                if self._patches.active:
                    self.saw(watched, "output_grad", dtype)
                    if output is not None:
                        self._outputs.came_back(output)
                    sparse = isinstance(gradient, tf.IndexedSlices)
                    done = note(gradient.values if sparse else gradient)
                    if done is not None and not runs_by_itself():
                        with tf.control_dependencies([done]):
                            return tf.identity(gradient)
            return gradient

        return followed(value, back)

    def _tap(self, watched: Watched, passage: Passage, dtype: str) -> Tap:
        tap = watched.taps.get((passage, dtype))
        if tap is None:
            octaves = Octaves(self._clock) if passage in COUNTED else None
            ends_soon = passage == "forward" and dtype == "float16"
            peaks = Ring(self._clock) if ends_soon else None
            tap = watched.taps[passage, dtype] = Tap(self._clock, dtype, octaves, peaks)
        return tap

    def _octaves(
        self, watched: Watched, what: What, dtype: str, *, unscaled: bool = False
    ) -> Octaves:
        found = watched.octaves.get((what, dtype, unscaled))
        if found is None:
            found = watched.octaves[what, dtype, unscaled] = Octaves(self._clock)
        return found

    def _mark(
        self,
        layer: Any,
        watched: Watched,
        inputs: list[Any],
        outputs: Any,
        origins: list[Mark | None],
    ) -> None:
        """Of each output `origins` tells what it was computed from by a function, inside of the layer."""
        before = next((getattr(t, MARK) for t in inputs if hasattr(t, MARK)), None)
        got, shown = nature(layer, watched.kind, watched.made, before)
        model = isinstance(layer, watched.family.model)
        tensors = [each for each in watched.family.flatten(outputs) if isinstance(each, tf.Tensor)]
        for tensor, origin in zip(tensors, origins, strict=True):
            what = (got, shown) if got or origin is None else (origin.got, origin.shown)
            of = origin.layer if model and origin is not None else watched.ref
            setattr(tensor, MARK, Mark(of, watched.path, *what))


def _rehearsed(loop: CodeType) -> bool:
    """Whether a recurrent cell is called outside its loop: Keras throws that result away."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != loop.co_filename:
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and frame.f_code is loop and not frame.f_locals["unroll"]
