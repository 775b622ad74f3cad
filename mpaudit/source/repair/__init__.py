"""Repairs: from a problem to the edits that mend it. One module for each family of rules."""

from __future__ import annotations

from mpaudit.source.repair import (
    accelerate,
    accumulation,
    autocast,
    autograd_function,
    cast_cache,
    checkpoint,
    engine,
    grad_scaler,
    half_checkpoint,
    half_constant,
    half_epsilon,
    half_input,
    half_loss,
    half_parameters,
    half_running,
    half_sums,
    half_unscaled,
    keras,
    keras_clip,
    keras_half,
    keras_legacy,
    keras_logits,
    keras_policy,
    keras_unscale,
    keras_wrapper,
    loss_scaling,
    misplaced_policy,
    mixed_dtypes,
    optimizer,
    owned,
    owned_clip,
    precision_flags,
    refused,
    scaler_use,
    sharded,
    threads,
    unsupported,
)
from mpaudit.source.repair.registry import Context, repair

__all__ = ["Context", "repair"]
