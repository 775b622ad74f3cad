"""What layers give out: dtypes and numbers go to their accounts, what is not finite to its origin."""

from __future__ import annotations

from typing import Any

import torch

from mpaudit.runtime.account import Account, Accounts
from mpaudit.runtime.frame import user_span
from mpaudit.runtime.headroom import Headroom
from mpaudit.runtime.measured import Measured, Place, Values
from mpaudit.runtime.origin import Origins
from mpaudit.runtime.torch.measure import measurable
from mpaudit.runtime.torch.names import Names, type_name
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch


class Outputs:
    """Makes layers known, and takes what was read of their outputs."""

    def __init__(self, watch: Watch, names: Names, accounts: Accounts, origins: Origins) -> None:
        self._watch = watch
        self._names = names
        self._accounts = accounts
        self._origins = origins
        self._shared: dict[str, list[str]] = {}
        self._headroom = Headroom(watch.tracer.known)
        watch.tracer.judging.append(self._headroom.problems)
        watch.tracer.forgetting.append(self._forget)
        watch.tracer.draining.append(self._hand_over)
        watch.patches.also(lambda: self._hand_over(last=True))

    def _forget(self) -> None:
        self._headroom.forget()
        if self._shared:
            self._shared.clear()
            self._watch.tracer.note("shared", {})

    def _hand_over(self, *, last: bool = False) -> None:
        with self._watch.guard("handing over"):
            self._accounts.hand_over()
        for course in self._headroom.courses(last=last):
            self._watch.tracer.peaks(course)

    def known(self, module: Any, account: Account) -> None:
        """Make the layer known, and the dtypes of its own parameters and buffers."""
        part, tracer, path = self._names.part(module), self._watch.tracer, account.path
        part.account = account
        parameters = self._watch.own.parameters(module).values()
        own = [*parameters, *module._buffers.values()]
        dtypes = tuple([each.dtype for each in own if each is not None])
        if part.dtypes == dtypes:
            return
        span = user_span()
        tracer.claims.used(self._watch.framework)
        tracer.layer(path, type_name(module), filename=span.filename, row=span.start.row)
        for parameter in parameters:
            if parameter is not None and parameter.is_floating_point():
                tracer.saw(path, "parameter", dtype_name(parameter.dtype))
        for buffer in module._buffers.values():
            if buffer is not None and buffer.is_floating_point():
                tracer.saw(path, "buffer", dtype_name(buffer.dtype))
        part.dtypes = dtypes
        if len(part.holders) > 1 and (others := self._names.others(module, path)):
            self._shared[path] = others
            tracer.note("shared", dict(self._shared))

    def place(
        self, account: Account, step: int, number: int, turn: int, tensor: torch.Tensor
    ) -> Place:
        """Where an output came from."""
        dtype = dtype_name(tensor.dtype)
        return Place(account.path, step, number, turn, dtype, account.parameters)

    def came(self, account: Account, place: Place) -> None:
        """An output came, read or not."""
        with self._accounts.lock:
            account.made(place.dtype)

    def gave(self, account: Account, place: Place, values: Values, *, training: bool) -> None:
        """An output was measured."""
        with self._accounts.lock:
            account.gave(place.step, place.dtype, values)
        if training and place.dtype == "float16":
            self._headroom.add(place.path, place.step, values.amax, finite=values.finite)

    def went_bad(
        self,
        place: Place,
        values: Values,
        sources: list[Measured | None],
        module: Any,
        *,
        outermost: bool,
    ) -> None:
        """An output is not finite; `module` is the layer as it was then, None if that is past."""
        if not values.only_minus:  # a mask that is put in front of a softmax in every step
            self._watch.turns.alarm()
        own = self._watch.own.parameters(module).items() if module is not None else ()
        now = self._watch.numbers.now
        bad = [
            n for n, each in own if each is not None and measurable(each) and not now(each).finite
        ]
        known = [each for each in sources if each is not None]
        outermost &= self._watch.glances or self._watch.turns.every == 1  # else some are not seen
        self._origins.output(place, values, known, bad[0] if bad else None, outermost)
