"""Steps that are not looked at, on a CPU: whether what layers give out is finite, read as seldom as possible.

A ReLU's numbers are known from its input. And what a layer hands to a normalisation need not be read
where that gives out finite numbers: one that is not finite makes its whole channel, row or group NaN.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from msgspec import Struct

from mpaudit.runtime.account import Accounts
from mpaudit.runtime.measured import Measured, Place, Values
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.names import Names, Part, is_layer
from mpaudit.runtime.torch.nested import floats
from mpaudit.runtime.torch.output import Outputs
from mpaudit.runtime.torch.reading import Readings, rectified
from mpaudit.runtime.torch.regions import dtype_name, mark
from mpaudit.runtime.torch.watch import Watch

_NORMALISATIONS = frozenset(
    ["NativeBatchNormBackward0", "NativeLayerNormBackward0", "NativeGroupNormBackward0"]
)
"""Nodes of the graph that make no finite numbers of what is not finite."""


class _PutOff(Struct):
    """An output that is read only if the normalisation of it is not finite; it lives until then."""

    part: Part
    module: Any
    given: Any
    tensor: torch.Tensor
    version: int
    place: Place


class Glance(Struct):
    """A call of an outermost module in a step that is not looked at: its outputs are read.

    `last` is the output that was read last, as of `version`: a container often passes it on. `maker`
    is the module that made it, None once another one has passed it on.
    """

    module: Any
    step: int
    turn: int
    last: weakref.ref[torch.Tensor] | None = None
    version: int | None = None
    values: Values | None = None
    maker: Part | None = None
    put_off: _PutOff | None = None


class Glances:
    """Reads what modules give out where nothing else is looked at."""

    def __init__(
        self,
        watch: Watch,
        names: Names,
        accounts: Accounts,
        outputs: Outputs,
        readings: Readings,
    ) -> None:
        self._watch = watch
        self._names = names
        self._accounts = accounts
        self._outputs = outputs
        self._readings = readings

    def look(self, glance: Glance, module: Any, given: Any, result: Any) -> None:
        """A module gave `result` for what it was `given`."""
        compiled = type(module).__name__ == "OptimizedModule" and not self._watch.eager
        pretended = self._watch.own.pretends(given[0])
        if pretended or not is_layer(module, compiled=compiled):
            return
        part = self._names.part(module)
        account = part.account
        if account is None:
            path = self._names.path(module, glance.module, "")
            account = self._accounts.of(path, self._watch.own.parameters(module))
            self._outputs.known(module, account)
        graph = torch.is_grad_enabled()
        training = graph or module.training
        number = self._watch.tracer.called(account.path, glance.step, training=training)
        made = floats(result)
        read = self._settle(glance, made) if glance.put_off is not None else None
        for tensor in made:
            place = self._outputs.place(account, glance.step, number, glance.turn, tensor)
            self._outputs.came(account, place)
            mark(self._watch, tensor)
            if not measurable(tensor) or not self._watch.numbers.at_once(tensor):
                continue
            version = None if tensor.is_inference() else tensor._version
            known = glance.last is not None and glance.last() is tensor
            before = glance.values if known else None
            if before is None or glance.version != version:
                if part.normalised and len(made) == 1 and _may_wait(tensor, module, glance):
                    glance.put_off = _PutOff(part, module, given, tensor, tensor._version, place)
                    return
                if glance.maker is not None and glance.maker.normalised is None:
                    assert glance.last is not None
                    glance.maker.normalised = _normalises(tensor, glance.last()) or None
                glance.values = read or self._read(glance, module, given, tensor)
                glance.last, glance.version = weakref.ref(tensor), version
                glance.maker = part
            else:
                glance.maker = None
            assert glance.values is not None
            self._outputs.gave(account, place, glance.values, training=graph)
            if not glance.values.finite:
                sources = self._given(tensor, before, floats(given))
                self._went_bad(glance, module, tensor, (place, glance.values, sources))

    def _settle(self, glance: Glance, made: list[torch.Tensor]) -> Values | None:
        """Read what was put off if it has to be; returns the numbers of what was `made` of it, if known."""
        late, glance.put_off = glance.put_off, None
        assert late is not None
        read = None
        if len(made) == 1 and _normalises(made[0], late.tensor):
            read = self._watch.numbers.now(made[0])
            if read.finite:
                return read
        else:
            late.part.normalised = False  # another way than before: it is not put off again
            if late.tensor._version != late.version:  # too late
                self._watch.turns.alarm()
                return None
        values = self._watch.numbers.now(late.tensor)
        account = late.part.account
        assert account is not None
        self._outputs.gave(account, late.place, values, training=True)
        if not values.finite:
            sources = self._given(late.tensor, None, floats(late.given))
            self._went_bad(glance, late.module, late.tensor, (late.place, values, sources))
        return read

    def _went_bad(
        self,
        glance: Glance,
        module: Any,
        tensor: torch.Tensor,
        found: tuple[Place, Values, list[Measured | None]],
    ) -> None:
        place, values, sources = found
        self._readings.stand(tensor, values)
        outermost = module is glance.module
        self._outputs.went_bad(place, values, sources, module, outermost=outermost)

    def _read(self, glance: Glance, module: Any, given: Any, tensor: torch.Tensor) -> Values:
        """The numbers of an output, which for that of a ReLU are known from its input."""
        found = None
        inputs = floats(given) if type(module) is torch.nn.ReLU else ()
        if glance.values is not None and glance.last is not None and inputs:
            if glance.last() is inputs[0]:
                found = rectified(module, inputs, tensor, glance.version, glance.values)
        return found or self._watch.numbers.now(tensor)

    def _given(
        self, tensor: torch.Tensor, before: Values | None, inputs: list[torch.Tensor]
    ) -> list[Measured | None]:
        """What a call was given that gave `tensor` back; `before` is what that was last, if known."""
        if not any(each is tensor for each in inputs):
            return [self._readings.now(each) for each in inputs]
        if before is None:  # changed in place, or passed on
            return [self._readings.before(tensor)]
        was = Measured(dtype_name(tensor.dtype), computed=True, made=True)
        was.arrive(before)
        return [was]


def _may_wait(tensor: torch.Tensor, module: Any, glance: Glance) -> bool:
    """Whether an output may be read later, or not at all.

    In float16 its largest magnitude is wanted in every step: it may come near the end of the range.
    """
    wide = tensor.dtype is not torch.float16 and tensor.grad_fn is not None
    return wide and module is not glance.module


def _normalises(made: torch.Tensor, given: torch.Tensor | None) -> bool:
    """Whether one tensor is the normalisation of another one as that is now, as the graph says."""
    node = made.grad_fn
    if node is None or given is None or given.grad_fn is None:
        return False
    # The node has kept its input: torch would refuse to go back if that were changed in place.
    return node.name() in _NORMALISATIONS and node.next_functions[0][0] is given.grad_fn
