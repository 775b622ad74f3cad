"""Models that libraries build, of which the user replaces the head."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.registry import function, on_stored
from mpaudit.source.engine.values import NONE, UNKNOWN, Bound, Const, Thing, Value
from mpaudit.source.library.torch.activation import activated, last_layer, leaving, nature_of

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

HEADS = ("fc", "classifier", "head", "heads", "last_linear")
"""The attributes that hold the head of torchvision's and timm's classifiers."""
TWO_OUTPUTS = ("inception", "googlenet")
"""Models that return auxiliary outputs beside the classes while they train."""
NO_MODELS = ("get_", "list_", "register_")
SEGMENTS = ("softmax", "softmax2d", "sigmoid", "logsoftmax")


@function("torchvision.models.*")
def make_model(call: Call) -> Value | None:
    """`torchvision.models.resnet18(weights=None)`."""
    name = call.name.rpartition(".")[2]
    if not name[:1].islower() or name.startswith(NO_MODELS):
        return None
    return _model(call, Const("classifier") if not name.startswith(TWO_OUTPUTS) else NONE)


@function("timm.create_model", "timm.models.create_model")
def make_timm_model(call: Call) -> Value:
    """`timm.create_model("resnet50", num_classes=10)`."""
    return _model(call, Const("classifier"))


@function("segmentation_models_pytorch.*")
def make_segmenter(call: Call) -> Value | None:
    """`smp.Unet("resnet34", activation="sigmoid")`."""
    below, _, name = call.name.rpartition(".")
    if not name[:1].isupper() or "losses" in below or "metrics" in below:
        return None
    made, given = _model(call, NONE), call.keywords.get("activation")
    text = given.value if isinstance(given, Const) else None
    if isinstance(text, str) and text in SEGMENTS:
        nature = text.removesuffix("2d").replace("logsoftmax", "log_softmax")
        call.path.learn(made, ends_in=Const(nature))
    return made


def _model(call: Call, sort: Value) -> Thing:
    made = call.made("Module")
    call.engine.places.setdefault(made.uid, call.span)
    return call.path.learn(made, device=UNKNOWN, pretrained=sort)


@on_stored
def head_replaced(
    _: Calls, __: ast.Subscript, base: Value, key: Value, value: Value, path: Path
) -> None:
    """`model.classifier[6] = nn.Linear(4096, 10)`: an item of the head that the library has built."""
    if isinstance(base, Bound) and base.name in HEADS and isinstance(base.receiver, Thing):
        if path.known(base.receiver, "@pretrained") is not None:
            replaced = isinstance(key, Const) and isinstance(key.value, int) and key.value != 0
            path.learn(base.receiver, head=value if replaced else UNKNOWN)


def from_head(call: Call, made: Thing, model: Thing) -> None:
    """Note what leaves a model of a library whose head was replaced."""
    path = call.path
    sort, ends_in = path.known(model, "@pretrained"), path.known(model, "@ends_in")
    if isinstance(ends_in, Const):
        activated(made, str(ends_in.value), model, call)
    if sort is None or sort == NONE or nature_of(made, path) is not None:
        return
    heads = [value for name in HEADS if (value := path.heap.get((model.uid, name))) is not None]
    item = path.known(model, "@head")
    if item is not None:
        heads.append(item)
    if len(heads) == 1 and isinstance(heads[0], Thing):
        leaving(call, made, last_layer(heads[0], path))
