"""The size of gradients, looked at: norms, means, extremes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import GradientRead, ScaleAsked
from mpaudit.source.facts import parts
from mpaudit.source.library.result import on_result
from mpaudit.source.library.torch_gradient import optimizers_of
from mpaudit.source.values import Const, External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.request import Call

METHODS = frozenset(["norm", "mean", "std", "var"])
FUNCTIONS = frozenset(
    [
        "torch.norm",
        "torch.linalg.norm",
        "torch.linalg.vector_norm",
        "torch.mean",
        "torch.std",
        "torch.nn.utils.get_total_norm",
    ]
)
CLIPS = frozenset(["torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad.clip_grad_norm_"])


@on_result(functions=FUNCTIONS | CLIPS, methods=METHODS | {"get_scale"})
def read(call: Call, function: Value, _: Value) -> None:
    """`p.grad.norm()`, `torch.norm(p.grad)`, `clip_grad_norm_(parameters, inf)`, `get_scale()`."""
    receiver = call.receiver
    if call.name == "get_scale" and isinstance(receiver, Thing) and _is_scaler(call, receiver):
        call.emit(ScaleAsked(at=call.span, occasional=call.occasional, scaler=call.ref(receiver)))
        return
    gradient: Value | None = None
    if isinstance(function, External):
        if function.name in FUNCTIONS:
            gradient = next((a for a in call.arguments if _is_gradient(call, a)), None)
        elif function.name in CLIPS and _endless(call.argument(1, "max_norm")):
            gradient = call.argument(0, "parameters")
    elif call.name in METHODS and receiver is not None and _is_gradient(call, receiver):
        gradient = receiver
    if gradient is not None:
        call.emit(
            GradientRead(
                at=call.span,
                occasional=call.occasional,
                how=call.name.rpartition(".")[2],
                places=call.places,
                optimizers=optimizers_of(gradient, call.path),
            )
        )


def _is_scaler(call: Call, value: Thing) -> bool:
    """A scaler of the script's own, or the one that an Accelerator holds."""
    operation, *operands = call.engine.identities.description(value.uid)
    owner = operands[0] if operation == "." else None
    held = isinstance(owner, Thing) and owner.kind == "Accelerator"
    return held or value.kind == "GradScaler"


def _is_gradient(call: Call, value: Value) -> bool:
    return any(call.path.known(part, "@gradient") is not None for part in parts(value, call.path))


def _endless(limit: Value | None) -> bool:
    if isinstance(limit, External):
        return limit.name.rpartition(".")[2] in ("inf", "Infinity")
    return isinstance(limit, Const) and limit.value == float("inf")
