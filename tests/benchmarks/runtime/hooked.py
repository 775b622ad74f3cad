"""What there is to look at in a step, by hooks that know nothing of mpaudit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch

from .counted import size, tensors
from .loop import Loop


@dataclass(slots=True)
class Hooked:
    """Floating tensors that modules gave out, each version of each counted once, and their bytes.

    `leaf_bytes` are of those that came from modules without parts; of all, `gradients` are in a graph.
    `rectified` are those that a ReLU makes of an output as it was given out: their numbers are known.
    `normalised` are those that went into a batch norm as they were given out.
    """

    outputs: int = 0
    gradients: int = 0
    bytes: int = 0
    leaf_bytes: int = 0
    leaf_gradient_bytes: int = 0
    rectified: int = 0
    rectified_bytes: int = 0
    normalised: int = 0
    normalised_bytes: int = 0


def look(loop: Loop) -> Hooked:
    """Count what a step's forward pass makes."""
    found = Hooked()
    alive: list[torch.Tensor] = []  # so that no two tensors have the same id
    seen: set[tuple[int, int]] = set()
    given: dict[int, int] = {}  # of a ReLU: the input, and its version before

    def before(module: Any, inputs: Any) -> None:
        if isinstance(module, torch.nn.ReLU):
            given[id(inputs[0])] = inputs[0]._version
        if isinstance(module, torch.nn.BatchNorm2d):
            known = (id(inputs[0]), inputs[0]._version) in seen
            found.normalised += known
            found.normalised_bytes += known * size(inputs[0])

    def hook(module: Any, inputs: Any, output: Any) -> None:
        for tensor in tensors(output):
            key = id(tensor), tensor._version
            if not tensor.is_floating_point() or key in seen:
                continue
            seen.add(key)
            alive.append(tensor)
            leaf = not module._modules
            if isinstance(module, torch.nn.ReLU) and (id(inputs[0]), given[id(inputs[0])]) in seen:
                found.rectified += 1
                found.rectified_bytes += size(tensor)
            found.outputs += 1
            found.gradients += tensor.requires_grad
            found.bytes += size(tensor)
            found.leaf_bytes += leaf * size(tensor)
            found.leaf_gradient_bytes += leaf * tensor.requires_grad * size(tensor)

    with _hooks(loop, hook, before):
        loop.step()
    return found


def kept(loop: Loop) -> int:
    """How many outputs of modules are still there after a step, and after a forward pass without
    gradients, but for its result."""
    alive: list[ref[torch.Tensor]] = []

    def hook(_: Any, __: Any, output: Any) -> None:
        alive.extend(ref(each) for each in tensors(output))

    with _hooks(loop, hook):
        loop.step()
        after = {id(each()) for each in alive if each() is not None}
        alive.clear()
        with torch.no_grad():
            result = loop.model(loop.batch[0])
        results = set(map(id, tensors(result)))
        after |= {id(each()) for each in alive if each() is not None} - results
    return len(after)


@contextmanager
def _hooks(loop: Loop, hook: Any, before: Any = lambda *_: None) -> Iterator[None]:
    with ExitStack() as stack:
        for module in loop.model.modules():
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(hook).remove)
        yield
