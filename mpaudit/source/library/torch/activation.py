"""Tensors that went through a softmax or sigmoid: which, where, and through what they stay so.

The fact "@activation" of a tensor is the last activation it went through; its place is where that
stands. What moves or casts the numbers keeps it, what computes new ones does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import function, method, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    FALSE,
    TRUE,
    UNKNOWN,
    Class,
    Const,
    External,
    Pack,
    Thing,
    Value,
)

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

LAYERS = {
    "Softmax": "softmax",
    "Softmax2d": "softmax",
    "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid",
}
NATURES = ("softmax", "log_softmax", "sigmoid")
PASSING = frozenset(
    ["Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Flatten", "Unflatten"]
)
"""Layers behind an activation that leave its numbers what they are, in training but for a few zeros."""
KEEPS = frozenset(
    """view view_as reshape reshape_as squeeze unsqueeze flatten ravel permute transpose t movedim
    swapaxes contiguous clone float double half bfloat16 to type type_as cpu cuda expand expand_as
    index_select gather masked_select narrow select unbind chunk split clamp clip clamp_min nan_to_num
    interpolate upsample rearrange resize resize_ squeeze_ unsqueeze_ requires_grad_ retain_grad""".split()  # noqa: SIM905
)
"""Functions and methods of torch whose results are the numbers they were given, in another form."""
CLAMPS = ("clamp", "clip", "clamp_min", "nan_to_num")
"""Those of them after which no number is 0 any more."""
_FUNCTIONS = ("torch.", "einops.")


def activated(tensor: Thing, nature: str, at: Thing | None, call: Call) -> Thing:
    """Note that a tensor went through an activation, which stands where `at` was made."""
    places = call.engine.places
    places[tensor.uid] = places.get(at.uid, call.span) if at is not None else call.span
    return call.path.learn(tensor, activation=Const(nature))


def nature_of(tensor: Value | None, path: Path) -> str | None:
    """What the last activation of a tensor was, None if it had none or that is not known."""
    known = path.known(tensor, "@activation") if tensor is not None else None
    return str(known.value) if isinstance(known, Const) and known.value in NATURES else None


def last_layer(model: Thing, path: Path) -> Thing | None:
    """The layer that a module of torch ends in, itself if it is no chain; None if not known."""
    items, tail = path.known(model, "@items"), path.known(model, "@tail")
    if not isinstance(items, Pack):
        if isinstance(tail, Thing):
            return None if _passes(tail, path) else last_layer(tail, path)
        name = path.known(model, "@layer")
        chain = name in (None, Const("Sequential")) and path.known(model, "@class") is None
        return None if chain else model
    for last in reversed(items.items):
        if not isinstance(last, Thing):
            return None
        if not _passes(last, path):
            return last_layer(last, path)
    return None


def _passes(layer: Thing, path: Path) -> bool:
    known = path.known(layer, "@layer")
    return isinstance(known, Const) and known.value in PASSING


def leaving(call: Call, made: Thing, layer: Thing | None) -> Thing:
    """Note what leaves a layer of torch that ends a model, or is one."""
    known = call.path.known(layer, "@layer") if layer is not None else None
    nature = LAYERS.get(str(known.value)) if isinstance(known, Const) else None
    return activated(made, nature, layer, call) if nature is not None else made


@function(
    *(f"torch.{name}" for name in NATURES),
    *(f"torch.Tensor.{name}" for name in NATURES),
    *(f"torch.special.{name}" for name in ("softmax", "log_softmax", "expit")),
    *(f"torch.nn.functional.{name}" for name in NATURES),
)
def activation(call: Call) -> Value:
    """`F.softmax(x, dim=-1)`."""
    made = call.derived(*call.arguments)
    if call.path.known(made, "@scaled") is None:
        call.path.learn(made, scaled=Pack(()))
    name = call.name.rpartition(".")[2]
    return activated(made, "sigmoid" if name == "expit" else name, None, call)


@method("", "softmax", "log_softmax", "sigmoid")
def activation_method(call: Call) -> Value:
    """`x.softmax(-1)`."""
    assert call.receiver is not None
    call.arguments = (call.receiver, *call.arguments)
    return activation(call)


@method("", "sigmoid_")
def activation_in_place(call: Call) -> Value:
    """`x.sigmoid_()`."""
    return activated(call.thing, "sigmoid", None, call)


@method("", "requires_grad_")
def made_a_leaf(call: Call) -> Value | None:
    """`scores = torch.rand(8, 4).softmax(-1).requires_grad_()`: a leaf, whatever its numbers are."""
    if nature_of(call.receiver, call.path) is None or call.argument(0) == FALSE:
        return None
    return call.path.learn(call.thing, activation=UNKNOWN)


_JOINING = ("cat", "concat", "stack")


def _passes_on(name: str) -> bool:
    last = name.rpartition(".")[2]
    return last in KEEPS or last in _JOINING or last == "exp"


@on_result(functions=_passes_on, methods=_passes_on)
def passed_on(call: Call, callee: Value, made: Value) -> None:
    """`probabilities.squeeze(1)`, `torch.flatten(probabilities)`, `torch.cat([p, q])`."""
    if not isinstance(made, Thing) or made.kind not in ("", "library"):
        return
    name = call.name.rpartition(".")[2]
    if name in _JOINING and isinstance(callee, External):
        _joined(call, made)
    elif name in KEEPS or name == "exp":
        source = call.receiver
        if isinstance(callee, External):
            if not callee.name.startswith(_FUNCTIONS):
                return
            source = call.argument(0, "input")
        nature = nature_of(source, call.path)
        if name == "exp":
            nature = "softmax" if nature == "log_softmax" else None
        if nature is not None and isinstance(source, Thing) and made != source:
            activated(made, nature, source, call)
            held = call.path.known(source, "@clamped")
            call.path.learn(made, clamped=TRUE if name in CLAMPS else held)


def _joined(call: Call, made: Thing) -> None:
    given = call.argument(0, "tensors")
    known = given if given is None or isinstance(given, Pack) else call.path.known(given, "@items")
    items = known.items if isinstance(known, Pack) else ()
    natures = {nature_of(item, call.path) for item in items}
    nature = natures.pop() if len(natures) == 1 else None
    if nature is not None and isinstance(items[0], Thing):
        activated(made, nature, items[0], call)


@on_operation
def taken(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """`probabilities[:, 0]`, `for each in probabilities:`."""
    if operation not in ("[]", "each") or not isinstance(operands[0], Thing):
        return
    nature = nature_of(operands[0], path)
    if nature is not None:
        path.learn(made, activation=Const(nature))
        if operands[0].uid in engine.places:
            engine.places[made.uid] = engine.places[operands[0].uid]


def own_tail(model: Thing, path: Path) -> tuple[Thing, Class] | None:
    """The object of a project's own class that a chain of layers ends in."""
    last = last_layer(model, path)
    owner = path.known(last, "@class") if last is not None and last != model else None
    return (last, owner) if last is not None and isinstance(owner, Class) else None
