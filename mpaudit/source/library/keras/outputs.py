"""Which loss of a compiled Keras model is computed from which of its outputs."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mpaudit.finding import Span
from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.values import NONE, TRUE, Class, Const, Function, Pack, Thing, Value
from mpaudit.source.library.keras.losses import Loss, computed_from, describe
from mpaudit.source.library.keras.models import outlets
from mpaudit.source.library.keras.names import flat, site
from mpaudit.source.library.keras.sequence import passed
from mpaudit.source.library.keras.values import LayerOf, Outlet, Tensor, left, read

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

Places = dict[int | str | None, Span]
"""Where the losses of a model stand: by position or name, None for the argument itself."""


def compiled(call: Call, model: Thing, loss: Value) -> None:
    """Note the losses that a model is compiled with, and where they stand."""
    node, module = call.argument_node(1, "loss"), call.path.frame.module
    places: Places = {}
    if node is not None:
        places[None] = module.span(node)
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                places[key.value] = module.span(value)
    elif isinstance(node, (ast.List, ast.Tuple)):
        places.update(enumerate(module.span(each) for each in node.elts))
    call.path.learn(model, loss=loss, loss_at=Const(tuple(places.items())))


def loss_of(call: Call, model: Thing) -> Loss:
    """The one loss of a compiled model."""
    return describe(call.path.known(model, "@loss"), call, _places(call, model).get(None))


def _places(call: Call, model: Thing) -> Places:
    known = call.path.known(model, "@loss_at")
    return dict(known.value) if isinstance(known, Const) and isinstance(known.value, tuple) else {}


def losses_of(call: Call, model: Thing) -> list[Value | None] | dict[str, Value]:
    """The losses that a model was compiled with: one for each output, by position or by name."""
    loss = call.engine.logic.settled(call.path.known(model, "@loss"), call.path)
    if isinstance(loss, Thing) and loss.kind == "dict":
        return {name[2:-2]: value for name, value in call.path.heap.of(loss.uid) if name[0] == "["}
    if isinstance(loss, Pack) or (isinstance(loss, Thing) and loss.kind == "list"):
        return [*flat(loss, call.path)]
    return [loss]


def computed_from_outputs(call: Call, model: Thing, found: Sequence[Outlet]) -> None:
    """Tell the protocols which losses are computed from what leaves a compiled model."""
    for value, loss, each in _pairs(call, model, found):
        _own_loss(call, value, each)
        computed_from(call, loss, each)


def _pairs(
    call: Call, model: Thing, found: Sequence[Outlet]
) -> list[tuple[Value | None, Loss, Outlet]]:
    losses, places = losses_of(call, model), _places(call, model)
    if isinstance(losses, dict):
        names = [_label(call, model, index, each.layer) for index, each in enumerate(found)]
        pairs = [(losses.get(name or ""), places.get(name)) for name in names]
    elif len(losses) == len(found):
        one = len(losses) == 1 and 0 not in places
        places = {0: places[None]} if one and None in places else places
        pairs = [(value, places.get(index)) for index, value in enumerate(losses)]
    else:
        return [(None, Loss("the loss"), each) for each in found]
    return [
        (value, describe(value, call, at), each)
        for (value, at), each in zip(pairs, found, strict=True)
        if value not in (None, NONE) or isinstance(losses, dict)
    ]


def _label(call: Call, model: Thing, index: int, layer: Thing | None) -> str | None:
    """The name by which an output is known: its key in the dict of outputs, or its layer's name."""
    named = call.path.known(model, "@named")
    if isinstance(named, Thing):
        keys = [name[2:-2] for name, _ in call.path.heap.of(named.uid) if name[0] == "["]
        return keys[index] if index < len(keys) else None
    known = call.path.known(layer, "@layer") if layer is not None else None
    return known.label if isinstance(known, LayerOf) else None


def own_method(call: Call, thing: Thing, name: str) -> Function | None:
    """A method that the project's own class of a model or loss defines."""
    owner = call.path.known(thing, "@class")
    found = lookup(call.path, owner, name) if isinstance(owner, Class) else None
    return found if isinstance(found, Function) else None


def through(
    call: Call,
    label: str,
    function: Function,
    arguments: tuple[Value, ...],
    keywords: dict[str, Value] | None = None,
) -> Value:
    """Follow a function that Keras calls."""
    place = site(call.node, label)
    done = call.path.frame.done
    if place in done:
        return done[place]
    done[place] = call.engine.enter(place, function, arguments, keywords or {}, call.path)
    return done[place]


def outputs_in_training(call: Call, model: Thing) -> list[Outlet]:
    """What leaves a model that is trained; the `call` of a project's own class is followed."""
    forward = own_method(call, model, "call")
    if forward is None:
        passed_through = passed(call, model, call.engine.term("inputs", model))
        found = None if passed_through is None else read(passed_through, call.path)
        return outlets(model, call) if found is None else [found]
    spec = forward.node.args
    takes = any(each.arg == "training" for each in (*spec.args, *spec.kwonlyargs))
    inputs = call.engine.term("inputs", model)
    result = through(call, "call", forward, (model, inputs), {"training": TRUE} if takes else {})
    return [read(each, call.path) for each in flat(result, call.path)]


def _own_loss(call: Call, loss: Value | None, found: Outlet) -> None:
    """Follow a loss of the project's own, which may hold the loss that counts."""
    function: Function | None = loss if isinstance(loss, Function) else None
    first: tuple[Value, ...] = ()
    if isinstance(loss, Thing) and loss.kind == "KerasLoss":
        function, first = own_method(call, loss, "call"), (loss,)
    if function is None:
        return
    number = call.engine.identities.number(
        "prediction", call.node, call.path.frame.iteration, found.shown
    )
    prediction = left(call, Thing(number, since=call.path.frame.iteration), Tensor((), None, found))
    labels = call.engine.term("labels", prediction)
    through(call, f"loss {number}", function, (*first, labels, prediction))
