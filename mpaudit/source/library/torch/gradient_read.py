"""The size of gradients, looked at: norms, means, extremes."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientRead, ScaleAsked
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Const, External, Pack, Thing, Value
from mpaudit.source.library.torch.gradient import optimizers_of

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

METHODS = frozenset(["norm", "mean", "std", "var"])
SIZES = {
    "abs": frozenset(["max", "amax", "mean"]),
    "pow": frozenset(["sum", "mean"]),
    "square": frozenset(["sum", "mean"]),
}
"""What makes sizes of gradients, and what then looks at them; a sum of `abs()` only tells 0 or NaN."""
FINITE = frozenset(["isnan", "isinf", "isfinite"])
_SIZING = frozenset(SIZES) | frozenset().union(*SIZES.values())
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


@on_result(functions=FUNCTIONS | CLIPS, methods=METHODS | _SIZING | {"get_scale"})
def read(call: Call, function: Value, made: Value) -> None:
    """`p.grad.norm()`, `torch.norm(p.grad)`, `clip_grad_norm_(parameters, inf)`, `get_scale()`.

    And `p.grad.abs().max()`, `p.grad.pow(2).sum()`.
    """
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
    elif call.name in SIZES and receiver is not None and _is_gradient(call, receiver):
        if isinstance(made, Thing):
            call.path.learn(made, sizes=Pack((receiver, Const(call.name))))
    elif receiver is not None and isinstance(sizes := call.path.known(receiver, "@sizes"), Pack):
        of, how = sizes.items
        if isinstance(how, Const) and call.name in SIZES[str(how.value)] and not _asked(call):
            gradient = of
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


def _asked(call: Call) -> bool:
    """Whether a size is only asked for being 0, inf or NaN, which no scale changes."""
    node: ast.AST | None = call.node
    while node is not None and not isinstance(node, ast.stmt):
        if isinstance(node, ast.Compare) and any(
            isinstance(each, ast.Constant) and each.value == 0 for each in node.comparators
        ):
            return True
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in FINITE:
            return True
        node = call.path.frame.module.parents.get(node)
    return False


def _is_gradient(call: Call, value: Value) -> bool:
    return any(call.path.known(part, "@gradient") is not None for part in parts(value, call.path))


def _endless(limit: Value | None) -> bool:
    if isinstance(limit, External):
        return limit.name.rpartition(".")[2] in ("inf", "Infinity")
    return isinstance(limit, Const) and limit.value == float("inf")
