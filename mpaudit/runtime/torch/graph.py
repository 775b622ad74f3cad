"""The graph behind a tensor: what made it, and what is noted at its nodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

_ACTIVATIONS = {"Softmax": "softmax", "LogSoftmax": "log_softmax", "Sigmoid": "sigmoid"}
_TRANSPARENT = {"ToCopy", "View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Clone", "T"}
_NEAR = 64  # nodes of the graph behind a loss that are searched for a mark


def maybe_scaled(loss: torch.Tensor) -> bool:
    """Whether a loss, or its gradient, may have been multiplied by the script itself.

    A factor is not read, as it may be on a GPU or be handed out by a hook: any multiplication counts
    that only divisions and casts come after. An own autograd function from one number to another may
    do anything, and so may a hook.
    """
    hooks = (loss._backward_hooks or {}).values()
    if not all(map(_is_ours, hooks)):
        return True
    node: Any = loss.grad_fn
    for _ in range(8):
        if node is None:
            return False
        kind, before = _kind(node), node.next_functions
        own = isinstance(node, torch.autograd.function.BackwardCFunction)
        if kind == "Mul":
            return True
        if own:
            return _single(node) and any(each is not None and _single(each) for each, _ in before)
        if kind not in _TRANSPARENT and kind not in ("Div", "Neg"):
            return False
        node = before[0][0]
    return False


def _is_ours(hook: Any) -> bool:
    module: str = getattr(getattr(hook, "func", hook), "__module__", None) or ""
    return module.startswith("mpaudit.runtime.")


def _single(node: Any) -> bool:
    """Whether a node stands for one number, as far as torch tells."""
    made: Any = getattr(node, "_input_metadata", ())
    return len(made) == 1 and math.prod(made[0].shape) == 1


def _kind(node: Any) -> str:
    name: str = node.name()
    return name.removesuffix("0").removesuffix("Backward")


def activation(node: Any) -> str | None:
    """The activation that a tensor is the result of, casts and views aside; None if unknown."""
    for _ in range(8):
        if node is None:
            return None
        name = _kind(node)
        if name in _ACTIVATIONS:
            return _ACTIVATIONS[name]
        if name not in _TRANSPARENT:
            return None
        node = node.next_functions[0][0]
    return None


def marks_behind(node: Any) -> Iterable[dict[str, Any]]:
    """The marks on the graph behind `node`, the nearest first; nodes without any are left out."""
    near: list[Any] = [node, *[None] * (_NEAR - 1)]
    seen: dict[Any, None] = {node: None}
    at, end = 0, 1
    while at < end:
        here = near[at]
        at += 1
        behind = here.next_functions if here is not None else ()
        if behind and (marks := here.metadata):  # the others are parameters: they outlive the step
            yield marks
        for further, _ in behind:
            if end < _NEAR and further is not None and further not in seen:
                seen[further], near[end] = None, further
                end += 1
