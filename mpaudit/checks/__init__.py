"""The checks that need no order of events: each looks at a module and yields problems and fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mpaudit.checks import (
    apex_amp,
    assumed_bfloat16,
    autocast_never_entered,
    bad_autocast_argument,
    bad_scaler_argument,
    dead_amp_branch,
    deprecated_torch_amp,
    experimental_keras_policy,
    legacy_lightning_precision,
    log_of_softmax,
    low_precision_reduce,
    misused_custom_fwd,
    mixed_tf32_api,
    unprotected_autograd_function,
)
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.module import Module

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
