"""The same values cast again and again within one step, or there and back (MP906)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

import torch
from msgspec import Struct, field

from mpaudit.finding import Moment, Position, Problem, Span
from mpaudit.runtime.torch.known import Known
from mpaudit.runtime.torch.regions import dtype_name
from mpaudit.runtime.torch.watch import Watch

OFTEN = 3  # casts of the same weights to the same dtype, or ways there and back, in one step
MANY = 8  # the same of activations: one input of a query, a key and a value is common

Scope = tuple[int, int]
"""A step, and the outermost region that is entered: on leaving it autocast forgets its casts."""


class _Again(Struct):
    """The casts of one layer in one step that repeat an earlier one, and the bytes they write.

    `most` is how often the same values were cast; `there_and_back` counts casts of what a cast had
    made of the dtype they lead to.
    """

    step: int
    what: str = ""
    dtypes: tuple[str, str] = ("", "")
    again: int = 0
    bytes: int = 0
    most: int = 0
    there_and_back: int = 0

    @property
    def often(self) -> bool:
        """Whether it is worth a word."""
        return self.most >= (OFTEN if self.what == "parameter" else MANY)


class _Seen(Struct):
    """Casts of one tensor within one scope, by what of it was cast to which dtype."""

    scope: Scope
    counts: dict[Hashable, int] = field(default_factory=dict)


class Repeats:
    """Follows the casts of sampled steps; tensors are told apart as objects, by their versions."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._seen = Known()  # tensor, of a view its base -> _Seen, until the step is over
        self._made = Known()  # result of a cast -> (the dtype it had before, scope)
        self._layers: dict[str, _Again] = {}
        self._any = False  # casts in this step
        watch.tracer.judging.append(self.problems)
        watch.tracer.forgetting.append(lambda: self._layers.clear())

    def cast(self, path: str, step: int, tensor: Any, result: Any) -> None:
        """A tensor was cast within a layer."""
        self._any = True
        scope = step, self._watch.thread.entries
        known = self._layers.get(path)
        if known is None or known.step != step:
            if known is not None and (known.often or known.there_and_back >= OFTEN):
                return  # one such step tells it all
            known = self._layers[path] = _Again(step)
        base = tensor._base if isinstance(tensor._base, torch.nn.Parameter) else tensor
        what = "parameter" if isinstance(base, torch.nn.Parameter) else "activation"
        count = self._count(scope, base, tensor, result.dtype)
        if count > 1:
            known.again += 1
            known.bytes += result.numel() * result.element_size()
            self._note()
        if count > known.most:
            known.what, known.most = what, count
            known.dtypes = dtype_name(tensor.dtype), dtype_name(result.dtype)
        if self._made.get(tensor) == (result.dtype, scope):
            known.there_and_back += 1
        self._made.set(result, (tensor.dtype, scope))

    def over(self) -> None:
        """A step is over: what was cast in it, and in layers that repeat nothing, is forgotten."""
        if self._any:
            self._seen, self._any = Known(), False
            there = self._layers.items()
            self._layers = {p: each for p, each in there if each.again or each.there_and_back}

    def _count(self, scope: Scope, base: Any, tensor: Any, dtype: Any) -> int:
        seen: _Seen | None = self._seen.get(base)
        if seen is None or seen.scope != scope:
            seen = _Seen(scope)
            self._seen.set(base, seen)
        version = None if tensor.is_inference() else tensor._version
        part = tensor.storage_offset(), tensor.shape, tensor.stride()
        key = version, part, dtype
        seen.counts[key] = seen.counts.get(key, 0) + 1
        return seen.counts[key]

    def _note(self) -> None:
        counted = {path: each.again for path, each in self._layers.items() if each.again}
        self._watch.tracer.note("repeated_casts", counted)

    def problems(self) -> Iterator[Problem]:
        """One finding for each place in the source, about the layer that repeats most."""
        places: dict[tuple[str, int], list[tuple[str, _Again]]] = {}
        for path, again in self._layers.items():
            layer = self._watch.tracer.known(path)
            place = layer.filename or "<unknown>", layer.row or 1
            places.setdefault(place, []).append((path, again))
        for (filename, row), found in places.items():
            path, again = max(found, key=lambda each: (each[1].often, each[1].most))
            back = sum(each.there_and_back for _, each in found)
            size = sum(each.bytes for _, each in found)
            if again.often:
                source, target = again.dtypes
                message = (
                    f"the same {'weights' if again.what == 'parameter' else 'values'} of "
                    f"{_title(path)} are cast from {source} to {target} {again.most} times in one step"
                )
                consequence = (
                    f"{sum(e.again for _, e in found)} casts of a step, {size} bytes, repeat others"
                )
            elif back >= OFTEN:
                message = f"{_title(path)} casts back what was cast just before it"
                consequence = f"{back} casts of a step undo another one"
            else:
                continue
            at, layer = Position(row, 1), self._watch.tracer.known(path)
            moment = Moment(again.step, path, layer.type)
            yield Problem(
                "repeated-cast", Span(filename, at, at), message, consequence, moment=moment
            )


def _title(path: str) -> str:
    return f"layer {path!r}" if path else "the model"
