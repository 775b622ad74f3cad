"""The backward pass of torch, and what it does not go through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Backward, Ref
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.values import NONE, NOWHERE, Const, Pack, Thing, Value
from mpaudit.source.library.torch.region import backward_inside
from mpaudit.source.library.torch.training import is_whole

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


@method("", "backward")
def backward(call: Call) -> Value | None:
    """`loss.backward()`; with an argument it is somebody's `engine.backward(loss)`."""
    receiver = call.receiver
    if not isinstance(receiver, Thing) or receiver.kind not in ("", "list"):
        return None
    path, engine = call.path, call.engine
    scaled = path.known(receiver, "@scaled")
    scalers: tuple[Ref, ...] | None = None
    if isinstance(scaled, Pack) and not call.arguments:
        scalers = tuple(Ref(s.uid, "") for s in scaled.items if isinstance(s, Thing))
    weighted = path.known(receiver, "@weighted") is not None
    made_in = path.known(receiver, "@region")
    if (weighted and not scalers) or path.known(made_in or NONE, "@lent") is not None:
        made_in = None  # the library that lends a region is the one to scale
    region = engine.describe(made_in, path)
    call.emit(
        Backward(
            at=call.span,
            occasional=call.occasional,
            loss=_backward_loss(call, receiver),
            scalers=scalers,
            made_in=region,
            whole=is_whole(receiver, call),
            idle=path.known(receiver, "@idle") is not None,
            inside=None
            if call.argument(9, "create_graph")
            else engine.describe(around(call), path),
        )
    )
    backward_inside(call, receiver)
    return NONE


@method("", "detach")
def detach(call: Call) -> Value:
    """`x.detach()`: no gradient comes back to what made it; a gradient stays the same one."""
    assert call.receiver is not None
    made = call.derived(call.receiver)
    call.path.heap.forget((made.uid, "@region"))
    call.path.heap.forget((made.uid, "@through"))
    return call.path.learn(made, gradient=call.path.known(call.receiver, "@gradient"))


def _backward_loss(call: Call, loss: Thing) -> Ref:
    """The loss of a backward pass: by place, so that paths which computed it otherwise can join.

    Where the same loss went through `scale()` before, whose result is not used here, it is that one.
    """
    thrown = call.path.known(loss, "@thrown")
    place = ("thrown", thrown.value) if isinstance(thrown, Const) else ("loss", call.span)
    return Ref(place, call.ref(loss).text)


def around(call: Call) -> Thing | None:
    """The region that this pass through the innermost loop entered and is still in.

    Not one that a library enters around all of the script's code.
    """
    path = call.path
    region = call.engine.region(path)
    if path.known(region or NONE, "@owned") is not None:
        return None
    entered = path.known(region, "@entered") if region else None
    since = entered.since if isinstance(entered, Thing) else NOWHERE
    return region if since == path.frame.iteration else None
