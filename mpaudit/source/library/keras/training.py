"""Training with Keras: compile and fit, compiled functions, strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import (
    Forward,
    GradientsApplied,
    Ref,
    StrategyMade,
    TapeGradient,
    TapeGradientsUnscaled,
)
from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import function, method
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Bound,
    Class,
    External,
    Function,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.library.keras.losses import computed_from
from mpaudit.source.library.keras.models import outlets, tell
from mpaudit.source.library.keras.names import computed, flat
from mpaudit.source.library.keras.optimizers import keras_of, optimizer_of_model, wrapped
from mpaudit.source.library.keras.outputs import (
    compiled,
    computed_from_outputs,
    loss_of,
    outputs_in_training,
    own_method,
    through,
)
from mpaudit.source.library.keras.scaling import factor, scales, version, wrap
from mpaudit.source.library.keras.values import read

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call


# compile and fit


@method("KerasModel", "compile")
def compile_model(call: Call) -> Value:
    """`model.compile(optimizer, loss)`: wraps the optimizer where the policy is mixed_float16."""
    model, path = call.thing, call.path
    given, loss = call.picked(0, "optimizer"), call.argument(1, "loss")
    path.learn(model, optimizer=_optimizer(call, model, given))
    compiled(call, model, loss or NONE)
    if isinstance(path.known(model, "@class"), Class):
        return NONE
    tell(call, model)
    computed_from_outputs(call, model, outlets(model, call))
    return NONE


@method("super", "compile")
def compile_inherited(call: Call) -> Value | None:
    """`super().compile(optimizer)` in a model that keeps further optimizers for itself."""
    model = call.path.known(call.thing, "@self")
    if not isinstance(model, Thing) or model.kind != "KerasModel":
        return None
    call.receiver = model
    return compile_model(call)


def _optimizer(call: Call, model: Thing, given: Value | None) -> Thing:
    made = Thing(call.engine.identities.number("compiled", model, call.node), "KerasOptimizer")
    own = scales(given, call) if isinstance(given, Thing) else False
    if isinstance(given, Thing) and factor(given, call.path) is not None:
        own = False  # compile wraps it as well, and the factor is gone then
    kind = given.kind if isinstance(given, Thing) else "KerasOptimizer"
    if own is True and isinstance(given, Thing):
        return given
    answer = wrapped(model, call.path)
    auto = call.keywords.get("auto_scale_loss", TRUE)
    if auto != TRUE and answer != FALSE:
        answer = FALSE if auto == FALSE else UNKNOWN
    if kind != "KerasOptimizer" or own is None or "**" in call.keywords:
        answer = UNKNOWN
    if answer == FALSE and isinstance(given, Thing):
        return given
    inner = given if isinstance(given, Thing) else None
    call.path.learn(made, scales=answer, wraps=inner, keras=keras_of(model, call.path))
    if answer == TRUE:
        wrap(call, made, inner, by_hand=False)
    return made


@method("KerasModel", "fit", "fit_generator", "train_on_batch")
def fit(call: Call) -> Value:
    """`model.fit(x, y)`: Keras' own training step, or the one that the project's class defines."""
    model, path = call.thing, call.path
    step = own_method(call, model, "train_step")
    if step is not None:
        data = call.engine.term("data", model)
        through(call, "train_step", step, (model, data))
        return call.made()
    optimizer = optimizer_of_model(call.engine, model, path)
    optimizer = None if optimizer is None else call.engine.logic.pick(optimizer, path)
    found = outputs_in_training(call, model)
    tell(call, model)
    computed_from_outputs(call, model, found)
    does = scales(optimizer, call) if isinstance(optimizer, Thing) else None
    gradients, text = Ref(call.made().uid, ""), call.ref(model).text
    wrapper = Ref(optimizer.uid if isinstance(optimizer, Thing) else "?", f"{text}.optimizer")
    scaled = {None: None, True: (wrapper,), False: ()}[does]
    call.emit(
        TapeGradient(
            at=call.span,
            occasional=call.occasional,
            loss=Ref("loss", "loss"),
            gradients=gradients,
            model=Ref(model.uid, text),
            scaled_by=scaled,
        )
    )
    if does and version(optimizer or NONE, path) == 2:  # its minimize() does both
        result = Ref(("fit", gradients.key), "")
        call.emit(
            TapeGradientsUnscaled(
                at=call.span,
                occasional=call.occasional,
                optimizer=wrapper,
                gradients=gradients,
                result=result,
            )
        )
        gradients = result
    call.emit(
        GradientsApplied(
            at=call.span,
            occasional=call.occasional,
            optimizer=wrapper,
            scales=does,
            gradients=gradients,
            made=call.engine.places.get(optimizer.uid) if isinstance(optimizer, Thing) else None,
            keras=version(optimizer or NONE, path),
            factor=factor(optimizer or NONE, path),
        )
    )
    return call.made()


@method("KerasModel", "predict", "predict_on_batch", "evaluate", "test_on_batch")
def use(call: Call) -> Value:
    """`model.predict(x)`."""
    call.emit(
        Forward(
            at=call.span,
            model=call.ref(call.thing),
            model_made=call.engine.places.get(call.thing.uid),
            model_device=None,
            region=None,
        )
    )
    return call.made()


@method("KerasModel", "compute_loss", "compiled_loss", "loss")
def compute_loss(call: Call) -> Value:
    """`self.compute_loss(y=y, y_pred=prediction)` in a `train_step`."""
    prediction = call.argument(2 if call.name == "compute_loss" else 1, "y_pred")
    computed_from(call, loss_of(call, call.thing), read(prediction, call.path))
    return computed(call, *call.arguments, *call.keywords.values())


# Functions that are compiled or distributed


@function("tensorflow.function", "tensorflow.compat.v2.function", "tensorflow.autograph.to_graph")
def in_graph(call: Call) -> Value:
    """`tf.function(step)` is `step`; `tf.function(jit_compile=True)` takes it later."""
    given = call.argument(0, "func")
    if isinstance(given, (Function, Bound, Partial)):
        return given
    return Partial(External("tensorflow.function"), (), ())


@function("tensorflow.distribute.*")
def make_strategy(call: Call) -> Value | None:
    """`tf.distribute.MirroredStrategy()`."""
    name = last(call.name)
    if name == "TPUStrategy":
        call.emit(StrategyMade(at=call.span, occasional=call.occasional, kind=name))
    return call.made("Strategy") if name.endswith("Strategy") or name == "get_strategy" else None


@method("Strategy", "run", "experimental_run_v2", "call_for_each_replica")
def run_replicas(call: Call) -> Value | None:
    """`strategy.run(step, args=(x, y))`."""
    return _run(call)


@method("", "run", "experimental_run_v2")
def run_somewhere(call: Call) -> Value | None:
    """`strategy.run(step, args=(x, y))`, where the strategy came from somewhere."""
    return _run(call) if "args" in call.keywords or "kwargs" in call.keywords else None


def _run(call: Call) -> Value | None:
    step = call.picked(0, "fn")
    if not isinstance(step, (Function, Bound, Partial)):
        return None
    arguments = tuple(flat(call.argument(1, "args") or Pack(()), call.path))
    given = call.argument(2, "kwargs")
    named: dict[str, Value] = {}
    if isinstance(given, Thing):
        named = {
            name[2:-2]: value for name, value in call.path.heap.of(given.uid) if name[0] == "["
        }
    return call.engine.call(call.node, step, arguments, named, call.path)


@method("Strategy", "reduce", "gather")
def reduced(call: Call) -> Value:
    """`strategy.reduce(op, value, axis=None)`."""
    return call.derived(*call.arguments, *call.keywords.values())
