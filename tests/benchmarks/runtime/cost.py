"""Rows about what is counted: exact, and the same on every machine but for the memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch

from ..goal import Goal
from .counted import STEPS, WAITS, Counted, count, mpaudit
from .hooked import Hooked, kept, look
from .loop import SHAPES, Shape
from .worker import WATCHERS

PEERS = ("DebugUnderflowOverflow", "detect_anomaly")
MEMORY = 10  # steps after which memory is counted


def rows(shape: str, device: str = "cpu", *, small: bool = False) -> Iterator[Goal]:
    """All that is counted of one shape."""
    model = Shape(shape, small)
    name = SHAPES[shape] + (", small" if small else "")
    hooked = look(model.loop(device))
    plain = count(model.loop(device))
    ours = count(model.loop(device), lambda _: mpaudit(device))
    peers = {peer: count(model.loop(device), WATCHERS[peer]) for peer in PEERS}

    def goal(work: str, figure: float, limit: float, theirs: dict[str, float]) -> Goal:
        said = ", ".join(f"{peer} {each:.4g}" for peer, each in theirs.items())
        return Goal(f"{name}: {work}", said, figure, limit, "")

    yield goal(
        "waits for the device that a step has more",
        waits(plain, ours),
        0,
        {peer: waits(plain, each) for peer, each in peers.items()},
    )
    asks = {"DebugUnderflowOverflow": 4, "detect_anomaly": 1}  # numbers that each wants of a tensor
    looked = {peer: waits(plain, each) / asks[peer] for peer, each in peers.items()}
    yield goal(
        "operations for each tensor looked at",
        operations(plain, ours) / (hooked.outputs + hooked.gradients),
        2 if device == "cpu" else 1,
        {peer: operations(plain, each) / looked[peer] for peer, each in peers.items()},
    )
    for phase, whole in (("forward", hooked.leaf_bytes), ("backward", hooked.leaf_gradient_bytes)):
        yield goal(
            f"bytes read / bytes of leaf activations, {phase}",
            read(plain, ours, phase) / whole,
            1.1,
            {peer: read(plain, each, phase) / whole for peer, each in peers.items()},
        )
    different = plain.results != ours.results
    yield goal("losses, parameters, random state differ", float(different), 0, {})
    bytes_kept, activations = memory(model, device, hooked)
    yield goal("bytes kept for each tensor looked at", bytes_kept, 1024, {})
    yield goal("activations kept alive", activations, 0, {})


def waits(plain: Counted, watched: Counted) -> int:
    """How often a step waits more for the device."""
    return watched.total()[WAITS] - plain.total()[WAITS]


def operations(plain: Counted, watched: Counted) -> int:
    """How many operations a step has more."""
    return watched.total().total() - plain.total().total()


def read(plain: Counted, watched: Counted, phase: str) -> int:
    """How many bytes a phase reads more."""
    return watched.read[phase] - plain.read[phase]


def memory(model: Shape, device: str, hooked: Hooked) -> tuple[float, int]:
    """Bytes that mpaudit keeps for each tensor, and how many activations it keeps alive.

    The bytes are all that Python holds more than without it, and on a GPU of its memory, after some
    steps and a flush; what is there before the first step, for any model, is not among them.
    """
    found = more(lambda: model.loop(device).step, device)
    with mpaudit(device):
        activations = kept(model.loop(device))
    return found / (hooked.outputs + hooked.gradients), activations


def more(make: Callable[[], Callable[[], None]], device: str = "cpu", steps: int = MEMORY) -> int:
    """Bytes that are held more where mpaudit watches; `make` builds a model and returns its step."""
    for watching in (nullcontext(), mpaudit(device)):  # what is imported and looked up once
        with watching:
            step = make()
            for _ in range(STEPS):
                step()
    return _held(make, True, device, steps) - _held(make, False, device, steps)


def _held(make: Callable[[], Callable[[], None]], watched: bool, device: str, steps: int) -> int:
    """Bytes that are held after some steps, and were not before the model was built."""
    with mpaudit(device) if watched else nullcontext() as tracer:
        before = _on_device(device)
        tracemalloc.start()
        try:
            step = make()
            for _ in range(steps):
                step()
            if tracer is not None:
                tracer.flush()
            gc.collect()
            found = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        return found + _on_device(device) - before


def _on_device(device: str) -> int:
    """Bytes in use on a GPU."""
    return int(torch.cuda.memory_allocated()) if device == "cuda" else 0
