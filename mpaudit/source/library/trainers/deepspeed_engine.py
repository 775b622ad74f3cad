"""DeepSpeed's engine: what `deepspeed.initialize` returns, and what is asked of it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.event import (
    EngineBackward,
    EngineRawBackward,
    EngineStep,
    GradientsZeroed,
    Ref,
)
from mpaudit.finding import Related
from mpaudit.source.engine.registry import called, function, method, others
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, UNKNOWN, Const, Pack, Thing, Value
from mpaudit.source.library.torch.wrapped import call_wrapper
from mpaudit.source.library.trainers.deepspeed_config import CONFIG, configured, silent_about, tell
from mpaudit.source.library.trainers.owned import spelled

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

_OPTIONS = frozenset(["retain_graph"])
"""The options of `loss.backward` that the engine's takes as well."""
MAX_STEPS = 12
"""So many operations on a loss are looked through."""


@function("deepspeed.initialize")
def initialize(call: Call) -> Value | None:
    """`engine, optimizer, loader, scheduler = deepspeed.initialize(model=..., config=...)`."""
    path, number = call.path, call.engine.identities.number
    if "**" in call.keywords or any(isinstance(each, ast.Starred) for each in call.node.args):
        return None
    made = call.made()
    engine = Thing(number("engine", made.uid), "DeepSpeedEngine", made.since)
    model, given = call.argument(1, "model"), call.argument(2, "optimizer")
    config = next((v for each in CONFIG if (v := call.keywords.get(each)) is not None), None)
    path.learn(engine, engine=engine, wraps=model, config=config or NONE)
    call.engine.places.setdefault(engine.uid, call.span)
    tell(call, config)
    optimizer = Thing(number("engine's optimizer", made.uid), "DeepSpeedOptimizer", made.since)
    path.learn(optimizer, driven=engine)
    if isinstance(given, Thing) and given.kind == "Optimizer":
        path.learn(given, driven=engine)
    others = (
        Thing(number("engine's", name, made.uid), "", made.since)
        for name in ("loader", "scheduler")
    )
    return Pack((engine, optimizer, *others))


@called("DeepSpeedEngine")
def forward(call: Call) -> Value | None:
    """`engine(x)`: what comes out went through it."""
    made = call_wrapper(call)
    if made is None:
        made = call.engine.unknown_call(call, call.thing)
    if isinstance(made, Pack):
        for each in made.items:
            if isinstance(each, Thing):
                call.path.learn(each, engine=call.thing)
    elif isinstance(made, Thing):
        call.path.learn(made, engine=call.thing)
    return made


@method("DeepSpeedEngine", "backward")
def backward(call: Call) -> Value:
    """`engine.backward(loss)`."""
    engine = Ref(call.thing.uid, "")
    call.emit(EngineBackward(at=call.span, occasional=call.occasional, engine=engine))
    return call.derived(*call.arguments)


@method("DeepSpeedEngine", "scale")
def scale(call: Call) -> Value:
    """`engine.scale(loss).backward()` is backward as DeepSpeed wants it, since 0.18.3."""
    return call.path.learn(call.derived(*call.arguments), engine=UNKNOWN)


@method("DeepSpeedEngine", "step")
def step(call: Call) -> Value:
    """`engine.step()`."""
    _stepped(call, call.thing, None, given=False)
    return NONE


@method("DeepSpeedEngine", "train", "eval", "to", "cuda", "half", "bfloat16", "float")
def itself(call: Call) -> Value:
    """Methods that return the engine, or leave it as it is."""
    return call.thing


@method(
    "DeepSpeedEngine",
    *"""train_batch eval_batch no_sync save_checkpoint load_checkpoint save_16bit_model save_fp16_model
    get_global_grad_norm get_lr is_gradient_accumulation_boundary train_micro_batch_size_per_gpu
    gradient_accumulation_steps zero_optimization_stage set_gradient_accumulation_boundary
    fp16_enabled bfloat16_enabled allreduce_gradients compile destroy""".split(),  # noqa: SIM905
)
def untouched(call: Call) -> Value:
    """Methods that run no backward that anybody else would have to run."""
    return call.made()


@method("DeepSpeedEngine", "zero_grad")
@method("DeepSpeedOptimizer", "zero_grad")
def zero_grad(call: Call) -> Value:
    """`engine.zero_grad()`."""
    optimizer = call.ref(call.thing) if call.thing.kind == "DeepSpeedOptimizer" else None
    call.emit(
        GradientsZeroed(
            at=call.span, occasional=call.occasional, counted=call.counted, optimizer=optimizer
        )
    )
    return NONE


@others("DeepSpeedEngine")
def attribute(engine: Calls, thing: Thing, name: str, path: Path) -> Value | None:
    """`engine.module` computes what the engine computes; what its model holds, it holds."""
    if name == "module":
        return thing
    held = path.known(thing, "@wraps")
    if isinstance(held, Thing) and path.heap.get((held.uid, name)) is not None:
        return path.heap.get((held.uid, name))
    return engine.derive(engine.term(".", thing, Const(name)), (thing,), path)


@method("DeepSpeedOptimizer", "step")
def step_of_optimizer(call: Call) -> Value:
    """`optimizer.step()` of the optimizer that came back."""
    engine = call.path.known(call.thing, "@driven")
    if isinstance(engine, Thing) and not _beside(call, "step"):
        _stepped(call, engine, call.ref(call.thing), given=False)
    return NONE


@on_result(functions=(), methods=("backward", "step"))
def around(call: Call, function: Value, _: Value) -> None:  # noqa: ARG001 - as all hooks
    """`loss.backward()`, and the step of an optimizer that is none of an engine's own."""
    if not isinstance(call.receiver, Thing):
        return
    if call.name == "step" and call.receiver.kind == "GradScaler":
        optimizer = call.argument(0, "optimizer")
        engine = call.path.known(optimizer, "@driven") if optimizer is not None else None
        if isinstance(engine, Thing) and not _beside(call, "step"):
            _stepped(call, engine, None, given=False)
        return
    fact = "@driven" if call.name == "step" else "@engine"
    if call.path.known(call.receiver, fact) is None:
        if not any(frame.module.mentions("deepspeed") for frame in call.path.frames):
            return
    if call.name == "step":
        if call.receiver.kind == "Optimizer":
            _plain_step(call, call.receiver)
    elif call.receiver.kind in ("", "list") and not call.arguments:
        if call.keywords.keys() <= _OPTIONS:
            _plain_backward(call, call.receiver)


def _plain_step(call: Call, optimizer: Thing) -> None:
    path = call.path
    engine = path.known(optimizer, "@driven")
    if isinstance(engine, Thing):
        if not _beside(call, "step"):
            _stepped(call, engine, call.ref(optimizer), given=True)
        return
    call.emit(
        EngineStep(
            at=call.span,
            engine=None,
            optimizer=call.ref(optimizer),
            unseen=_uncalled(call),
        )
    )


def _plain_backward(call: Call, loss: Thing) -> None:
    path = call.path
    engine = path.known(loss, "@engine")
    if engine is not None and not isinstance(engine, Thing):
        return
    if engine is not None and _beside(call, "backward"):
        return
    reach = spelled(engine, path, path.frame.scopes) if engine is not None else ""
    scaled = path.known(loss, "@scaled")
    call.emit(
        EngineRawBackward(
            at=call.span,
            occasional=call.occasional,
            loss=call.ref(loss),
            engine=Ref(engine.uid, reach) if engine is not None else None,
            divided=_divided(call.engine, loss, MAX_STEPS),
            scaled=isinstance(scaled, Pack) and bool(scaled.items),
            unseen=_uncalled(call),
        )
    )


def _uncalled(call: Call) -> bool:
    """Whether this is executed for a caller nobody has seen, who may hand over an engine."""
    description = call.engine.identities.description
    return any(description(frame.context)[0] == "entry" for frame in call.path.frames)


def _stepped(call: Call, engine: Thing, optimizer: Ref | None, *, given: bool) -> None:
    path = call.path
    known = configured(call, path.known(engine, "@config"))
    place, because = call.engine.places.get(engine.uid), []
    if known.at is not None:
        because.append(Related(known.at, "the configuration asks for it here"))
    if place is not None:
        because.append(Related(place, "the engine is made here"))
    required = known.requires_engine
    if required is None and silent_about(call, engine):
        required = False
    reach = spelled(engine, path, path.frame.scopes)
    call.emit(
        EngineStep(
            at=call.span,
            occasional=call.occasional,
            engine=Ref(engine.uid, reach),
            optimizer=optimizer,
            given=given,
            required=required,
            wraps=known.wraps_optimizer,
            because=tuple(because),
        )
    )


def _beside(call: Call, name: str) -> bool:
    """Whether a call stands in one branch of a question of which another branch asks the engine.

    The other branch calls a method of this name, `backward` with a loss and `step` of something else: there
    the author tells training with DeepSpeed from training without, in a way that is not followed.
    """
    module = call.path.frame.module
    receiver = (
        ast.unparse(call.node.func.value) if isinstance(call.node.func, ast.Attribute) else ""
    )
    child: ast.AST = call.node
    while (parent := module.parents.get(child)) is not None:
        if isinstance(parent, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Module)):
            return False
        if isinstance(parent, (ast.If, ast.IfExp)):
            branches: list[list[ast.AST]] = [
                list(part) if isinstance(part, list) else [part]
                for part in (parent.body, parent.orelse)
            ]
            for branch in branches:
                if child in branch:
                    continue
                for node in (n for each in branch for n in ast.walk(each)):
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                        asked = node.args or node.keywords or name == "step"
                        if node.func.attr == name and asked:
                            if ast.unparse(node.func.value) != receiver:
                                return True
        child = parent
    return False


def _divided(engine: Calls, value: object, steps: int) -> bool:
    """Whether a loss was divided by anything: the engine divides for the accumulation itself."""
    if not isinstance(value, Thing) or not steps:
        return False
    operation, *operands = engine.identities.description(value.uid)
    if operation == "Div":
        return True
    if operation not in ("Add", "Sub", "Mult", "USub"):
        return False
    return any(_divided(engine, each, steps - 1) for each in operands)
