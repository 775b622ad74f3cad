"""Events of a training loop, fed to the protocols as they happen."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import FrameType
from typing import Any

import torch

from mpaudit.event import LostSight
from mpaudit.finding import Moment
from mpaudit.runtime.frame import frame_span
from mpaudit.runtime.lane import Way
from mpaudit.runtime.torch.guard import unseen_by
from mpaudit.runtime.torch.watch import Watch

_Tensor = torch.Tensor


class Narration:
    """Tells the protocols what a loop does, at the line of the script that does it."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._repeats = watch.tracer.repeats
        self.ref = watch.ref
        """Names an object as events do, spelled as in a frame of the script's code."""
        self._lanes: dict[Hashable, int] = {}  # scaler -> the thread that used it last
        self._now = Moment(0)

    def feed(self, make: Callable[..., Any], frame: FrameType | None, /, **facts: Any) -> None:
        """Make an event of what is under way, with these `facts`, and feed it to the protocols.

        `frame` is that of the script's code which does it, None if there is none.
        """
        way: Way | None = None
        if frame is not None:
            way = make, id(frame.f_code), frame.f_lasti, facts  # whose code is kept with its span
            if self._repeats(way):
                return
        step, moment = self._watch.tracer.step(), self._now
        if moment.step != step:
            moment = self._now = Moment(step)
        at, feed = frame_span(frame), self._watch.tracer.feed
        if "scaler" in facts:
            lane, scaler = self._watch.thread.lane, facts["scaler"]
            if self._lanes.get(scaler.key, lane) != lane:  # its order is whole in neither
                feed(LostSight(at=at, objects=frozenset({scaler.key})), moment, threaded=True)
            self._lanes[scaler.key] = lane
        feed(make(at=at, **facts), moment, threaded=True, way=way)


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a tensor, a list or a tuple."""
    if type(value) is _Tensor:
        return [value]
    if isinstance(value, _Tensor):
        unseen_by(type(value))
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in tensors_in(each)]
    return []
