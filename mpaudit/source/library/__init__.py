"""What calls to known libraries do: summaries in place of the libraries' own code.

One module for each library or part of it. A summary is a function of a `Call`; it makes values, learns
facts about them and emits events. `None` means that this call is not one it knows.
"""

from __future__ import annotations

from mpaudit.source.library import (
    keras_layers,
    keras_losses,
    keras_models,
    keras_optimizers,
    keras_policy,
    keras_training,
    python,
    torch_amp,
    torch_autograd,
    torch_bare,
    torch_checkpoint,
    torch_constants,
    torch_containers,
    torch_gradient,
    torch_half,
    torch_nn,
    torch_optim,
    torch_region,
    torch_tensor,
    trainers,
)
from mpaudit.source.library.registry import (
    adopt,
    applied,
    attribute,
    augmented,
    entering,
    finished,
    harmless,
    kind_of,
    operated,
    stated_kind,
    summary,
)

FAMILIES = (
    python,
    torch_amp,
    torch_autograd,
    torch_bare,
    torch_checkpoint,
    torch_gradient,
    torch_nn,
    torch_optim,
    trainers,
    torch_region,
    torch_tensor,
    torch_half,
    torch_constants,
    torch_containers,
    keras_policy,
    keras_layers,
    keras_losses,
    keras_models,
    keras_optimizers,
    keras_training,
)

__all__ = [
    "FAMILIES",
    "adopt",
    "applied",
    "attribute",
    "augmented",
    "entering",
    "finished",
    "harmless",
    "kind_of",
    "operated",
    "stated_kind",
    "summary",
]
