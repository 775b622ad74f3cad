"""torch.optim, and clipping gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import GradientsClipped, GradientsZeroed, OptimizerStep
from mpaudit.finding import Span
from mpaudit.source.api.torch_names import makes_optimizer
from mpaudit.source.engine.registry import attributes, base, function, method
from mpaudit.source.engine.values import FALSE, NONE, Const, External, Pack, Thing, Value
from mpaudit.source.library.torch.gradient import optimizers_of, told_apart
from mpaudit.source.library.torch.region import stepped_inside
from mpaudit.source.trait.guard import left_if_infinite

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


@function("torch.optim.*", "transformers.AdamW", "transformers.optimization.AdamW")
def make_optimizer(call: Call) -> Value | None:
    """`torch.optim.SGD(model.parameters(), ...)`; transformers had an AdamW of its own."""
    if not makes_optimizer(call.name) and not call.name.startswith("transformers."):
        return None
    made = call.made("Optimizer")
    _adopt(call, made, call.name)
    return call.path.learn(made, maker=Const(call.name))


def _adopt(call: Call, made: Thing, _: str) -> None:
    call.engine.derive(made, (*call.arguments, *call.keywords.values()), call.path)
    known = call.path.heap.get((0, "@optimizers"))
    others = known.items if isinstance(known, Pack) else ()
    call.path.heap[(0, "@optimizers")] = Pack((*(o for o in others if o != made), made))


base("Optimizer", "torch.optim.Optimizer", "torch.optim.optimizer.Optimizer", adopt=_adopt)
base("Optimizer", "torch.optim.SGD", "torch.optim.Adam", "torch.optim.AdamW", adopt=_adopt)


@attributes("param_groups")
def groups(engine: Calls, optimizer: Thing, path: Path) -> Value | None:
    """`optimizer.param_groups`."""
    if optimizer.kind != "Optimizer":
        return None
    return engine.derive(engine.term(".param_groups", optimizer), (optimizer,), path)


@method("Optimizer", "step")
def step(call: Call) -> Value:
    """`optimizer.step()`; a closure runs first."""
    call.callback(0, "closure")
    once = len(call.path.frames) > 1 and made_for_one_step(call.engine, call.thing, call.path)
    call.emit(
        OptimizerStep(
            at=call.span,
            occasional=call.occasional,
            optimizer=call.ref(call.thing),
            once=once,
        )
    )
    stepped_inside(call, call.thing)
    return NONE


def made_for_one_step(engine: Calls, optimizer: Thing, path: Path) -> bool:
    """Whether a function that is still under way made an optimizer, by itself or through another, and
    no loop was entered since: it steps but once."""
    made = engine.identities.description(optimizer.uid)
    if made[:1] != ("made",) or optimizer.since != path.frame.iteration:
        return False
    under_way = [frame.context for frame in path.frames]
    context = made[2]
    while context not in under_way:
        caller = engine.identities.description(context) if isinstance(context, int) else ()
        if caller[:1] != ("in",):
            return False
        context = caller[1]
    return True


@method("Optimizer", "zero_grad")
def zero_grad(call: Call) -> Value:
    """`optimizer.zero_grad()`."""
    call.emit(
        GradientsZeroed(
            at=call.span,
            occasional=call.occasional,
            counted=call.counted,
            optimizer=call.ref(call.thing),
            to_none=call.argument(0, "set_to_none") != FALSE,
        )
    )
    return NONE


@method("Module", "zero_grad")
def zero_grad_of_model(call: Call) -> Value:
    """`model.zero_grad()`."""
    call.emit(
        GradientsZeroed(
            at=call.span,
            occasional=call.occasional,
            counted=call.counted,
            optimizer=None,
            to_none=call.argument(0, "set_to_none") != FALSE,
            emptied=tuple(
                call.ref(optimizer) for optimizer in _optimizers_of_only(call.receiver, call.path)
            ),
        )
    )
    return NONE


def _optimizers_of_only(model: Value | None, path: Path) -> list[Thing]:
    """The optimizers whose parameters are all of one model."""
    known = path.heap.get((0, "@optimizers"))
    return [
        optimizer
        for optimizer in (known.items if isinstance(known, Pack) else ())
        if isinstance(optimizer, Thing)
        and isinstance(owners := path.known(optimizer, "@owners"), Pack)
        and owners.items == (model,)
    ]


@method("", "zero_grad")
@method("Bound", "zero_grad")
def zero_grad_of_either(call: Call) -> Value:
    """`zero_grad()` of what may be a model or an optimizer, as what a library's object holds."""
    return zero_grad_of_model(call)


@method("Optimizer", "load_state_dict", "add_param_group", "train", "eval")
def untouched(call: Call) -> Value:
    """Methods that change nothing a protocol watches."""
    return call.made()


@function(
    "torch.nn.utils.clip_grad_norm_",
    "torch.nn.utils.clip_grad_norm",
    "torch.nn.utils.clip_grad_value_",
    "torch.nn.utils.clip_grads_with_norm_",
    "torch.nn.utils.clip_grad.clip_grad_norm_",
    "torch.nn.utils.clip_grad.clip_grad_value_",
    "timm.utils.dispatch_clip_grad",
    "timm.utils.clip_grad.dispatch_clip_grad",
    "timm.utils.adaptive_clip_grad",
)
def clip(call: Call) -> Value:
    """`clip_grad_norm_(parameters, max_norm)`; an infinite limit only reads the norm."""
    limit = call.argument(1, "max_norm") or call.keywords.get("clip_value")
    parameters = call.picked(0, "parameters")
    if not _infinite(limit) and call.path.known(limit or NONE, "@scale_of") is None:
        concerned = optimizers_of(parameters, call.path)
        call.emit(
            GradientsClipped(
                at=call.span,
                occasional=call.occasional,
                how=call.name.rpartition(".")[2],
                optimizers=concerned,
                exact=told_apart(concerned, call.path),
                left=left_if_infinite(call.path.frame.module, call.node),
                called_at=_called_at(call),
            )
        )
    return call.made()


def _called_at(call: Call) -> Span | None:
    """Where a function was called that clips what others made; None for one with a backward pass."""
    frame = call.path.frame
    if frame.function is None or "backward(" in frame.module.source(frame.function.node):
        return None
    return next(iter(call.places[1:]), None)


@method("Module", "clip_grad_norm_")
def clip_own(call: Call) -> Value:
    """`fsdp_model.clip_grad_norm_(max_norm)`."""
    call.emit(
        GradientsClipped(
            at=call.span,
            occasional=call.occasional,
            how=call.name,
            optimizers=None,
        )
    )
    return call.made()


def _infinite(limit: Value | None) -> bool:
    if isinstance(limit, External):
        return limit.name.rpartition(".")[2] in ("inf", "Infinity")
    return isinstance(limit, Const) and limit.value == float("inf")
