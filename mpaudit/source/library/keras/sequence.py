"""What passes through a Sequential: layer by layer, where some are of the project's own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.request import Call
from mpaudit.source.engine.values import Class, Function, Pack, Thing, Value
from mpaudit.source.library.keras.autocast import build, cast_inputs, leaves
from mpaudit.source.library.keras.dtype import SEEN, held, keep
from mpaudit.source.library.keras.layers import outlet
from mpaudit.source.library.keras.names import site
from mpaudit.source.library.keras.training_mode import training_handed_on
from mpaudit.source.library.keras.values import Tensor, left, read

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path

MAX_ITEMS = 40


def followed(model: Thing, path: Path) -> list[Thing]:
    """The layers of a Sequential, if something of 16 bits is in sight and one is the project's own."""
    items = path.known(model, "@items")
    if SEEN not in path.heap or not isinstance(items, Pack) or len(items.items) > MAX_ITEMS:
        return []
    layers = [item for item in items.items if isinstance(item, Thing)]
    if len(layers) != len(items.items) or path.known(model, "@class") is not None:
        return []
    own = any(_method(item, path) is not None or followed(item, path) for item in layers)
    return layers if own else []


def _method(layer: Thing, path: Path) -> Function | None:
    """The `call` of a layer of the project's own class."""
    owner = path.known(layer, "@class")
    found = lookup(path, owner, "call") if isinstance(owner, Class) else None
    return found if isinstance(found, Function) else None


def passed(call: Call, model: Thing, given: Value) -> Value | None:
    """What leaves a Sequential that is given a tensor; None where it need not be followed.

    Raises Enter for the `call` of a layer of the project's own class.
    """
    layers, tensor = followed(model, call.path), given
    for layer in layers:
        tensor = _through(call, model, layer, tensor)
    return tensor if layers else None


def _through(call: Call, model: Thing, layer: Thing, given: Value) -> Value:
    path, engine = call.path, call.engine
    method = _method(layer, path)
    if method is None and layer.kind == "KerasModel":
        return _through_model(call, layer, given)
    if method is None:
        made = engine.term("passed", model, layer, given)
        left(call, made, Tensor((given,), layer, outlet(layer, call, read(given, path))))
        return leaves(layer, made, given, call)
    place, done = site(call.node, f"call of {layer.uid}"), path.frame.done
    if place not in done:
        asked = Call(engine, path, call.node, "call", layer, (given,), {})
        build(asked)
        cast_inputs(asked)
        training_handed_on(asked)
        done[place] = engine.enter(place, method, (layer, *asked.arguments), asked.keywords, path)
    return done[place]


def _through_model(call: Call, model: Thing, given: Value) -> Value:
    """A Sequential or functional model within a Sequential."""
    path = call.path
    items, outputs = path.known(model, "@items"), path.known(model, "@outputs")
    made = call.engine.term("passed", model, given)
    if isinstance(outputs, Pack) and len(outputs.items) == 1:
        left(call, made, Tensor((given,), model, read(outputs.items[0], path)))
        keep(made, held(outputs.items[0], path), path)
        return made
    layers = items.items if isinstance(items, Pack) else ()
    if not layers or not all(isinstance(each, Thing) for each in layers):
        return left(call, made, Tensor((given,), model))
    tensor = given
    for each in layers:
        if isinstance(each, Thing):
            tensor = _through(call, model, each, tensor)
    return tensor


def through_call(call: Call, model: Thing, given: Value) -> Value | None:
    """What the `call` of a project's own model returns, or what leaves a Sequential of own layers.

    None where neither is to be followed; raises Enter.
    """
    method = _method(model, call.path)
    if method is None:
        return passed(call, model, given)
    place, done = site(call.node, f"call of {model.uid}"), call.path.frame.done
    if place not in done:
        done[place] = call.engine.enter(place, method, (model, given), {}, call.path)
    return done[place]
