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
    torch_nn,
    torch_optim,
)
from mpaudit.source.library.registry import (
    adopt,
    attribute,
    augmented,
    entering,
    harmless,
    kind_of,
    stated_kind,
    summary,
)

FAMILIES = (
    python,
    torch_amp,
    torch_nn,
    torch_optim,
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
    "attribute",
    "augmented",
    "entering",
    "harmless",
    "kind_of",
    "stated_kind",
    "summary",
]
