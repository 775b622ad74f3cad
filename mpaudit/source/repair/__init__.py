"""Repairs: from a problem to the edits that mend it. One module for each family of rules."""

from __future__ import annotations

from mpaudit.source.repair import (
    accelerate,
    accumulation,
    autocast,
    autograd_function,
    cast_cache,
    checkpoint,
    grad_scaler,
    half_constant,
    half_epsilon,
    half_input,
    half_loss,
    half_parameters,
    half_running,
    half_sums,
    half_unscaled,
    keras,
    loss_scaling,
    mixed_dtypes,
    optimizer,
    owned,
    owned_clip,
    refused,
    scaler_use,
    threads,
    unsupported,
)
from mpaudit.source.repair.registry import Context, repair

FAMILIES = (
    accelerate,
    accumulation,
    autocast,
    autograd_function,
    cast_cache,
    checkpoint,
    grad_scaler,
    half_constant,
    half_epsilon,
    half_input,
    half_loss,
    half_parameters,
    half_running,
    half_sums,
    half_unscaled,
    keras,
    loss_scaling,
    mixed_dtypes,
    optimizer,
    owned,
    owned_clip,
    refused,
    scaler_use,
    threads,
    unsupported,
)

__all__ = ["FAMILIES", "Context", "repair"]
