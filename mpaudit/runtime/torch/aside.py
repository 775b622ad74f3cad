"""Work of mpaudit's own on tensors, which the user's training does not notice."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

aside = torch._C._AutoDispatchBelowAutograd
"""Keeps what is measured out of the graph, reverse and forward: cheaper than torch.no_grad()."""


def unwatched() -> AbstractContextManager[Any]:
    """Keeps what is measured out of the sight of the user's own dispatch modes."""
    watching = torch._C._len_torch_dispatch_stack() > 0
    return _disable_current_modes() if watching else nullcontext()
