"""What happens to mixed precision in a training loop, in order: the vocabulary of both witnesses.

The static half produces these events by executing the source abstractly, path by path; the runtime
half by watching the real run. `mpaudit.protocols` consumes them and cannot tell the two apart.
"""

from __future__ import annotations

from mpaudit.event.accelerate import (
    Accelerated,
    AcceleratorBackward,
    AcceleratorUnscaled,
    PlainBackward,
    Prepared,
    PreparedStep,
)
from mpaudit.event.autocast import (
    Captured,
    CastCacheCleared,
    FunctionApplied,
    RegionBackward,
    RegionStep,
    SentToDevice,
)
from mpaudit.event.checkpoint import ScalerStateTaken, StateSaved
from mpaudit.event.combination import CombinationRefused
from mpaudit.event.core import Event, LostSight, Ref, Region
from mpaudit.event.dtype import ConstantMet, DtypesMixed, HalfKept, HalfLoss, InputHalved
from mpaudit.event.engine import (
    EngineBackward,
    EngineConfigured,
    EngineRawBackward,
    EngineStep,
)
from mpaudit.event.forward import RegionMissed, ThreadForward
from mpaudit.event.grad_scaler import (
    Backward,
    GradientsClipped,
    GradientsZeroed,
    LossScaled,
    OptimizerStep,
    ScalerLoaded,
    ScalerMade,
    ScalerStep,
    ScalerUpdate,
    Unscaled,
)
from mpaudit.event.half_running import HalfAdded, HalfAverageMoved, HalfMetricMade
from mpaudit.event.half_step import HalfStep, HalfUnscaled
from mpaudit.event.half_sum import SquaresReduced
from mpaudit.event.half_trained import HalfTrained, HalfVariableTrained
from mpaudit.event.hooked import GradientsHooked
from mpaudit.event.keras import (
    GradientsApplied,
    LayerMade,
    ModelLoaded,
    ModelMade,
    ModelSaved,
    PolicyMade,
    PolicyRefused,
    PolicySet,
    StrategyMade,
    TapeGradient,
)
from mpaudit.event.keras_half import (
    HalfLossGiven,
    HalfLossMade,
    InputBeyondHalf,
    PredictionsUsed,
    RawLoss,
    TensorsMixed,
)
from mpaudit.event.keras_scaling import (
    LegacyScaling,
    OptimizerWrapped,
    TapeGradientsClipped,
    TapeGradientsUnscaled,
)
from mpaudit.event.logarithm import LogTaken
from mpaudit.event.model import Forward, LossComputed
from mpaudit.event.no_grad import CachingForward
from mpaudit.event.owned import OwnedBackward, OwnedClip, OwnedStep, OwnedUnscaled, RawBackward
from mpaudit.event.penalty import ScaledGradientTaken, ScaledPartScaled
from mpaudit.event.precision import PrecisionAsked, PrecisionRefused
from mpaudit.event.sanitized import GradientsSanitized
from mpaudit.event.scaler_use import GradientRead, ScaleAsked, ScaledBare, ScaledLossRead
from mpaudit.event.schedule import SchedulerStep
from mpaudit.event.sharded import PlainScalerStep
from mpaudit.event.unsupported import HalfGiven

__all__ = [
    "Accelerated",
    "AcceleratorBackward",
    "AcceleratorUnscaled",
    "Backward",
    "CachingForward",
    "Captured",
    "CastCacheCleared",
    "CombinationRefused",
    "ConstantMet",
    "DtypesMixed",
    "EngineBackward",
    "EngineConfigured",
    "EngineRawBackward",
    "EngineStep",
    "Event",
    "Forward",
    "FunctionApplied",
    "GradientRead",
    "GradientsApplied",
    "GradientsClipped",
    "GradientsHooked",
    "GradientsSanitized",
    "GradientsZeroed",
    "HalfAdded",
    "HalfAverageMoved",
    "HalfGiven",
    "HalfKept",
    "HalfLoss",
    "HalfLossGiven",
    "HalfLossMade",
    "HalfMetricMade",
    "HalfStep",
    "HalfTrained",
    "HalfUnscaled",
    "HalfVariableTrained",
    "InputBeyondHalf",
    "InputHalved",
    "LayerMade",
    "LegacyScaling",
    "LogTaken",
    "LossComputed",
    "LossScaled",
    "LostSight",
    "ModelLoaded",
    "ModelMade",
    "ModelSaved",
    "OptimizerStep",
    "OptimizerWrapped",
    "OwnedBackward",
    "OwnedClip",
    "OwnedStep",
    "OwnedUnscaled",
    "PlainBackward",
    "PlainScalerStep",
    "PolicyMade",
    "PolicyRefused",
    "PolicySet",
    "PrecisionAsked",
    "PrecisionRefused",
    "PredictionsUsed",
    "Prepared",
    "PreparedStep",
    "RawBackward",
    "RawLoss",
    "Ref",
    "Region",
    "RegionBackward",
    "RegionMissed",
    "RegionStep",
    "ScaleAsked",
    "ScaledBare",
    "ScaledGradientTaken",
    "ScaledLossRead",
    "ScaledPartScaled",
    "ScalerLoaded",
    "ScalerMade",
    "ScalerStateTaken",
    "ScalerStep",
    "ScalerUpdate",
    "SchedulerStep",
    "SentToDevice",
    "SquaresReduced",
    "StateSaved",
    "StrategyMade",
    "TapeGradient",
    "TapeGradientsClipped",
    "TapeGradientsUnscaled",
    "TensorsMixed",
    "ThreadForward",
    "Unscaled",
]
