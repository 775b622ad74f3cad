"""The checks that need no order of events: each looks at a module and yields problems and fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mpaudit.checks import (
    apex_amp,
    assumed_bfloat16,
    autocast_never_entered,
    bad_autocast_argument,
    bad_scaler_argument,
    compiled_backward_autocast,
    dead_amp_branch,
    deprecated_torch_amp,
    evaluation_outside_autocast,
    experimental_keras_policy,
    hot_loop_sync,
    leaking_policy,
    legacy_lightning_precision,
    log_of_softmax,
    low_precision_reduce,
    misused_custom_fwd,
    mixed_tf32_api,
    prefer_bfloat16,
    tensor_core_misaligned,
    tf32_not_enabled,
    unprotected_autograd_function,
    unsuitable_hardware,
)
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.text.module import Module

Check = Callable[[Module], Iterator[tuple[Problem, Fix | None]]]

CHECKS: tuple[Check, ...] = (
    deprecated_torch_amp.check,
    experimental_keras_policy.check,
    apex_amp.check,
    legacy_lightning_precision.check,
    bad_autocast_argument.check,
    bad_scaler_argument.check,
    autocast_never_entered.check,
    misused_custom_fwd.check,
    mixed_tf32_api.check,
    assumed_bfloat16.check,
    dead_amp_branch.check,
    low_precision_reduce.check,
    unprotected_autograd_function.check,
    log_of_softmax.check,
)

ADVICE: tuple[Check, ...] = (
    tensor_core_misaligned.check,
    evaluation_outside_autocast.check,
    compiled_backward_autocast.check,
    unsuitable_hardware.check,
    hot_loop_sync.check,
    tf32_not_enabled.check,
    prefer_bfloat16.check,
    leaking_policy.check,
)
"""Checks of rules that are off unless selected: they look only where something is selected."""
