"""What one layer gives back to its input, apart from what else the input's gradient is made of.

A tensor's gradient is the sum over all that used the tensor, so that it does not tell which of them
went wrong. The nodes of the graph do: each hands over its own part. They are asked only once a layer
is under suspicion, because that is one measurement more for each use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mpaudit.runtime.torch.measure import measurable

_MANY = 256  # nodes of one call that are searched


def parts(
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    receive: Callable[[torch.Tensor], None],
) -> None:
    """Have `receive` called, in the backward pass, with each part of the gradient of `inputs` that
    comes from the operations between them and `outputs`."""
    ends = [tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None]
    queue = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen = {*ends, *queue}
    for node in queue:
        into = [number for number, (next_, _) in enumerate(node.next_functions) if next_ in ends]
        if into:
            node.register_hook(_hook(into, receive))
        for next_, _ in node.next_functions:
            if next_ is not None and next_ not in seen and len(queue) < _MANY:
                seen.add(next_)
                queue.append(next_)


def _hook(numbers: Sequence[int], receive: Callable[[torch.Tensor], None]) -> Callable[..., None]:
    def hook(back: Any, _: Any) -> None:
        for number in numbers:
            part = back[number] if number < len(back) else None
            if isinstance(part, torch.Tensor) and measurable(part):
                receive(part)

    return hook
