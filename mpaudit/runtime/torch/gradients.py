"""What comes back in the backward pass: gradients of layers' outputs, and of parameters."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from mpaudit.runtime.account import Account, Accounts
from mpaudit.runtime.measured import Gradient, Place, Values
from mpaudit.runtime.origin import Origins
from mpaudit.runtime.sampling import CALLS, sampled
from mpaudit.runtime.torch.edge import parts
from mpaudit.runtime.torch.guard import unseen_by
from mpaudit.runtime.torch.histogram import Histograms
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.measure import WIDE, measurable
from mpaudit.runtime.torch.names import Names
from mpaudit.runtime.torch.regions import dtype_name, mark
from mpaudit.runtime.torch.watch import Watch

_FIRST = 3  # the dtypes of parameter gradients are noted in so many steps
_CHECK = 50  # and in every so many


class _Thread(threading.local):
    def __init__(self) -> None:
        self.gradients = Known()  # output -> (its version, its Gradient)


class Gradients:
    """Hooks on outputs of layers that are looked at, and a look at parameters before a step."""

    def __init__(
        self,
        watch: Watch,
        names: Names,
        origins: Origins,
        accounts: Accounts,
        histograms: Histograms,
    ) -> None:
        self._watch = watch
        self._names = names
        self._origins = origins
        self._accounts = accounts
        self._histograms = histograms
        self._thread = _Thread()
        self._guard = watch.guard("gradient hook")
        self._looked: dict[int, int] = {}  # optimizer -> how often dtypes were noted
        watch.before_step = self._before_step
        watch.skipped = self._skipped

    def _homes(self) -> dict[int, list[tuple[str, str]]]:
        """By the id of each parameter: the layers that have it, and its name there."""
        homes: dict[int, list[tuple[str, str]]] = {}
        for module, account in self._names.accounts():
            for name, parameter in self._watch.own.parameters(module).items():
                if parameter is not None:
                    homes.setdefault(id(parameter), []).append((account.path, name))
        return homes

    def known(self, tensors: Sequence[torch.Tensor]) -> list[Gradient]:
        """Those of tensors that are outputs of layers."""
        found = map(self._thread.gradients.get, tensors)
        return [known[1] for known in found if known is not None]

    def expect(
        self, account: Account, place: Place, tensor: torch.Tensor, *, leaf: bool
    ) -> Gradient:
        """Look at the gradient of an output when it comes."""
        mark(self._watch, tensor)
        version, known = self._thread.gradients.get(tensor) or (None, None)
        if known is None or (leaf and version != tensor._version):  # changed in place: another one
            known = Gradient(place)
            self._thread.gradients.set(tensor, (tensor._version, known))
            tensor.register_hook(partial(self._arrived, known))
        known.measured.then(partial(self._count, account, known, place))
        return known

    def _count(self, account: Account, gradient: Gradient, place: Place, values: Values) -> None:
        """What arrives as `gradient` is the gradient of this layer's output too."""
        dtype = gradient.dtype or place.dtype
        with self._accounts.lock:
            if gradient.is_scale and values.finite:
                account.got_scale(dtype)
            else:
                account.got_back(place.step, dtype, values)

    def _arrived(self, gradient: Gradient, grad: Any) -> None:
        with self._guard:
            if type(grad) is not torch.Tensor:
                unseen_by(type(grad))
            gradient.dtype = dtype_name(grad.dtype)
            gradient.is_scale = grad.dim() == 0 and grad.dtype in WIDE
            if measurable(grad):
                self._watch.numbers.measure(grad, partial(self._received, gradient))
                place = gradient.place
                if place.call < CALLS and sampled(place.step) and not gradient.is_scale:
                    self._histograms.add(place.path, "gradient", place.step, grad)

    def _received(self, gradient: Gradient, values: Values) -> None:
        gradient.measured.arrive(values)
        if values.inf or values.nan:
            self._origins.gradient(gradient, values)

    def consumed(self, before: Sequence[Gradient], made: Sequence[Gradient]) -> None:
        """A layer without parts computed the outputs of `made` from those of `before`."""
        for gradient in before:
            for each in made:
                if each is not gradient:
                    gradient.consumers.append(each)

    def interrogate(
        self,
        path: str,
        made: Sequence[Gradient],
        inputs: Sequence[torch.Tensor],
        outputs: Sequence[torch.Tensor],
    ) -> None:
        """Look at what a call gives back to its inputs, if it is suspected of making it bad."""
        if not self._origins.suspected.get(path):
            return
        self._origins.suspected[path] -= 1

        def judge(values: Values) -> None:
            arrived = [each.measured.values for each in made]
            if not values.finite and all(each is not None and each.finite for each in arrived):
                self._origins.proved(path)

        def measure(part: torch.Tensor) -> None:
            with self._watch.guard("gradient hook"):
                self._watch.numbers.measure(part, judge)

        parts(outputs, inputs, measure)

    def _before_step(self, optimizer: Any, unscaled: bool) -> None:
        """Note the gradients an optimizer is about to apply, without the loss scale if `unscaled`."""
        index = self._watch.index(optimizer)
        step = self._watch.tracer.step(index)
        looked = self._looked.get(index, 0)  # the first attempts may all be skipped
        look, count = looked < _FIRST or not step % _CHECK, sampled(step)
        self._looked[index] = looked + look
        if not (look or count):
            return
        homes = self._homes()
        for parameter, grad in self._watch.own.pairs(optimizer):
            having = homes.get(id(parameter))
            if grad is None or having is None:
                continue
            if look:
                for path in {path for path, _ in having}:
                    self._watch.tracer.saw(path, "parameter_grad", dtype_name(grad.dtype))
            if count:
                first, _ = having[0]
                self._histograms.add(first, "weight_gradient", step, grad, unscaled=unscaled)

    def _skipped(self, optimizer: Any, step: int) -> None:
        """A step was skipped: if no layer passed bad gradients on, find whose own overflowed.

        That they were passed on may have been told already, as one of the attempt of another optimizer.
        """
        if self._origins.known(step):
            return
        bad: list[tuple[Place, str, Values]] = []
        homes = self._homes()
        pairs = self._watch.own.pairs(optimizer)
        for parameter, gradient in pairs:
            having = homes.get(id(parameter))
            if having is None or gradient is None or not measurable(gradient):
                continue
            if any(self._origins.came_bad(path, step) for path, _ in having):
                continue
            path, name = having[0]
            place = Place(path, step, 0, 0, self._accounts.dtype(path), True)
            self._watch.numbers.measure(gradient, partial(_blame, bad, place, name))
        if not self._watch.turns.looked(step):
            self._origins.parameters(bad, len(pairs))
            return
        for place, name, values in bad:
            self._origins.weights(place, values, name, self._since())

    def _since(self) -> str:
        """What is done to gradients between the layer that makes them and the step."""
        if self._watch.sent_by is not None:
            return f"once `{self._watch.sent_by}` has sent it"
        together = (self._watch.tracer.fact("world_size") or 1) > 1
        return "once those of all ranks are added" if together else ""


def _blame(bad: list[tuple[Place, str, Values]], place: Place, name: str, values: Values) -> None:
    if not values.finite:
        bad.append((place, name, values))
