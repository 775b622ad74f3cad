"""How events name the objects of a run: a key, and what the script calls it."""

from __future__ import annotations

import itertools
import weakref
from contextlib import AbstractContextManager
from heapq import heappop, heappush
from types import CodeType, FrameType
from typing import Any

import torch
from msgspec import Struct

from mpaudit.event import Ref
from mpaudit.runtime.frame import spelling
from mpaudit.runtime.torch.known import Known

_Tensor = torch.Tensor
_VAIN = 8  # times that it is looked for what the script calls a thing: it may be in a list


class _Named(Struct):
    """How events name an object, and how often it was looked for what the script calls it."""

    ref: Ref
    looked: int = 0


class _Spelled(Struct):
    """What a piece of code called the losses that it had in hand, and how often on end."""

    code: CodeType  # which is kept, so that no other has its identity
    text: str
    times: int = 1


class _Loss(weakref.ref[Any]):
    """A loss, which nothing keeps, and how events name it."""

    __slots__ = ("number", "ref")

    number: int
    ref: Ref


class Refs:
    """Names of objects; that of one stays the same as long as it lives."""

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self._lock = lock
        self._named = Known()  # object -> how events name it
        self._held = self._named.held
        self._spellings: dict[tuple[int, int], _Spelled] = {}  # by code and instruction
        self._losses: list[_Loss] = []  # by number: the one that had it last
        self._gone: list[Any] = []  # those of them that are no more
        self._free: list[int] = []  # their numbers, as a heap
        self._numbers = itertools.count(1)

    def ref(self, thing: object, frame: FrameType | None = None) -> Ref:
        """The object as events name it; equal for the same object, spelled as in `frame`."""
        held = self._held.get(id(thing))
        named: _Named | None = held.value if held is not None and held() is thing else None
        if named is not None and (frame is None or named.looked == _VAIN):
            return named.ref
        loss = isinstance(thing, _Tensor)
        text = spelling(thing, frame) if frame is None or not loss else self._spelled(thing, frame)
        if named is None:
            named = _Named(self._new_loss(thing, text) if loss else Ref(next(self._numbers), text))
            self._named.set(thing, named)
        elif text != named.ref.text:
            named.ref = Ref(named.ref.key, text)
        if text != type(thing).__name__:
            named.looked = _VAIN
        elif frame is not None:
            named.looked += 1
        return named.ref

    def _spelled(self, loss: object, frame: FrameType) -> str:
        """What the script calls a loss, which is another object in each step: where it was called the same
        some times on end, it is not looked for again."""
        code = frame.f_code
        found = self._spellings.get((id(code), frame.f_lasti))
        if found is not None and found.times == _VAIN:
            return found.text
        text = spelling(loss, frame)
        if found is None or found.text != text:
            self._spellings[id(code), frame.f_lasti] = _Spelled(code, text)
        else:
            found.times += 1
        return text

    def _new_loss(self, thing: object, text: str) -> Ref:
        """What names a loss among those that live.

        It has that of one that is gone: what is done with it is then what was done in the step before.
        """
        loss = _Loss(thing, self._gone.append)
        with self._lock:
            while self._gone:
                heappush(self._free, self._gone.pop().number)
            if self._free:
                loss.number = heappop(self._free)
                before, self._losses[loss.number] = self._losses[loss.number].ref, loss
                loss.ref = before if before.text == text else Ref(before.key, text)
            else:
                loss.number = len(self._losses)
                loss.ref = Ref(("loss", loss.number), text)
                self._losses.append(loss)
        return loss.ref
