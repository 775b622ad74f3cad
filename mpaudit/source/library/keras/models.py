"""Keras models: Sequential, functional, subclassed, from files; what is in them, what leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import LayerMade, ModelLoaded, ModelMade, ModelSaved, Ref
from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.registry import attributes, base, called, entered, initialised, method
from mpaudit.source.engine.values import NONE, TRUE, UNKNOWN, Const, Pack, Thing, Value
from mpaudit.source.library.keras.autocast import cast_inputs, computed_in
from mpaudit.source.library.keras.dtype import SEEN, compute_dtype_of, held, keep
from mpaudit.source.library.keras.input_range import given
from mpaudit.source.library.keras.layers import outlet
from mpaudit.source.library.keras.names import flat, keras, text
from mpaudit.source.library.keras.policy import in_force
from mpaudit.source.library.keras.policy_name import policy_name
from mpaudit.source.library.keras.scaling import born
from mpaudit.source.library.keras.sequence import passed
from mpaudit.source.library.keras.training_mode import training_handed_on
from mpaudit.source.library.keras.values import Outlet, Tensor, left, origin, read

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

MAX_LAYERS = 4000


def _new(call: Call, made: Thing) -> Thing:
    call.engine.places.setdefault(made.uid, call.span)
    own = call.keywords.get("dtype", call.keywords.get("dtype_policy", NONE))
    policy = in_force(call.path) if own == NONE else UNKNOWN
    return call.path.learn(born(call, made), policy=policy)


@keras("Sequential", "models.Sequential")
def make_sequential(call: Call) -> Value:
    """`keras.Sequential([...])`."""
    import ast

    model = _new(call, call.made("KerasModel"))
    layers, node = call.argument(0, "layers"), call.argument_node(0, "layers")
    if layers is None or layers == NONE:
        call.path.learn(model, items=Pack(()))
    elif isinstance(layers, Pack) or call.path.known(layers, "@items") is not None:
        call.path.learn(model, items=Pack(tuple(flat(layers, call.path))))
    elif isinstance(node, ast.List) and not isinstance(node.elts[-1], ast.Starred):
        call.path.learn(model, tail=call.engine.evaluate(node.elts[-1], call.path))
    tell(call, model)
    return model


@method("KerasModel", "add")
def add(call: Call) -> Value:
    """`model.add(layer)`."""
    path, layer = call.path, call.picked(0, "layer")
    known = path.known(call.thing, "@items")
    items = call.engine.logic.pick(known, path) if known is not None else None
    if isinstance(items, Pack) and layer is not None:
        path.learn(call.thing, items=Pack((*items.items, layer)))
    elif layer is not None:
        path.learn(call.thing, tail=layer)
    tell(call, call.thing)
    return NONE


@method("KerasModel", "pop")
def pop(call: Call) -> Value:
    """`model.pop()`."""
    known = call.path.known(call.thing, "@items")
    if isinstance(known, Pack):
        call.path.learn(call.thing, items=Pack(known.items[:-1]))
    tell(call, call.thing)
    return NONE


@keras("Model", "models.Model", "Functional", "training.Model", "engine.training.Model")
def make_model(call: Call) -> Value:
    """`keras.Model(inputs, outputs)`; older code calls them `input` and `output`."""
    model = _new(call, call.made("KerasModel"))
    outputs = call.argument(1, "outputs" if "outputs" in call.keywords else "output")
    if outputs is not None:
        call.path.learn(model, outputs=Pack(tuple(flat(outputs, call.path))))
        if isinstance(outputs, Thing) and outputs.kind == "dict":
            call.path.learn(model, named=outputs)
    tell(call, model)
    return model


@initialised("KerasModel")
def initialise(call: Call, model: Thing) -> None:
    """`super().__init__(inputs, outputs)` in a model of the project's own class."""
    outputs = call.argument(1, "outputs")
    if outputs is not None:
        call.path.learn(model, outputs=Pack(tuple(flat(outputs, call.path))))
        tell(call, model)


def _adopt(call: Call, made: Thing, name: str) -> None:
    """An instance of a project's own model class; its layers are told of when they exist."""
    _new(call, made)
    call.emit(ModelMade(at=call.span, model=Ref(made.uid, ""), layers=(), output=()))
    if last(name) == "Sequential":
        call.path.learn(made, items=Pack(()))


base(
    "KerasModel",
    *everywhere("Model", "models.Model", "Sequential", "models.Sequential"),
    adopt=_adopt,
)


@keras("applications.*")
def make_application(call: Call) -> Value | None:
    """`keras.applications.ResNet50(weights=None, classes=10)`."""
    name = last(call.name)
    if not name[:1].isupper():
        return None
    model, path = _new(call, call.made("KerasModel")), call.path
    inside = Ref(model.uid, name)  # one object, told of as a model and as its only layer
    top = call.keywords.get("include_top", TRUE)
    activation: str | None = None
    if top == TRUE:
        given = call.keywords.get("classifier_activation", Const("softmax"))
        activation = text(given)
        linear = given == NONE or activation == "linear"
        path.learn(
            model, top=Const("logits" if linear else activation) if linear or activation else NONE
        )
    call.emit(LayerMade(at=call.span, layer=inside, kind=name, policy=None, activation=activation))
    call.emit(ModelMade(at=call.span, model=inside, layers=(inside,), output=(inside,)))
    return path.learn(model, told=TOLD)


TOLD = Const("told once and for all")


@keras(
    "models.load_model", "saving.load_model", "models.model_from_json", "models.model_from_config"
)
def load_model(call: Call) -> Value:
    """A model whose inside cannot be seen; it keeps the policy that it was saved with."""
    model = _new(call, call.made("KerasModel"))
    call.path.learn(model, policy=UNKNOWN, told=TOLD)
    call.emit(ModelMade(at=call.span, model=Ref(model.uid, ""), layers=(), output=()))
    path = call.argument(0, "filepath")
    if path is not None:
        call.emit(ModelLoaded(at=call.span, occasional=call.occasional, path=path))
    return model


@method("KerasModel", "save")
def save_model(call: Call) -> Value:
    """`model.save("model.keras")`."""
    path = call.argument(0, "filepath")
    if path is not None:
        policy = policy_name(call.path.known(call.thing, "@policy"), call.path)
        saved = ModelSaved(at=call.span, occasional=call.occasional, path=path, policy=policy)
        call.emit(saved)
    return NONE


@keras("models.clone_model")
def clone_model(call: Call) -> Value | None:
    """A copy of a model: its layers keep their policies."""
    source = call.argument(0, "model")
    if not isinstance(source, Thing) or source.kind != "KerasModel":
        return None
    model = call.made("KerasModel")
    for name, value in call.path.heap.of(source.uid):
        if name not in ("@told", "@optimizer", "@loss"):
            call.path.heap[(model.uid, name)] = value
    tell(call, model)
    return model


# What is in a model, and what leaves it


def tell(call: Call, model: Thing) -> None:
    """Tell the protocols what the model consists of, if that is new."""
    path = call.path
    if path.known(model, "@told") == TOLD:
        return
    layers = tuple(layers_of(model, path))
    told = Pack(layers)
    if path.known(model, "@told") == told or not layers:
        return
    path.learn(model, told=told)
    left = [found.layer for found in outlets(model, call) if found.layer is not None]
    call.emit(
        ModelMade(
            at=call.engine.places.get(model.uid, call.span),
            occasional=call.occasional,
            model=Ref(model.uid, ""),
            layers=tuple(Ref(layer.uid, "") for layer in layers),
            output=tuple(Ref(layer.uid, "") for layer in left),
            policy=policy_name(path.known(model, "@policy"), path),
        )
    )


def layers_of(model: Thing, path: Path) -> list[Thing]:
    """The layers and models that a model is made of, as far as they are known."""
    items, outputs = path.known(model, "@items"), path.known(model, "@outputs")
    if isinstance(outputs, Pack):
        return _through_graph(outputs, path)
    held: list[Value] = list(items.items) if isinstance(items, Pack) else []
    if path.known(model, "@class") is not None or not held:
        held += [
            part
            for name, value in path.heap.of(model.uid)
            if name[0] != "@" or name == "@tail"
            for part in flat(value, path)
        ]
    found = dict.fromkeys(p for p in held if isinstance(p, Thing))
    return [p for p in found if p.kind in ("KerasLayer", "KerasModel") and p != model]


def _through_graph(outputs: Pack, path: Path) -> list[Thing]:
    found: dict[Thing, None] = {}
    waiting: list[Value] = list(outputs.items)
    seen: set[int] = set()
    while waiting and len(seen) < MAX_LAYERS:
        tensor = waiting.pop()
        if not isinstance(tensor, Thing) or tensor.uid in seen:
            continue
        seen.add(tensor.uid)
        known = origin(tensor, path)
        if known is not None:
            if known.by is not None:
                found[known.by] = None
            waiting.extend(flat(Pack(known.inputs), path))
    return list(reversed(found))


def outlets(model: Thing, call: Call) -> list[Outlet]:
    """What leaves a model; empty where that is not known."""
    path = call.path
    outputs, items = path.known(model, "@outputs"), path.known(model, "@items")
    top = path.known(model, "@top")
    if top is not None:
        inside = Thing(model.uid, "KerasModel")
        return [Outlet(inside, text(top), inside)]
    if isinstance(outputs, Pack):
        return [read(tensor, path) for tensor in outputs.items]
    tail = path.known(model, "@tail")
    if isinstance(tail, Thing):
        items = Pack((tail,))
    found = Outlet()
    for item in items.items if isinstance(items, Pack) else ():
        if isinstance(item, Thing) and item.kind == "KerasLayer":
            found = outlet(item, call, found)
        elif isinstance(item, Thing) and item.kind == "KerasModel":
            inner = outlets(item, call)
            found = inner[0] if len(inner) == 1 else Outlet()
        elif item is not None:
            found = Outlet()
    return [found] if isinstance(items, Pack) and items.items else []


def leaving(model: Thing, call: Call) -> list[Dtype | None]:
    """The dtypes of what leaves a model; empty where that is not known."""
    path = call.path
    if SEEN not in path.heap:
        return []
    outputs, items = path.known(model, "@outputs"), path.known(model, "@items")
    if path.known(model, "@top") is not None:
        name = compute_dtype_of(model, path)
        at = call.engine.places.get(model.uid)
        return [None if name is None else Dtype(name, at, "layer")]
    if isinstance(outputs, Pack):
        return [held(tensor, path) for tensor in outputs.items]
    tail = path.known(model, "@tail")
    if isinstance(tail, Thing):
        items = Pack((tail,))
    found: Dtype | None = None
    for item in items.items if isinstance(items, Pack) else ():
        if isinstance(item, Thing) and item.kind == "KerasLayer":
            found = computed_in(item, found, call)
        elif isinstance(item, Thing) and item.kind == "KerasModel":
            inner = leaving(item, call)
            found = inner[0] if len(inner) == 1 else None
        else:
            found = None
    return [found] if isinstance(items, Pack) and items.items else []


@entered("KerasModel")
def entering(call: Call) -> None:
    """A project's own model is called; its `call` is followed."""
    given(call, call.thing, call.argument(0))
    tell(call, call.thing)
    cast_inputs(call)
    training_handed_on(call)


@called("KerasModel")
def call_model(call: Call) -> Value:
    """`model(x)`."""
    model, path = call.thing, call.path
    tell(call, model)
    sources = (*call.arguments, *call.keywords.values())
    through = passed(call, model, call.arguments[0]) if call.arguments else None
    if through is not None:
        return through
    made, found = call.made(), outlets(model, call)
    left(call, made, Tensor(sources, model, found[0] if len(found) == 1 else Outlet()))
    dtypes = leaving(model, call)
    path.learn(made, called=Const(call.span))
    if len(found) <= 1:
        keep(made, dtypes[0] if len(dtypes) == 1 else None, path)
        return made
    parts = []
    for index, each in enumerate(found):
        number = call.engine.identities.number("output", made, index)
        part = Thing(number, since=made.since)
        parts.append(left(call, part, Tensor((made,), model, each)))
        keep(part, dtypes[index] if len(dtypes) == len(found) else None, path)
        path.learn(part, called=Const(call.span))
    named = path.known(model, "@named")
    if isinstance(named, Thing):
        keys = [name for name, _ in path.heap.of(named.uid) if name[0] == "["]
        for key, part in zip(keys, parts, strict=False):
            path.heap[(made.uid, key)] = part
        return made
    return Pack(tuple(parts))


# Attributes


@attributes("trainable_variables")
def trainable_variables(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`model.trainable_variables`."""
    if thing.kind not in ("KerasModel", "KerasLayer"):
        return None
    found = engine.term(".variables", thing)
    return path.learn(found, owners=Pack((thing,)))


for _name in ("trainable_weights", "variables", "weights"):
    attributes(_name)(trainable_variables)


@attributes("output")
def output(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`model.output`, `layer.output`: a symbolic tensor to go on from."""
    if thing.kind not in ("KerasModel", "KerasLayer"):
        return None
    outputs = path.known(thing, "@outputs")
    if isinstance(outputs, Pack) and len(outputs.items) == 1:
        return outputs.items[0]
    made = engine.term(".output", thing)
    return path.learn(made, tensor=Tensor((), thing), scaled=Pack(()))
