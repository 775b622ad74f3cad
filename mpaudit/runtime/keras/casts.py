"""Casts between floating dtypes that Keras makes: which layer they belong to, and what they write.

In a graph they are counted while it is traced, which happens once for any number of steps; one number
is read from the graph when it runs: how large the batch is, where a shape leaves that open. A step of
several replicas is over when the last one of them has made it.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol

from msgspec.structs import replace

from mpaudit.runtime.keras.family import Casting, Family
from mpaudit.runtime.keras.patch import Call, Patches
from mpaudit.runtime.keras.register import Watched
from mpaudit.runtime.record import LARGEST, LOW_PRECISION, Cast, CastOf

_FIRST, _EVERY = 2, 100  # eager steps whose casts are counted: the first ones, and every so many
_MOST = 10_000  # casts of one step
_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Size(NamedTuple):
    """How many numbers a tensor has: so many for each sample, of `open` dimensions not yet known."""

    elements: int
    open: int = 0
    replica: int = 0  # that computes it


class Backend(Protocol):
    """What a backend says of its tensors."""

    def looks(self, step: int) -> bool:
        """Whether the casts of what is computed now are counted; `step` is as the host counts."""
        ...

    def size(self, tensor: Any) -> Size | None:
        """None for what is no dense tensor."""
        ...

    def sees_batch(self, tensor: Any) -> None:
        """A tensor has one open dimension: see how large that is when the graph runs."""
        ...

    def batch(self, replica: int) -> float | None:
        """How large that was on average for one replica, None while no graph has run."""
        ...

    def replicas(self) -> tuple[int, int]:
        """Which replica computes now, counted from 0, and of how many."""
        ...


def due(step: int) -> bool:
    """Whether the casts of an eager step are counted."""
    return step < _FIRST or step % _EVERY == 0


class _Step:
    """What is counted of one that is not over."""

    def __init__(self) -> None:
        self.casts: list[tuple[Cast, Size]] = []
        self.fallen: list[tuple[str, str, str]] = []
        self.layers = set[str]()  # with any, in the part of any replica


class _Thread(threading.local):
    def __init__(self) -> None:
        self.calls: list[Watched | None] = []  # None: only to find out shapes
        self.what: Casting | None = None  # that is cast; None: by a layer itself
        self.policy: str | None = None  # what the policy that casts computes in
        self.step = _Step()


class Casts:
    """Counts what goes through Keras' own `cast`, and hands it to the tracer.

    The count of a `Cast` divided by the fact `cast_steps` is what a step costs, as in a run of torch;
    where a layer takes part in some of them only, as in a GAN each half does, `cast_steps_of` it says in
    how many.
    """

    def __init__(self, patches: Patches, backend: Backend) -> None:
        self._patches = patches
        self._tracer = patches.tracer
        self._backend = backend
        self._thread = _Thread()
        self._watched: list[Any] = []  # functions
        self._together = _Step()  # of replicas, each of which has a thread for a part of its step
        self._step = 0
        self._steps = 0
        self._steps_of = Counter[str]()
        self._waiting: list[tuple[Cast, Size]] = []  # for the size of the batch
        self._fallen: dict[str, dict[str, dict[str, int]]] = {}
        self._light = patches.tracer.sampling.light

    def follow(self, family: Family, patches: Patches | None = None) -> None:
        """Watch the casts of one Keras from now on, by whatever name modules know their function.

        What is wrapped is put back by `patches`, where these are others than the probe's.
        """
        patches = patches or self._patches
        cast = family.cast()
        if inspect.unwrap(cast) not in self._watched:
            self._watched.append(inspect.unwrap(cast))
            for module in list(sys.modules.values()):
                if getattr(module, "__dict__", {}).get("cast") is cast:
                    patches.wrap(module, "cast", self._around_cast)
        for (owner, name), what in family.casting.items():
            patches.wrap(owner, name, partial(self._around, what))

    @contextmanager
    def called(self, watched: Watched | None) -> Iterator[None]:
        """A layer is called, with None only to find out shapes."""
        self._thread.calls.append(watched)
        try:
            yield
        finally:
            self._thread.calls.pop()

    def over(self) -> None:
        """Gradients are applied: a step is over, or the graph of one is traced."""
        replica, replicas = self._backend.replicas()
        step = self._here(replicas)
        casts, step.casts = step.casts, []
        fallen, step.fallen = step.fallen, []
        step.layers |= {cast.layer for cast, _ in casts}
        self._waiting += casts
        for path, kind, why in fallen:
            reasons = self._fallen.setdefault(path, {}).setdefault(kind, {})
            reasons[why] = reasons.get(why, 0) + 1
        if replica + 1 < replicas:
            return
        self._step += 1
        layers, step.layers = step.layers, set()
        if not layers:
            return
        self._steps += 1
        self._steps_of.update(layers)
        self._tracer.note("cast_steps", self._steps)
        if some := {each: n for each, n in self._steps_of.items() if n < self._steps}:
            self._tracer.note("cast_steps_of", some)
        if self._fallen:
            self._tracer.note("float32_operations", self._fallen)

    def drain(self) -> None:
        """Hand over what is known whole."""
        waiting, self._waiting = self._waiting, []
        unknown = {size.replica for _, size in waiting if size.open}
        batches = {each: self._backend.batch(each) for each in unknown}
        for cast, size in waiting:
            batch = batches.get(size.replica)
            if size.open and batch is None:
                self._waiting.append((cast, size))
                continue
            samples = batch if size.open and batch is not None else 1
            written = round(size.elements * samples * _BYTES[cast.target])
            self._tracer.cast(replace(cast, bytes=written))

    def _here(self, replicas: int) -> _Step:
        return self._thread.step if replicas == 1 else self._together

    def _around(self, what: Casting, original: Call) -> Call:
        def call(*args: Any, **kwargs: Any) -> Any:
            thread = self._thread
            before = thread.what, thread.policy
            thread.what, thread.policy = what, getattr(args[0], "compute_dtype", None)
            try:
                return original(*args, **kwargs)
            finally:
                thread.what, thread.policy = before

        return call

    def _around_cast(self, original: Call) -> Call:
        def cast(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._thread.calls and not self._patches.busy:
                with self._patches.guarded("cast"):
                    self._cast(args[0] if args else kwargs["x"], result)
            return result

        return cast

    def _cast(self, tensor: Any, result: Any) -> None:
        watched, thread = self._thread.calls[-1], self._thread
        if watched is None or self._light or not self._backend.looks(self._step):
            return
        step = self._here(self._backend.replicas()[1])
        if len(step.casts) >= _MOST:
            return
        source, target = _name(tensor), _name(result)
        if source == target or source not in _BYTES or target not in _BYTES:
            return
        size = self._backend.size(result)
        if size is None or size.open > 1:
            return
        if size.open:
            self._backend.sees_batch(result)
        what: CastOf = "parameter" if thread.what == "parameter" else "activation"
        step.casts.append((Cast(watched.path, what, source, target, 1, 0), size))
        if what == "activation" and source in LOW_PRECISION and target not in LOW_PRECISION:
            # a model may cast to the dtype of its `Input`, whatever its policy says
            by_policy = thread.what == "input" and thread.policy in (None, target)
            why = "policy" if by_policy else "layer"
            step.fallen.append((watched.path, watched.kind, why))


def _name(tensor: Any) -> str:
    dtype = getattr(tensor, "dtype", None)
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.")
    return name if name in LARGEST else ""
