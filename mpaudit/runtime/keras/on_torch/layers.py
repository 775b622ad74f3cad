"""Layers of Keras as the torch probe sees them: modules with paths and variables of Keras."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from mpaudit.runtime.keras import input_range
from mpaudit.runtime.keras.casts import Casts, Size, due
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.nature import Mark, nature
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.register import Register, Watched
from mpaudit.runtime.measured import Values
from mpaudit.runtime.record import LARGEST
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.own import Pair
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch


class _Thread(threading.local):
    def __init__(self) -> None:
        self.stepped: tuple[Any, Sequence[Pair]] | None = None  # the attempt under way


class Layers:
    """Watches the calls of layers, and answers what torch's probe asks (`torch.own.Foreign`).

    `on_call` is told of every call that is not made only to find out shapes.
    """

    def __init__(
        self, patches: Patches, register: Register, family: Family, watch: Watch, casts: Casts
    ) -> None:
        self._casts = casts
        self.on_call: Callable[[Family, Any, Any], None] = lambda *_: None
        self._patches = patches
        self._register = register
        self._family = family
        self._watch = watch
        self._thread = _Thread()
        self._marks = Known()  # of tensors, which are not marked themselves: scripts save them
        self._homes: dict[int, tuple[str, str]] = {}
        self._policies: dict[str, dict[str, str]] = {}
        patches.wrap(family.layer, "__call__", self._around_call)

    # What torch's probe asks

    def path(self, module: Any) -> str | None:
        """Of a layer that was called."""
        if not isinstance(module, self._family.layer):
            return None
        return self._register.entered(self._family, module).path

    def pretends(self, args: Sequence[Any]) -> bool:
        """Keras finds out shapes with tensors of its own, or with real ones in a scope."""
        return self._family.symbolic(args)

    def parameters(self, module: Any) -> Mapping[str, torch.Tensor]:
        """What is no floating number aside: seeds, counters."""
        own = [each for kind in self._family.variables(module) for each in kind]
        found = {each.name: self._family.value(each) for each in own}
        return {name: each for name, each in found.items() if _floats(each)}

    def within(self, module: Any) -> Iterable[torch.Tensor]:
        """In the order of Keras."""
        return (self._family.value(each) for each in module.trainable_variables)

    def contains(self, module: Any) -> bool:
        """Layers, or modules of torch; the parameters of a layer are held by a module, too."""
        others = [name for name in module._modules if name != "_torch_params"]
        return bool(others) or self._family.contains(module)

    def stepped(self, optimizer: Any) -> Sequence[Pair] | None:
        """Of the attempt under way, or of one to come."""
        if not isinstance(optimizer, (*self._family.plain, *self._family.scaling)):
            return None
        if self._thread.stepped is not None and self._thread.stepped[0] is optimizer:
            return self._thread.stepped[1]
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        known = [self._family.value(each) for each in getattr(inner, "_trainable_variables", ())]
        return [(each, each.grad) for each in known]

    def home(self, parameter: torch.Tensor) -> tuple[str, str] | None:
        """As its variable names itself."""
        return self._homes.get(id(parameter))

    def mark(self, tensor: object) -> Mark | None:
        """What is known of a tensor, by the layer that it left."""
        found: Mark | None = self._marks.get(tensor)
        return found

    # What this probe is told

    def attempt(self, optimizer: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
        """An attempt begins, with these variables and gradients."""
        found: list[Pair] = []
        for variable, gradient in pairs:
            parameter = self._family.value(variable)
            found.append((parameter, gradient))
            path, _, name = str(variable.path).rpartition("/")
            self._homes[id(parameter)] = path, name
        self._thread.stepped = optimizer, found

    def attempted(self) -> None:
        """It is over."""
        self._thread.stepped = None

    def _around_call(self, original: Call) -> Call:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            watched = None
            with self._patches.guarded("layer entered"):
                watched = self._register.entered(self._family, layer)
                if input_range.casts(self._family, layer) and torch.is_grad_enabled():
                    self._arrive(watched, args)
            real = not self._family.symbolic(args)
            with self._casts.called(watched if real else None):
                outputs = original(layer, *args, **kwargs)
            with self._patches.guarded("layer left"):
                if real:
                    self._left(layer, args, outputs)
            return outputs

        return call

    def _arrive(self, watched: Watched, args: Any) -> None:
        """Look at data that the layer, or model, is about to cast."""
        if self._watch.tracer.sampling.light or not args:
            return
        for tensor in self._family.flatten(args[0]):
            if not isinstance(tensor, torch.Tensor) or not measurable(tensor):
                continue
            if dtype_name(tensor.dtype) in input_range.WIDER and self.mark(tensor) is None:
                watched.cast_at = watched.cast_at or input_range.caller()
                self._watch.numbers.measure(tensor, partial(self._came, watched))

    def _came(self, watched: Watched, values: Values) -> None:
        largest, at = values.amax or 0.0, watched.cast_at
        if largest > LARGEST["float16"] and at is not None:
            told = at, watched.path, watched.kind, largest
            self._watch.tracer.problem(input_range.beyond(*told))

    def _left(self, layer: Any, args: Any, outputs: Any) -> None:
        family = self._family
        watched = self._register.entered(family, layer)
        policy = {"policy": family.policy_of(layer), "compute": layer.compute_dtype}
        if self._policies.get(watched.path) != policy:
            self._policies[watched.path] = policy
            self._patches.tracer.note("policies", self._policies)
            self._register.own(layer, watched)
        tensors = [each for each in family.flatten(outputs) if isinstance(each, torch.Tensor)]
        if not (family.contains(layer) and all(map(self.mark, tensors))):
            before = next(filter(None, map(self.mark, family.flatten(args))), None)
            what = nature(layer, watched.kind, watched.made, before)
            for tensor in tensors:
                self._marks.set(tensor, Mark(watched.ref, watched.path, *what))
        self.on_call(family, layer, outputs)


class Sizes:
    """`casts.Backend` of torch: what is computed has its size, and is computed step by step."""

    def looks(self, step: int) -> bool:
        """While gradients are recorded, in some steps."""
        return torch.is_grad_enabled() and due(step)

    def size(self, tensor: Any) -> Size | None:
        """All of it."""
        return Size(tensor.numel()) if isinstance(tensor, torch.Tensor) else None

    def sees_batch(self, _: Any) -> None:
        """It is known."""

    def batch(self, _: int) -> float | None:
        """Nobody asks."""
        return None

    def replicas(self) -> tuple[int, int]:
        """They are processes of their own."""
        return 0, 1


def _floats(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
