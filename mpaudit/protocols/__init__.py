"""The protocols of mixed precision, each written once, as a state machine over `mpaudit.event`.

Whoever adds a rule about order adds it here, never to the static or the runtime half.
"""

from __future__ import annotations

from mpaudit.protocols.autocast import AutocastProtocol
from mpaudit.protocols.grad_scaler import GradScalerProtocol
from mpaudit.protocols.keras_loss_scale import KerasLossScaleProtocol
from mpaudit.protocols.keras_policy import KerasPolicyProtocol
from mpaudit.protocols.logits import LogitsProtocol
from mpaudit.protocols.protocol import Protocol

_ALL: tuple[type[Protocol], ...] = (
    GradScalerProtocol,
    AutocastProtocol,
    LogitsProtocol,
    KerasPolicyProtocol,
    KerasLossScaleProtocol,
)


def machines() -> list[Protocol]:
    """One fresh machine of every protocol."""
    return [protocol() for protocol in _ALL]
