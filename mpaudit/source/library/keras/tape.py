"""Gradient tapes: what they record, and the way of the gradients to the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import (
    GradientsApplied,
    Ref,
    TapeGradient,
    TapeGradientsClipped,
    TapeGradientsUnscaled,
)
from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.registry import function, method, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.tape import taped, taped_in
from mpaudit.source.engine.values import NONE, UNKNOWN, Bound, Const, Pack, Thing, Value
from mpaudit.source.library.keras.models import layers_of, tell
from mpaudit.source.library.keras.names import flat
from mpaudit.source.library.keras.scaling import factor, legacy, scales, version

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

CLIPS = ("clip_by_global_norm", "clip_by_norm", "clip_by_value", "clip_by_average_norm")
KEEPING = frozenset(
    (
        *("zip", "list", "tuple", "dict", "enumerate", "reversed", "filter", "iter", "append"),
        *("extend", "items", "values", "get", "keys", "next", "convert_to_tensor", "identity"),
        *("cast", "where", "ensure_shape", "reshape", "stop_gradient", "check_numerics", "unique"),
        *("IndexedSlices", "boolean_mask", "add", "add_n", "allreduce", "all_reduce", "reduce"),
        *("gather", "apply_gradients", "apply"),
    )
)
"""Functions whose result is as much scaled as the gradients that they are given."""
HARMLESS = ("num_replicas_in_sync",)
"""What gradients may be divided by without being unscaled."""
MOST = 64
"""A larger factor may be a loss scale."""
LARGE = 1e4
"""A threshold that takes out what is infinite, or that was multiplied by a loss scale by hand."""
MAX_DEPTH = 4


@function("tensorflow.GradientTape", "tensorflow.compat.v2.GradientTape")
def make_tape(call: Call) -> Value:
    """`tf.GradientTape()`."""
    return call.made("GradientTape")


@function("horovod.tensorflow.DistributedGradientTape", "byteps.tensorflow.DistributedGradientTape")
def distribute(call: Call) -> Value | None:
    """Horovod's wrapper stands for the tape."""
    return call.argument(0, "gradtape") or call.keywords.get("tape")


@method("GradientTape", "gradient")
def gradient(call: Call) -> Value:
    """`tape.gradient(loss, model.trainable_variables)`."""
    path = call.path
    loss, sources = call.picked(0, "target") or NONE, call.picked(1, "sources") or NONE
    refs = _owners(call, sources)
    made = call.made()
    call.emit(
        TapeGradient(
            at=call.span,
            occasional=call.occasional,
            loss=call.ref(loss, call.argument_node(0, "target")),
            gradients=Ref(made.uid, ""),
            model=refs[0] if refs else None,
            others=tuple(refs[1:]),
            scaled_by=scaled_by(call, loss),
        )
    )
    return path.learn(made, tape=made, scaled=Pack(()))


def _owners(call: Call, variables: Value) -> list[Ref]:
    """The models that variables are of; what they consist of is told."""
    owners = call.path.known(variables, "@owners")
    models = owners.items if isinstance(owners, Pack) else ()
    for model in models:
        if isinstance(model, Thing) and model.kind == "KerasModel" and layers_of(model, call.path):
            tell(call, model)
    return [Ref(model.uid, "") for model in models if isinstance(model, Thing)]


def scaled_by(call: Call, loss: Value) -> tuple[Ref, ...] | None:
    """The optimizers that a loss was scaled by, each as often; None where it may be scaled otherwise."""
    losses = [call.engine.logic.pick(each, call.path) for each in flat(loss, call.path)]
    found: list[Ref] = []
    for each in losses:
        scaled = call.path.known(each, "@scaled")
        weighted = call.path.known(each, "@weighted") is not None
        if not isinstance(scaled, Pack) or (weighted and not scaled.items):
            return None
        by = [Ref(item.uid, "") for item in scaled.items if isinstance(item, Thing)]
        found.extend(
            ref for ref in dict.fromkeys(by) for _ in range(by.count(ref) - found.count(ref))
        )
    return tuple(found) if losses else None


@method("GradientTape", "watch", "reset", "stop_recording", "jacobian", "batch_jacobian")
def untouched(call: Call) -> Value:
    """Methods that have nothing to do with loss scaling."""
    return call.made()


@function(
    *(f"tensorflow.{name}" for name in CLIPS),
    *(f"tensorflow.compat.v1.{name}" for name in CLIPS),
    *everywhere("ops.clip", "backend.clip"),
)
def clip(call: Call) -> Value | None:
    """`tf.clip_by_global_norm(gradients, 1.0)`, `[tf.clip_by_norm(g, 1.0) for g in gradients]`."""
    given: Value = call.picked(0, "t_list") or call.keywords.get("t") or NONE
    path, name = call.path, last(call.name)
    made = call.derived(given)
    tape = call.engine.logic.pick(taped_in(given, path) or NONE, path)
    limits = [
        *call.arguments[1:],
        *(v for k, v in call.keywords.items() if k not in ("t", "t_list")),
    ]
    if isinstance(tape, Thing) and not any(_scaled_too(each, call.engine) for each in limits):
        path.learn(made, tape=made)
        call.emit(
            TapeGradientsClipped(
                at=call.span,
                occasional=call.occasional,
                how=path.frame.module.source(call.node.func),
                gradients=Ref(tape.uid, ""),
                result=Ref(made.uid, ""),
            )
        )
    if name != "clip_by_global_norm":
        return made
    return Pack((made, Thing(call.engine.identities.number("norm of", made), since=made.since)))


def _scaled_too(limit: Value, engine: Calls, depth: int = 0) -> bool:
    """Whether a threshold may be multiplied by the loss scale as well."""
    if isinstance(limit, Bound):
        return "scale" in limit.name
    if isinstance(limit, Const):
        return isinstance(limit.value, (int, float)) and abs(limit.value) >= LARGE
    if not isinstance(limit, Thing) or depth > MAX_DEPTH:
        return False
    operation, *operands = engine.identities.description(limit.uid)
    values = [each for each in operands if isinstance(each, Value)]
    if operation == "Mult" and not any(isinstance(each, Const) for each in values):
        return True
    if operation == "." and "scale" in str(operands[1]):
        return True
    return any(_scaled_too(each, engine, depth + 1) for each in values)


@method("KerasOptimizer", "apply_gradients", "apply")
def apply_gradients(call: Call) -> Value:
    """`optimizer.apply_gradients(zip(gradients, variables))`, `optimizer.apply(gradients, variables)`."""
    path, tape = call.path, _given(call)
    made = path.known(call.thing, "@wraps") or call.thing
    call.emit(
        GradientsApplied(
            at=call.span,
            occasional=call.occasional,
            optimizer=call.ref(call.thing),
            scales=scales(call.thing, call),
            gradients=Ref(tape.uid, "") if isinstance(tape, Thing) else None,
            made=call.engine.places.get(made.uid) if isinstance(made, Thing) else None,
            keras=version(call.thing, path),
            factor=factor(call.thing, path),
        )
    )
    return NONE


@method("KerasOptimizer", "minimize")
def minimize(call: Call) -> Value:
    """`optimizer.minimize(loss, variables, tape=tape)` of Keras 2: with loss scaling, it does it all."""
    path, optimizer = call.path, call.thing
    if version(optimizer, path) == 3:
        if scales(optimizer, call):
            legacy(call, optimizer, call.name)
        return NONE
    path.learn(optimizer, keras=Const(2))
    loss, does = call.picked(0, "loss") or NONE, scales(optimizer, call)
    gradients, ref = Ref(call.made().uid, ""), call.ref(optimizer)
    given = scaled_by(call, loss)
    if does is None or given is None:
        return NONE
    taken = (*given, Ref(optimizer.uid, "")) if does else given
    models = _owners(call, call.picked(1, "var_list") or NONE)
    at, now = call.span, call.occasional
    call.emit(
        TapeGradient(
            at=at,
            occasional=now,
            loss=call.ref(loss, call.argument_node(0, "loss")),
            gradients=gradients,
            model=models[0] if models else None,
            others=tuple(models[1:]),
            scaled_by=taken,
        )
    )
    if does:
        result = Ref(("minimized", gradients.key), "")
        call.emit(
            TapeGradientsUnscaled(
                at=at, occasional=now, optimizer=ref, gradients=gradients, result=result
            )
        )
        gradients = result
    call.emit(
        GradientsApplied(
            at=at, occasional=now, optimizer=ref, scales=does, gradients=gradients, keras=2
        )
    )
    return NONE


@method("", "apply_gradients")
def apply_somehow(call: Call) -> Value | None:
    """An optimizer that comes from somewhere; of its kind, its use tells."""
    return apply_gradients(call) if isinstance(_given(call), Thing) else None


def _given(call: Call) -> Value | None:
    """The gradients that an optimizer is given."""
    path = call.path
    given = call.picked(0, "grads_and_vars") or call.keywords.get("grads") or NONE
    columns = path.known(given, "@zipped")
    if isinstance(columns, Pack) and columns.items:
        given = call.engine.logic.pick(columns.items[0], path)
    return call.engine.logic.pick(taped_in(given, path) or NONE, path)


# What else is done to gradients


def _may_unscale(name: str) -> bool:
    return last(name) not in (*KEEPING, *CLIPS, "clip")


@on_result(functions=_may_unscale, methods=_may_unscale)
def handled(call: Call, _: Value, result: Value) -> None:
    """Gradients that went through a function which may have unscaled them are not followed further."""
    tape = call.path.known(result, "@tape")
    if tape is not None and isinstance(result, Thing) and tape != result:
        call.path.learn(result, tape=UNKNOWN)


@on_operation
def computed_with(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """`g / scale`: gradients that are multiplied or divided may be unscaled by hand."""
    if operation in ("Mult", "Div", "FloorDiv", "Pow") and path.known(made, "@tape") is not None:
        others = [each for each in operands if taped((each,), path) is None]
        if len(others) != 1 or not _small(others[0], engine):
            path.learn(made, tape=UNKNOWN)


def _small(value: Value, engine: Calls) -> bool:
    """Whether a factor is too small for a loss scale, or counts replicas."""
    if isinstance(value, Const):
        number = value.value
        return isinstance(number, (int, float)) and 1 / MOST < abs(number) < MOST
    if not isinstance(value, Thing):
        return False
    operation, *operands = engine.identities.description(value.uid)
    return operation == "." and operands[1] in [Const(name) for name in HARMLESS]
