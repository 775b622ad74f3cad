"""Training loops on Accelerate: backward, clipping and steps, through it and around it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import (
    AcceleratorBackward,
    AcceleratorUnscaled,
    GradientsZeroed,
    HalfTrained,
    PlainBackward,
    PreparedStep,
    Ref,
)
from mpaudit.source.engine.registry import called, method, others
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import FALSE, NONE, Const, Pack, Thing, Value
from mpaudit.source.library.torch.half_model import cast_by_hand
from mpaudit.source.library.torch.wrapped import call_wrapper
from mpaudit.source.library.trainers.accelerate import PREPARED, is_foreign, known_of, the_one
from mpaudit.source.library.trainers.accelerate_division import division
from mpaudit.source.library.trainers.region import backward_in

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

# What the Accelerator does


@method("Accelerator", "backward")
def backward(call: Call) -> Value:
    """`accelerator.backward(loss)`."""
    loss = call.argument(0, "loss") or NONE
    if not is_foreign(call.thing, call.path):
        call.emit(
            AcceleratorBackward(
                at=call.span,
                occasional=call.occasional,
                counted=call.counted,
                accelerator=known_of(call.engine, call.thing, call.path),
                loss=call.ref(loss, call.argument_node(0, "loss")),
                scalers=_scalers(loss, call.path) or (),
                divided=division(call, loss, call.thing),
                inside=backward_in(call),
            )
        )
    return NONE


@method("Accelerator", "clip_grad_norm_", "clip_grad_value_", "unscale_gradients")
def unscaled(call: Call) -> Value:
    """`accelerator.clip_grad_norm_(model.parameters(), 1.0)` unscales what all its optimizers hold."""
    if not is_foreign(call.thing, call.path):
        call.emit(
            AcceleratorUnscaled(
                at=call.span,
                occasional=call.occasional,
                counted=call.counted,
                accelerator=known_of(call.engine, call.thing, call.path),
                clip=call.name if call.name != "unscale_gradients" else "",
                whole=call.name != "unscale_gradients" or not (call.arguments or call.keywords),
            )
        )
    return call.made()


def _scalers(loss: Value, path: Path) -> tuple[Ref, ...] | None:
    """The scalers that a loss was multiplied by, None where that is not known."""
    scaled = path.known(loss, "@scaled")
    if scaled is not None and not isinstance(scaled, Pack):
        return None
    items = scaled.items if scaled is not None else ()
    return tuple(Ref(each.uid, "") for each in items if isinstance(each, Thing))


# What was prepared


@others("Prepared")
def attribute(engine: Calls, prepared: Thing, name: str, path: Path) -> Value | None:
    """What a prepared object holds is what was given holds."""
    raw = path.known(prepared, "@raw")
    if not isinstance(raw, Thing):
        return None
    if name == "optimizer" and raw.kind == "Optimizer":
        return raw
    if name == "module":
        return prepared
    held = path.heap.get((raw.uid, name))
    if held is not None:
        return engine.logic.settled(held, path)
    return engine.derive(engine.term(".", prepared, Const(name)), (prepared,), path)


@method("Prepared", "step")
def step(call: Call) -> Value | None:
    """`optimizer.step()`; only what is certain to be an optimizer counts as one."""
    path = call.path
    raw, accelerator = path.known(call.thing, "@raw"), path.known(call.thing, "@accelerator")
    call.callback(0, "closure")
    if not isinstance(raw, Thing) or not isinstance(accelerator, Thing):
        return NONE
    if _is_optimizer(call, raw) and not is_foreign(accelerator, path):
        call.emit(
            PreparedStep(
                at=call.span,
                occasional=call.occasional,
                counted=call.counted,
                accelerator=known_of(call.engine, accelerator, path),
                optimizer=call.ref(call.thing),
                models=_models(raw, path),
            )
        )
        _half_models(call, raw, accelerator)
    return NONE


def _half_models(call: Call, optimizer: Thing, accelerator: Thing) -> None:
    """Tell of models that were cast to float16, and whose gradients the accelerator has to unscale."""
    path = call.path
    trains = path.known(optimizer, "@trains")
    if not isinstance(trains, Pack) or path.known(optimizer, "@strayed") is not None:
        return
    if known_of(call.engine, accelerator, path).scales is not True:
        return
    for model in trains.items:
        cast = cast_by_hand(model, path)
        if cast is not None and cast.name == "float16" and cast.at is not None:
            if isinstance(path.known(model, "@param_dtype") or path.known(model, "@dtype"), Const):
                call.emit(
                    HalfTrained(
                        at=call.span,
                        occasional=call.occasional,
                        trainer="the Accelerator",
                        cast=cast.at,
                        asked=call.engine.places.get(accelerator.uid),
                    )
                )


def _is_optimizer(call: Call, raw: Thing) -> bool:
    if raw.kind in ("Optimizer", "Module"):
        return raw.kind == "Optimizer"
    assert isinstance(call.node.func, ast.Attribute)
    return ast.unparse(call.node.func.value) in call.engine.roles(call.path).optimizers


def _models(optimizer: Thing, path: Path) -> tuple[Ref, ...] | None:
    """The models, as they were before they were prepared, whose parameters an optimizer holds."""
    owners = path.known(optimizer, "@owners")
    if not isinstance(owners, Pack):
        return None
    return tuple(_raw(each, path) for each in owners.items if isinstance(each, Thing))


def _raw(model: Thing, path: Path) -> Ref:
    raw = path.known(model, "@raw")
    return Ref(raw.uid if isinstance(raw, Thing) else model.uid, "")


@method("Prepared", "zero_grad")
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


@method("Prepared", "parameters", "named_parameters")
def parameters(call: Call) -> Value:
    """`model.parameters()` are those of the model that was given."""
    raw = call.path.known(call.thing, "@raw")
    made = call.path.learn(call.made(), scaled=Pack(()))
    return call.path.learn(made, owners=Pack((raw,)) if raw is not None else None)


@method("Prepared", "train", "eval", "to", "requires_grad_", "load_state_dict", "state_dict")
def untouched(call: Call) -> Value:
    """Methods that leave gradients and precision alone."""
    return call.thing if call.name in ("train", "eval", "to", "requires_grad_") else call.made()


@called("Prepared")
def forward(call: Call) -> Value | None:
    """`model(x)`: what leaves a prepared model is what leaves the model."""
    return call_wrapper(call)


@on_result(functions=(), given=PREPARED)
def told(call: Call, function: Value, result: Value) -> None:
    """`model(x)`: what comes out went through the prepared model. `loss.backward()`: around it."""
    path = call.path
    if isinstance(function, Thing) and isinstance(result, Thing):
        through = path.known(function, "@through")
        if through is not None:
            path.learn(result, through=through)
    if call.name == "backward" and isinstance(call.receiver, Thing) and PREPARED in path.heap:
        _raw_backward(call, call.receiver)


def _raw_backward(call: Call, loss: Thing) -> None:
    path = call.path
    scalers, accelerator = _scalers(loss, path), the_one(path)
    if loss.kind not in ("", "list") or call.arguments or scalers is None:
        return
    if _scaled_elsewhere(call, loss) or (accelerator and is_foreign(accelerator, path)):
        return
    through = path.known(loss, "@through")
    models = through.items if isinstance(through, Pack) else ()
    call.emit(
        PlainBackward(
            at=call.span,
            occasional=call.occasional,
            accelerator=known_of(call.engine, accelerator, path) if accelerator else None,
            loss=call.ref(loss),
            models=tuple(Ref(each.uid, "") for each in models if isinstance(each, Thing)),
            scalers=scalers,
            divided=division(call, loss, accelerator) if accelerator else None,
        )
    )


def _scaled_elsewhere(call: Call, loss: Thing) -> bool:
    """Whether a loss comes from Apex: `with amp.scale_loss(loss, optimizer) as scaled_loss`."""
    operation, *operands = call.engine.identities.description(loss.uid)
    made_by = operands[0] if operation == "made" and operands else None
    return isinstance(made_by, ast.Call) and ast.unparse(made_by.func).endswith("scale_loss")
