"""A light look at a run: loss scales, steps and gradients of parameters; no layer is hooked."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from torch.nn.modules import module as modules

from mpaudit.runtime.measured import Place, Values
from mpaudit.runtime.origin import Origins
from mpaudit.runtime.torch.casts import Casts
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.names import Names
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch


class Light:
    """Measures the gradients of attempts to step, as the optimizer gets them: on a CPU those of all
    that a scaler skips, of all without a scaler, and else of some.

    A layer's name is known where torch built it while watched: of a model that was copied or loaded
    as a whole, parameters are named by their place in the optimizer.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.names = Names(watch)
        self._origins = Origins(watch.tracer)
        self._owners = Known()  # parameter -> weak reference to its module, and its name there
        self._places = Known()  # parameter -> path of its layer, and its name there
        self.casts = Casts(watch, lambda: None)  # no layer is being called that one could belong to
        watch.marks = False
        watch.before_step = self._before_step
        watch.attempted = self._look
        watch.after_step = self._origins.settled
        watch.loss = self._origins.loss
        watch.patches.also(lambda: self._origins.over(watch.scaled))
        register = modules.register_module_parameter_registration_hook
        watch.patches.also(register(self._held).remove)

    def built_before(self, module: Any) -> None:
        """A module was built before anyone watched."""
        self.names.built_before(module)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._held(module, name, parameter)

    def _held(self, module: Any, name: str, parameter: Any) -> None:
        with self._watch.guard("parameter registration"):
            self._owners.set(parameter, (weakref.ref(module), name))

    def _before_step(self, optimizer: Any, _: bool) -> None:
        """Without a scaler this is the attempt; with one it is told of in `_look`, also if skipped."""
        if not self._watch.thread.stepping:
            index = self._watch.index(optimizer)
            self._look(optimizer, self._watch.tracer.step(index), None)

    def _look(self, optimizer: Any, step: int, applied: bool | None) -> None:
        """Measure; of a step that is `applied` the scaler has found already that all is finite."""
        if not self._watch.turns.due(step) and applied:
            return
        given = self._watch.own.pairs(optimizer)
        named = [
            (self._place(each, number), gradient)
            for number, (each, gradient) in enumerate(given)
            if gradient is not None and measurable(gradient)
        ]

        places = [
            (Place(path, step, 0, 0, dtype_name(gradient.dtype), True), name)
            for (path, name), gradient in named
        ]

        def receive(found: Sequence[Values]) -> None:
            for (place, _), values in zip(places, found, strict=True):
                self._add(place, values)
            measured = zip(places, found, strict=True)
            bad = [(*place, values) for place, values in measured if not values.finite]
            self._origins.parameters(bad, len(found))

        self._watch.numbers.largest([gradient for _, gradient in named], receive)

    def _place(self, parameter: Any, number: int) -> tuple[str, str]:
        place: tuple[str, str] | None = self._places.get(parameter)
        if place is None:
            reference, name = self._owners.get(parameter) or (None, f"parameter {number}")
            module = reference() if reference is not None else None
            path = f"(parameter {number})"
            kind = type(parameter).__name__
            if (home := self._watch.own.home(parameter)) is not None:
                path, name = home
            elif module is not None and module._parameters.get(name) is parameter:
                path, kind = self.names.path(module, module, ""), type(module).__name__
            self._watch.tracer.layer(path, kind)
            self._watch.tracer.saw(path, "parameter", dtype_name(parameter.dtype))
            place = path, name
            self._places.set(parameter, place)
        return place

    def _add(self, place: Place, values: Values) -> None:
        self._watch.tracer.saw(place.path, "parameter_grad", place.dtype)
        self._watch.tracer.measured(place.statistics("update", values, place.dtype))
