"""The protocols of mixed precision, each written once, as a state machine over `mpaudit.event`.

Whoever adds a rule about order adds it here, never to the static or the runtime half.
"""

from __future__ import annotations

from collections.abc import Iterable

from mpaudit.protocols.accelerate import AccelerateProtocol
from mpaudit.protocols.accelerate_accumulation import AccelerateAccumulationProtocol
from mpaudit.protocols.accelerate_scaler import AccelerateScalerProtocol
from mpaudit.protocols.accumulation import AccumulationProtocol
from mpaudit.protocols.autocast import AutocastProtocol
from mpaudit.protocols.autograd_function import AutogradFunctionProtocol
from mpaudit.protocols.bare_scaler import BareScalerProtocol
from mpaudit.protocols.cast_cache import CastCacheProtocol
from mpaudit.protocols.checkpoint import CheckpointProtocol
from mpaudit.protocols.combination import CombinationProtocol
from mpaudit.protocols.engine import EngineProtocol
from mpaudit.protocols.engine_config import EngineConfigProtocol
from mpaudit.protocols.grad_scaler import GradScalerProtocol
from mpaudit.protocols.gradient_read import GradientReadProtocol
from mpaudit.protocols.guard import GuardProtocol
from mpaudit.protocols.half_constants import HalfConstantsProtocol
from mpaudit.protocols.half_input import HalfInputProtocol
from mpaudit.protocols.half_loss import HalfLossProtocol
from mpaudit.protocols.half_parameters import HalfParametersProtocol
from mpaudit.protocols.half_running import HalfRunningProtocol
from mpaudit.protocols.half_sums import HalfSumsProtocol
from mpaudit.protocols.half_trained import HalfTrainedProtocol
from mpaudit.protocols.half_unscaled import HalfUnscaledProtocol
from mpaudit.protocols.hooked_gradients import HookedGradientsProtocol
from mpaudit.protocols.keras_half import KerasHalfProtocol
from mpaudit.protocols.keras_loss_scale import KerasLossScaleProtocol
from mpaudit.protocols.keras_policy import KerasPolicyProtocol
from mpaudit.protocols.keras_scaling import KerasScalingProtocol
from mpaudit.protocols.logarithm import LogarithmProtocol
from mpaudit.protocols.logits import LogitsProtocol
from mpaudit.protocols.loss_scaling import LossScalingProtocol
from mpaudit.protocols.misplaced_policy import MisplacedPolicyProtocol
from mpaudit.protocols.mixed_dtypes import MixedDtypesProtocol
from mpaudit.protocols.no_grad_cache import NoGradCacheProtocol
from mpaudit.protocols.optimizer_match import OptimizerMatchProtocol
from mpaudit.protocols.owned_backward import OwnedBackwardProtocol
from mpaudit.protocols.owned_gradients import OwnedGradientsProtocol
from mpaudit.protocols.penalty import PenaltyProtocol
from mpaudit.protocols.precision_flags import PrecisionFlagsProtocol
from mpaudit.protocols.protocol import Protocol
from mpaudit.protocols.refused import RefusedProtocol
from mpaudit.protocols.region_missed import RegionMissedProtocol
from mpaudit.protocols.repeated_step import RepeatedStepProtocol
from mpaudit.protocols.sanitized import SanitizedProtocol
from mpaudit.protocols.scaled_loss import ScaledLossProtocol
from mpaudit.protocols.scaler_use import ScalerUseProtocol
from mpaudit.protocols.schedule import ScheduleProtocol
from mpaudit.protocols.sharded import ShardedProtocol
from mpaudit.protocols.stepping import SteppingProtocol
from mpaudit.protocols.unsupported import UnsupportedProtocol

_ALL: tuple[type[Protocol], ...] = (
    GradScalerProtocol,
    AutocastProtocol,
    RegionMissedProtocol,
    CastCacheProtocol,
    NoGradCacheProtocol,
    AutogradFunctionProtocol,
    OptimizerMatchProtocol,
    SteppingProtocol,
    RepeatedStepProtocol,
    AccumulationProtocol,
    GuardProtocol,
    ScheduleProtocol,
    AccelerateProtocol,
    AccelerateAccumulationProtocol,
    AccelerateScalerProtocol,
    PrecisionFlagsProtocol,
    LossScalingProtocol,
    LogitsProtocol,
    LogarithmProtocol,
    RefusedProtocol,
    CheckpointProtocol,
    ScalerUseProtocol,
    BareScalerProtocol,
    GradientReadProtocol,
    SanitizedProtocol,
    HookedGradientsProtocol,
    PenaltyProtocol,
    ScaledLossProtocol,
    HalfConstantsProtocol,
    HalfInputProtocol,
    HalfLossProtocol,
    MixedDtypesProtocol,
    HalfParametersProtocol,
    HalfUnscaledProtocol,
    HalfTrainedProtocol,
    HalfSumsProtocol,
    HalfRunningProtocol,
    UnsupportedProtocol,
    KerasPolicyProtocol,
    KerasHalfProtocol,
    MisplacedPolicyProtocol,
    KerasLossScaleProtocol,
    KerasScalingProtocol,
    OwnedBackwardProtocol,
    EngineProtocol,
    EngineConfigProtocol,
    OwnedGradientsProtocol,
    CombinationProtocol,
    ShardedProtocol,
)


_added: list[type[Protocol]] = []


def add(protocols: Iterable[type[Protocol]]) -> None:
    """Take these for the protocols that plugins bring, and no others."""
    _added[:] = protocols


def machines() -> list[Protocol]:
    """One fresh machine of every protocol."""
    return [protocol() for protocol in (*_ALL, *_added)]
