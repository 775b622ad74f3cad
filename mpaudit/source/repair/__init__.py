"""Repairs: from a problem to the edits that mend it. One module for each family of rules."""

from __future__ import annotations

from mpaudit.source.repair import autocast, grad_scaler, keras
from mpaudit.source.repair.registry import Context, repair

FAMILIES = (autocast, grad_scaler, keras)

__all__ = ["FAMILIES", "Context", "repair"]
