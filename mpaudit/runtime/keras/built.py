"""What a script builds: policies, layers and models, as the events that the protocols know."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from mpaudit.errors import MpauditError
from mpaudit.event import LayerMade, ModelMade, PolicySet, Ref
from mpaudit.finding import Span
from mpaudit.runtime.keras.family import Family
from mpaudit.runtime.keras.identity import ByObject
from mpaudit.runtime.keras.narration import Narration
from mpaudit.runtime.keras.nature import Mark, mark_of
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.place import place
from mpaudit.runtime.keras.register import Register


class Built:
    """Watches policies, layers and models.

    A layer is announced when the next thing happens: only then has its constructor run to the end.
    """

    def __init__(
        self,
        patches: Patches,
        register: Register,
        narration: Narration,
        mark: Callable[[object], Mark | None] = mark_of,
    ) -> None:
        self._mark = mark
        self._patches = patches
        self._tracer = patches.tracer
        self._register = register
        self._narration = narration
        self._made: list[tuple[Family, weakref.ref[Any], Span, str | None]] = []
        self._models = ByObject[tuple[Span, int]]()
        self._owners = ByObject[Ref]()
        self._owning = ByObject[bool]()
        narration.before = self._announce

    def follow(self, family: Family) -> None:
        """Watch what is built of one Keras from now on."""
        self._patches.wrap(family.layer, "__new__", partial(self._around_layer, family))
        family.follow_policy(self._patches, self._set)

    def owner(self, variable: Any) -> Ref | None:
        """The model that was called and has a variable."""
        return self._owners.get(variable)

    def called(self, family: Family, layer: Any, outputs: Any) -> None:
        """A layer was called for real: a model is complete by then."""
        if not isinstance(layer, family.model):
            return
        self._announce()
        if (told := self._models.get(layer)) is not None:
            marks = [self._mark(each) for each in family.flatten(outputs)]
            output = tuple(mark.layer for mark in marks if mark is not None)
            self._announce_model(family, layer, told[0], output)
        if self._owning.get(layer) is None and layer.trainable_variables:
            self._owning.put(layer, True)
            for variable in layer.trainable_variables:
                self._owners.put(variable, self._register.watched(family, layer).ref)

    def _set(self, policy: str) -> None:
        with self._patches.guarded("policy"):
            at = place("set_global_policy", "set_dtype_policy", "set_policy")
            if at is not None:
                self._narration.tell(PolicySet(at=at, policy=policy))
                if policy.startswith("mixed"):
                    self._tracer.asked_for_amp(at, f"the global policy {policy!r}")

    def _around_layer(self, family: Family, original: Call) -> Call:
        def new(kind: Any, *args: Any, **kwargs: Any) -> Any:
            layer = original(kind, *args, **kwargs)
            with self._patches.guarded("layer made"):
                if (why := family.hidden(layer)) is not None:
                    self._tracer.failed("Keras", MpauditError(why))
                at = None if family.internal(kind) else place(kind.__name__)
                if at is not None:
                    self._register.made.put(layer, at)
                    inherits = None if kwargs.get("dtype") is not None else family.global_policy()
                    self._made.append((family, weakref.ref(layer), at, inherits))
            return layer

        return new

    def _announce(self) -> None:
        """Tell of the layers and models that were made since the last time."""
        made, self._made = self._made, []
        for family, owner, at, inherits in made:
            layer = owner()
            if layer is None or not hasattr(layer, "_dtype_policy"):
                continue  # it is no more, or its constructor failed
            if isinstance(layer, family.model):
                self._announce_model(family, layer, at)
                continue
            own = str(layer.dtype_policy.name)
            activation = getattr(getattr(layer, "activation", None), "__name__", None)
            if isinstance(layer, family.softmax):
                activation = "softmax"
            self._narration.tell(
                LayerMade(
                    at=at,
                    layer=self._register.watched(family, layer).ref,
                    kind=type(layer).__name__,
                    policy=None if own == inherits else own,
                    activation=None if activation == "linear" else activation,
                )
            )

    def _announce_model(
        self, family: Family, model: Any, at: Span, output: tuple[Ref, ...] = ()
    ) -> None:
        """Tell of a model as far as it is complete; it is told again when it has grown."""
        layers = [each for each in model.layers if not family.internal(type(each))]
        _, told = self._models.get(model) or (at, 0)
        self._models.put(model, (at, len(layers)))
        if len(layers) == told:
            return
        refs = tuple(self._register.watched(family, each).ref for each in layers)
        if isinstance(model, family.sequential):
            output = refs[-1:]
        elif isinstance(model, family.functional):
            made_by = [family.maker(each) for each in family.flatten(model.outputs)]
            output = tuple(self._register.watched(family, each).ref for each in made_by)
        ref = self._register.watched(family, model).ref
        self._narration.tell(ModelMade(at=at, model=ref, layers=refs, output=output))
