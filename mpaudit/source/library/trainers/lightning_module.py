"""Lightning's modules and their optimizers in manual optimisation."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import GradientsZeroed, OwnedBackward, OwnedClip, OwnedStep, OwnedUnscaled, Ref
from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import method
from mpaudit.source.engine.values import FALSE, NONE, Class, Const, Function, Thing, Value
from mpaudit.source.library.trainers.lightning_hook import hooks, tell
from mpaudit.source.library.trainers.lightning_names import MIXED, because, chosen, hook, is_module

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

BACKWARD, AFTER, UNSCALED, BEFORE, STEPPED = range(200, 250, 10)
"""The parts of `manual_backward` and of `step`, in order, with room for callbacks between them."""


def is_manual(call: Call, model: Thing) -> bool | None:
    """Whether a LightningModule has switched automatic optimisation off, None if it is not known."""
    path, owner = call.path, call.path.known(model, "@class")
    value = path.heap.get((model.uid, "automatic_optimization"))
    if value is None and isinstance(owner, Class):
        value = lookup(path, owner, "automatic_optimization")
    if value is None:
        return _switched_off(hook(model, "__init__", path))
    if isinstance(value, Function):  # a property, as it was before version 1.3
        value = _returned(value)
    automatic = call.engine.logic.truth(value, path)
    return None if automatic is None else not automatic


def _switched_off(init: Function | None) -> bool:
    """Whether an `__init__` that was not followed sets `self.automatic_optimization = False`."""
    return init is not None and any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and node.value.value is False
        and any(getattr(target, "attr", "") == "automatic_optimization" for target in node.targets)
        for node in ast.walk(init.node)
    )


def _returned(function: Function) -> Value | None:
    """The literal that a function of one statement returns."""
    body = [] if not hasattr(function.node, "decorator_list") else function.node.body
    match body:
        case [ast.Return(value=ast.Constant(value=value))]:
            return Const(value)
    return None


def scaled(call: Call, model: Thing) -> bool | None:
    """Whether Lightning scales the loss of a model, None if the precision is not known."""
    known = chosen(call, model)
    return None if known is None else known == MIXED.value


@method("instance", "manual_backward")
@method("Module", "manual_backward")
def manual_backward(call: Call) -> Value | None:
    """`self.manual_backward(loss)`: Lightning scales the loss, then calls `on_after_backward`."""
    model = call.thing
    if not is_module(model, call.path):
        return None
    tell(
        call,
        BACKWARD,
        OwnedBackward(
            at=call.span,
            occasional=call.occasional,
            owner=call.ref(model),
            scaled=scaled(call, model),
            because=because(call.engine, call.path.known(model, "@trainer")),
        ),
    )
    hooks(call, AFTER, model, "on_after_backward")
    return NONE


@method("instance", "optimizers")
@method("Module", "optimizers")
def optimizers(call: Call) -> Value | None:
    """`self.optimizers()`: one wrapper, or a list of them; the same ones each time."""
    model = call.thing
    if not is_module(model, call.path):
        return None
    if call.argument(0, "use_pl_optimizer") == FALSE:
        return call.made()
    number = call.engine.identities.number("optimizers of", model)
    each = Thing(call.engine.identities.number("optimizer of", model), "LightningOptimizer")
    made = Thing(number, "LightningOptimizer")
    call.path.learn(each, owner=model)
    return call.path.learn(made, owner=model, each=each)


@method("instance", "clip_gradients")
@method("Module", "clip_gradients")
def clip_gradients(call: Call) -> Value | None:
    """`self.clip_gradients(optimizer, ...)` divides nothing: it clips what it finds."""
    if not is_module(call.thing, call.path):
        return None
    limit = call.argument(1, "gradient_clip_val")
    if call.path.known(limit or NONE, "@scale_of") is not None:
        return call.made()  # the threshold is multiplied by the scale, as the gradients are
    call.emit(
        OwnedClip(
            at=call.span,
            occasional=call.occasional,
            owner=call.ref(call.thing),
            how="self.clip_gradients",
        )
    )
    return NONE


@method("LightningOptimizer", "step")
def step(call: Call) -> Value | None:
    """`optimizer.step()`: the closure, `unscale_`, `on_before_optimizer_step`, and the scaler's step."""
    model = call.path.known(call.thing, "@owner")
    if not isinstance(model, Thing):
        return None
    call.callback(0, "closure")
    owner, at, occasional = Ref(model.uid, ""), call.span, call.occasional
    tell(call, UNSCALED, OwnedUnscaled(at=at, occasional=occasional, owner=owner))
    hooks(call, BEFORE, model, "on_before_optimizer_step", call.thing)
    tell(
        call,
        STEPPED,
        OwnedStep(
            at=at,
            occasional=occasional,
            owner=owner,
            optimizer=call.ref(call.thing),
            library="Lightning",
            required=scaled(call, model) if is_manual(call, model) else False,
            because=because(call.engine, call.path.known(model, "@trainer")),
        ),
    )
    return NONE


@method("LightningOptimizer", "zero_grad")
def zero_grad(call: Call) -> Value:
    """`optimizer.zero_grad()`."""
    call.emit(
        GradientsZeroed(
            at=call.span,
            occasional=call.occasional,
            counted=call.counted,
            optimizer=call.ref(call.thing),
        )
    )
    return NONE


@method("LightningOptimizer", "toggle_model", "load_state_dict", "state_dict")
def untouched(call: Call) -> Value:
    """Methods that leave gradients alone."""
    return call.made()
