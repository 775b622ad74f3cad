"""Loss scaling in Keras 2 and 3: the LossScaleOptimizer, and what a loop asks of it."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from mpaudit.event import LegacyScaling, OptimizerWrapped, Ref, TapeGradientsUnscaled
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import answers, attributes, method
from mpaudit.source.engine.tape import taped_in
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.keras.names import keras, settled
from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.module import Module
from mpaudit.source.text.project import Project
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.keras_version import generation

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SCALING = ("LossScaleOptimizer", "LossScaleOptimizerV3", "BaseLossScaleOptimizer")
SECOND_ARGUMENT = (Const("dynamic"), TRUE, FALSE)
"""What the second argument was in Keras 2, and is none of in Keras 3, where it is the initial scale."""
_POLICY = re.compile(r"polic|float16|auto_mixed_precision|mixed_precision_graph", re.IGNORECASE)
REFUSED = ("loss_scale", "clipnorm", "clipvalue", "global_clipnorm")
"""Arguments that Keras 3 refuses."""


# What is known of an optimizer


def scales(optimizer: Value | None, call: Call) -> bool | None:
    """Whether an optimizer divides gradients by a loss scale, None if that is not known."""
    if not isinstance(optimizer, Thing):
        return None
    known = call.engine.logic.settled(call.path.known(optimizer, "@scales"), call.path)
    return bool(known.value) if known in (TRUE, FALSE) and isinstance(known, Const) else None


def factor(optimizer: Value, path: Path) -> float | None:
    """The fixed loss scale that a plain optimizer was given by `loss_scale_factor`."""
    known = path.known(optimizer, "@factor")
    value = known.value if isinstance(known, Const) else None
    return float(value) if isinstance(value, (int, float)) else None


def version(thing: Value, path: Path) -> int | None:
    """The Keras that an optimizer or a model is of, 2 or 3; None if that is not known."""
    known = path.known(thing, "@keras")
    return known.value if isinstance(known, Const) and isinstance(known.value, int) else None


def born(call: Call, made: Thing, name: str | None = None) -> Thing:
    """Note of which Keras an optimizer or a model is, going by the name of what made it."""
    found = generation(name or call.name, call.path.frame.module)
    return made if found is None else call.path.learn(made, keras=Const(found))


def wrap(call: Call, made: Thing, inner: Value | None, *, by_hand: bool = True) -> None:
    """Tell the protocols that an optimizer was wrapped."""
    nested = scales(inner, call)
    if isinstance(inner, Thing) and factor(inner, call.path) is not None:
        nested = False  # Keras takes the factor away from what it wraps
    call.emit(
        OptimizerWrapped(
            at=call.span,
            occasional=call.occasional,
            optimizer=Ref(made.uid, call.path.frame.module.source(call.node)),
            inner=call.ref(inner, call.argument_node(0)) if isinstance(inner, Thing) else None,
            nested=nested,
            by_hand=by_hand,
            unpoliced=by_hand and _unpoliced(call.path.frame.module, call.engine.relevance.project),
        )
    )


@for_a_while(1024)
def _unpoliced(module: Module, project: Project) -> bool:
    """Whether a file stands for itself and mentions no policy and no half precision."""
    if _POLICY.search(module.text):
        return False
    for node in walk(module.tree):
        names = []
        if isinstance(node, ast.Import):
            names = [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", node.level)]
        if any(level or project.find(name, module) is not None for name, level in names):
            return False
    return True


@keras("mixed_precision.LossScaleOptimizer", "mixed_precision.experimental.LossScaleOptimizer")
def make_scaling(call: Call) -> Value:
    """`LossScaleOptimizer(optimizer)`."""
    made = born(call, call.made("KerasOptimizer"))
    call.engine.places[made.uid] = call.span
    inner = call.picked(0, "inner_optimizer") or call.keywords.get("optimizer")
    inner = settled(call, inner)
    call.path.learn(made, scales=TRUE, wraps=inner if isinstance(inner, Thing) else None)
    if isinstance(inner, Thing) and version(made, call.path) is None:
        call.path.learn(made, keras=call.path.known(inner, "@keras"))
    wrap(call, made, inner)
    if version(made, call.path) == 3:
        _refused(call, made)
    return made


def _refused(call: Call, made: Thing) -> None:
    """Arguments of Keras 2 that Keras 3 refuses or misunderstands."""
    if call.keywords.get("dynamic") == FALSE:
        legacy(call, made, "dynamic")
    if any(call.keywords.get(name, NONE) != NONE for name in REFUSED):
        legacy(call, made, next(n for n in REFUSED if call.keywords.get(n, NONE) != NONE))
    if len(call.arguments) > 1 and call.argument(1) in SECOND_ARGUMENT:
        legacy(call, made, "initial_scale", raises=False)


def legacy(call: Call, optimizer: Thing, what: str, *, raises: bool = True) -> None:
    """Tell the protocols of a method or argument that Keras 3 does not have."""
    if raises and call.engine.guards:
        return  # somebody expects the error
    node = call.node.func
    text = call.ref(optimizer) if what == call.name else Ref(optimizer.uid, "")
    call.emit(
        LegacyScaling(
            at=call.span,
            occasional=call.occasional,
            optimizer=Ref(optimizer.uid, text.text or call.path.frame.module.source(node)),
            what=what,
            raises=raises,
        )
    )


# What a loop asks of it


@method("KerasOptimizer", "scale_loss")
def scale_loss(call: Call) -> Value:
    """`optimizer.scale_loss(loss)` of Keras 3: the loss itself where the optimizer does not scale."""
    loss: Value = call.picked(0, "loss") or NONE
    known, path = scales(call.thing, call), call.path
    if version(call.thing, path) == 2:
        return path.learn(call.derived(loss), scaled=UNKNOWN)  # there is no such method
    path.learn(call.thing, keras=Const(3))
    if known is False:
        return loss
    before = path.known(loss, "@scaled")
    made = call.derived(loss)
    if known is None or not isinstance(before, Pack):
        return path.learn(made, scaled=UNKNOWN)
    return path.learn(made, scaled=Pack((*before.items, call.thing)))


@method("", "scale_loss")
def scale_loss_somehow(call: Call) -> Value:
    """An optimizer nothing is known of, or apex."""
    return call.path.learn(call.derived(*call.arguments), scaled=UNKNOWN)


def scale_loss_of_keras2(call: Call) -> Value:
    """`optimizer.get_scaled_loss(loss)`: who has this method is a LossScaleOptimizer of Keras 2."""
    loss: Value = call.picked(0, "loss") or NONE
    path, made = call.path, call.derived(loss)
    if version(call.thing, path) == 3:
        legacy(call, call.thing, call.name)
        return path.learn(made, scaled=UNKNOWN)
    path.learn(call.thing, keras=Const(2), scales=TRUE)
    before = path.known(loss, "@scaled") or Pack(())
    scaled = Pack((*before.items, call.thing)) if isinstance(before, Pack) else UNKNOWN
    return path.learn(made, scaled=scaled)


def unscale_of_keras2(call: Call) -> Value:
    """`optimizer.get_unscaled_gradients(gradients)` of Keras 2."""
    gradients: Value = call.picked(0, "grads") or NONE
    path, made = call.path, call.derived(gradients)
    if version(call.thing, path) == 3:
        legacy(call, call.thing, call.name)
        return path.learn(made, tape=UNKNOWN)
    path.learn(call.thing, keras=Const(2), scales=TRUE)
    tape = call.engine.logic.pick(taped_in(gradients, path) or UNKNOWN, path)
    if not isinstance(tape, Thing):
        return path.learn(made, tape=UNKNOWN)
    call.emit(
        TapeGradientsUnscaled(
            at=call.span,
            occasional=call.occasional,
            optimizer=call.ref(call.thing),
            gradients=Ref(tape.uid, ""),
            result=Ref(made.uid, ""),
        )
    )
    return path.learn(made, tape=made)


for _kind in ("KerasOptimizer", ""):
    method(_kind, "get_scaled_loss")(scale_loss_of_keras2)
    method(_kind, "get_unscaled_gradients")(unscale_of_keras2)


@attributes("inner_optimizer")
def inner_optimizer(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`optimizer.inner_optimizer`."""
    if thing.kind != "KerasOptimizer":
        return None
    wrapped = path.known(thing, "@wraps")
    if wrapped is not None:
        return wrapped
    made = Thing(engine.identities.number("inner of", thing), "KerasOptimizer")
    return path.learn(made, scales=UNKNOWN)


# Questions about it


@answers("builtins.isinstance")
def is_scaling(call: Call) -> Value | None:
    """`isinstance(optimizer, LossScaleOptimizer)`."""
    optimizer, classes = call.argument(0), call.argument(1)
    if not isinstance(optimizer, Thing) or optimizer.kind != "KerasOptimizer":
        return None
    asked = classes.items if isinstance(classes, Pack) else (classes,)
    names = [last(each.name) if isinstance(each, External) else "" for each in asked]
    does = scales(optimizer, call)
    if does is None or not names or not set(names) <= set(SCALING):
        return None
    return TRUE if does and factor(optimizer, call.path) is None else FALSE


@answers("builtins.hasattr")
def has_method(call: Call) -> Value | None:
    """`hasattr(optimizer, "get_scaled_loss")`: Keras 2's optimizers with loss scaling have it."""
    optimizer, name = call.argument(0), call.argument(1)
    if not isinstance(optimizer, Thing) or optimizer.kind != "KerasOptimizer":
        return None
    of = version(optimizer, call.path)
    if name == Const("scale_loss") and of is not None:
        return TRUE if of == 3 else FALSE
    if name in (Const("get_scaled_loss"), Const("get_unscaled_gradients")):
        does = scales(optimizer, call)
        if of == 3 or does is False:
            return FALSE
        return TRUE if of == 2 and does else None
    return None
