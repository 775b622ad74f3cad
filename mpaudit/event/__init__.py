"""What happens to mixed precision in a training loop, in order: the vocabulary of both witnesses.

The static half produces these events by executing the source abstractly, path by path; the runtime
half by watching the real run. `mpaudit.protocols` consumes them and cannot tell the two apart.
"""

from __future__ import annotations

from mpaudit.event.core import Event, LostSight, Ref, Region
from mpaudit.event.grad_scaler import (
    Backward,
    GradientsClipped,
    GradientsZeroed,
    LossScaled,
    OptimizerStep,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.event.keras import GradientsApplied, LayerMade, ModelMade, PolicySet, TapeGradient
from mpaudit.event.model import Forward, LossComputed

__all__ = [
    "Backward",
    "Event",
    "Forward",
    "GradientsApplied",
    "GradientsClipped",
    "GradientsZeroed",
    "LayerMade",
    "LossComputed",
    "LossScaled",
    "LostSight",
    "ModelMade",
    "OptimizerStep",
    "PolicySet",
    "Ref",
    "Region",
    "ScalerMade",
    "ScalerStep",
    "ScalerUpdate",
    "TapeGradient",
    "Unscaled",
]
