"""Models whose parameters are cast to 16 bits, and the optimizers of torch that train them.

An optimizer counts only if it is given a model's parameters whole, as `parameters()` returns them:
what was picked out or copied may be float32. A model that went where it cannot be followed, or in
whose file parameters are frozen or their data replaced, is left alone.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from mpaudit.event import HalfStep, HalfUnscaled, Ref
from mpaudit.source.engine.dtypes import HALF, Dtype, dtype_named
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.path import UNSET
from mpaudit.source.engine.registry import harmless, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.torch.half_model import cast_by_hand, dtype_of_model
from mpaudit.source.library.torch.optim import made_for_one_step

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

EPSILON = {
    "Adam": 1e-8,
    "AdamW": 1e-8,
    "NAdam": 1e-8,
    "Adamax": 1e-8,
    "RMSprop": 1e-8,
    "Adagrad": 1e-10,
}
"""The defaults of the optimizers that a vanished epsilon makes divide by zero."""
OPTIMIZERS = {"transformers.AdamW": 1e-6, "transformers.optimization.AdamW": 1e-6}
"""Optimizers of other libraries that step parameters in their own dtype, and their epsilon."""
CASTS = {"half": "float16", "bfloat16": "bfloat16", "float": "float32"}
LOADERS = ("transformers.", "diffusers.", "sentence_transformers.")
QUANTISED = ("quantization_config", "load_in_8bit", "load_in_4bit")
LEAVES = re.compile(r"Trainer$|DataCollator|schedule")
"""Functions of libraries that leave the parameters of what they are given as they are."""
SAME = ("to", "cuda", "cpu", "train", "eval", "requires_grad_")
KNOWN = frozenset(
    """parameters named_parameters modules named_modules state_dict load_state_dict zero_grad half
    bfloat16 float gradient_checkpointing_enable save_pretrained generate forward""".split()  # noqa: SIM905
)


@on_result()
def told(call: Call, callee: Value, made: Value) -> None:
    """A call of a library is over."""
    if isinstance(callee, External):
        _function(call, callee.name, made)
    elif isinstance(call.receiver, Thing):
        if call.receiver.kind in ("", "Module", "library"):
            _method(call, call.receiver, made)
        elif call.receiver.kind == "Optimizer" and call.name == "step":
            _stepped(call, call.receiver)
        elif call.receiver.kind == "GradScaler" and call.name in ("step", "unscale_"):
            optimizer = call.argument(0, "optimizer")
            if isinstance(optimizer, Thing) and optimizer.kind == "Optimizer":
                _stepped(call, optimizer, call.receiver)


def _function(call: Call, name: str, made: Value) -> None:
    path = call.path
    own = name.startswith("torch.optim.") or name in OPTIMIZERS
    if own and isinstance(made, Thing) and made.kind == "Optimizer":
        _optimizer(call, name, made)
    elif name in ("builtins.list", "itertools.chain") and isinstance(made, Thing):
        _joined(call.arguments, made, path)
    elif name.endswith(".from_pretrained") and name.startswith(LOADERS) and isinstance(made, Thing):
        given = call.keywords.get("torch_dtype") or call.keywords.get("dtype")
        given = call.engine.logic.settled(given, path)
        named = given.value if isinstance(given, Const) else dtype_named(given)
        if named in HALF and not any(each in call.keywords for each in QUANTISED):
            path.learn(made, param_dtype=Const(Dtype(str(named), call.span, "cast")))
    elif not harmless(name) and LEAVES.search(name) is None:
        for argument in (*call.arguments, *call.keywords.values()):
            _stray(argument, path)


@on_operation
def added(_: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path) -> None:
    """`list(encoder.parameters()) + list(decoder.parameters())`."""
    if operation == "Add":
        _joined(operands, made, path)


def _joined(values: tuple[Value, ...], made: Thing, path: Path) -> None:
    """Whole models together."""
    whole = [path.known(value, "@whole") for value in values]
    models = tuple(m for each in whole if isinstance(each, Pack) for m in each.items)
    if whole and all(isinstance(each, Pack) for each in whole):
        path.learn(made, whole=Pack(models))


def _stray(value: Value, path: Path) -> None:
    if isinstance(value, Thing) and (value.kind == "Optimizer" or dtype_of_model(value, path)):
        path.learn(value, strayed=TRUE)


def _method(call: Call, receiver: Thing, made: Value) -> None:
    path = call.path
    if call.name == "parameters" and isinstance(made, Thing):
        path.learn(made, whole=Pack((receiver,)))
    elif receiver.kind == "Module":
        return
    elif call.name in CASTS:
        known = path.known(made, "@dtype")
        if receiver.kind == "library":  # an object of a class nobody sees: no tensor
            known = Const(Dtype(CASTS[call.name], call.span, "cast"))
            if isinstance(made, Thing):
                path.learn(made, param_dtype=known)
        if isinstance(path.frame.module.parents.get(call.node), ast.Expr):
            path.learn(receiver, param_dtype=known)
    elif call.name == "to" and isinstance(path.frame.module.parents.get(call.node), ast.Expr):
        known = path.known(made, "@dtype")
        if known is not None:  # a tensor's result would be lost: it is a model, changed in place
            path.learn(receiver, param_dtype=known)
    elif call.name in SAME and isinstance(made, Thing) and made != receiver:
        known = path.known(receiver, "@param_dtype")
        if known is not None and path.known(made, "@dtype") is None:
            path.learn(made, param_dtype=known)
    elif call.name and call.name not in KNOWN and path.known(receiver, "@param_dtype") is not None:
        path.learn(receiver, strayed=TRUE)


def _optimizer(call: Call, name: str, made: Thing) -> None:
    """An optimizer was built: note the models that it is given whole."""
    path = call.path
    given = call.argument(0, "params")
    models: dict[Value, None] = {}
    for part in parts(given, path) if given is not None else ():
        whole = path.known(part, "@whole")
        if isinstance(whole, Pack):
            models.update(dict.fromkeys(whole.items))
    if models:
        call.engine.places.setdefault(made.uid, call.span)
        eps = _epsilon(call, name)
        path.learn(made, trains=Pack(tuple(models)), maker=Const(name), eps=Const(eps))
        if call.keywords.get("fused", FALSE) not in (FALSE, NONE) or "**" in call.keywords:
            path.learn(made, fused=TRUE)


def _epsilon(call: Call, maker: str) -> float | None:
    """The epsilon, where it is added in the dtype of the parameters."""
    name = maker.rpartition(".")[2]
    fused = call.keywords.get("fused")
    if name not in EPSILON or "**" in call.keywords or (fused not in (None, FALSE, NONE)):
        return None
    eps = call.keywords.get("eps")
    position = {"Adam": 3, "AdamW": 3, "NAdam": 3, "Adamax": 3, "RMSprop": 3, "Adagrad": 5}[name]
    if eps is None and position < len(call.arguments):
        eps = call.arguments[position]
    if eps is None:
        return OPTIMIZERS.get(maker, EPSILON[name])
    value = eps.value if isinstance(eps, Const) else None
    return float(value) if isinstance(value, (int, float)) else None


def _fact(thing: Thing, name: str, path: Path) -> Value | None:
    """A fact of an object that was made on some paths only: there it is what it is."""
    found = path.known(thing, name)
    while isinstance(found, Choice):
        if UNSET not in (found.yes, found.no):
            return None
        found = found.no if found.yes is UNSET else found.yes
    return found


def _stepped(call: Call, optimizer: Thing, scaler: Thing | None = None) -> None:
    path, engine = call.path, call.engine
    trains = _fact(optimizer, "@trains", path)
    made = engine.places.get(optimizer.uid)
    if not isinstance(trains, Pack) or made is None or path.known(optimizer, "@strayed"):
        return
    maker, eps = _fact(optimizer, "@maker", path), _fact(optimizer, "@eps", path)
    for model in trains.items:
        known = cast_by_hand(model, path)
        if known is None or known.at is None:
            continue
        divides = call.name == "unscale_" or path.known(optimizer, "@fused") is None
        if scaler is not None and known.name == "float16" and not _live(call, scaler, model):
            continue
        if scaler is not None and known.name == "float16" and divides:
            test = _condition(known.at, path)
            if test is not None and not isinstance(test, (ast.Name, ast.Attribute)):
                continue  # a condition put together from others is not followed far enough
            call.emit(
                HalfUnscaled(
                    at=call.span,
                    occasional=call.occasional,
                    chosen=_condition(known.at, path) is not None,
                    scaler=call.ref(scaler),
                    optimizer=Ref(optimizer.uid, ""),
                    cast=known.at,
                    made=made,
                    maker=str(maker.value) if isinstance(maker, Const) else "",
                )
            )
            path.learn(optimizer, refused=TRUE)
        if call.name == "unscale_" or path.known(optimizer, "@refused") is not None:
            continue
        call.emit(
            HalfStep(
                at=call.span,
                occasional=call.occasional,
                optimizer=Ref(optimizer.uid, ""),
                model="",
                dtype=known.name,
                cast=known.at,
                chosen=_condition(known.at, path) is not None,
                once=made_for_one_step(engine, optimizer, path),
                made=made,
                maker=str(maker.value) if isinstance(maker, Const) else "",
                eps=eps.value if isinstance(eps, Const) and isinstance(eps.value, float) else None,
            )
        )


def _live(call: Call, scaler: Thing, model: Value) -> bool:
    """Whether a scaler is on and the model was cast on this path. Raises Fork for the scaler's sake.

    A cast that rests on a question of its own is not reported: it may be one for the evaluation.
    """
    path = call.path
    off = path.known(scaler, "@off")
    if off is not None and call.engine.logic.pick(off, path) == TRUE:
        return False
    known = path.known(model, "@param_dtype") or path.known(model, "@dtype")
    return isinstance(call.engine.logic.settled(known, path), Const)


def _condition(cast: Span, path: Path) -> ast.expr | None:
    """The condition that a cast stands under, if it does."""
    files = {frame.module.filename: frame.module for frame in path.frames}
    module = files.get(cast.filename)
    node = module.node_at(cast) if module is not None else None
    while module is not None and node is not None:
        if isinstance(node, (ast.If, ast.IfExp)) and "__name__" not in ast.dump(node.test):
            return node.test
        node = None if isinstance(node, ast.FunctionDef) else module.parents.get(node)
    return None if module is not None else ast.Constant(None)
