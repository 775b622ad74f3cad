"""torch.nn: modules, where they live, what comes out of them, and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import Forward, LossComputed
from mpaudit.source.engine.path import of_making
from mpaudit.source.engine.registry import (
    attributes,
    base,
    called,
    entered,
    function,
    kind_of,
    method,
)
from mpaudit.source.engine.values import NONE, TRUE, UNKNOWN, Const, External, Pack, Thing, Value
from mpaudit.source.library.torch.activation import activated, nature_of
from mpaudit.source.library.torch.chain import chained, followed, leaving_model
from mpaudit.source.library.torch.default import device_by_default, made_by_default
from mpaudit.source.library.torch.half_input import half_inputs
from mpaudit.source.library.torch.no_grad_cache import caching_forward
from mpaudit.source.library.torch.placement import certain_device
from mpaudit.source.library.torch.region import compiling
from mpaudit.source.library.torch.training import mark_mean
from mpaudit.source.library.unseen import unseen

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

WANTED = {
    "CrossEntropyLoss": "logits",
    "cross_entropy": "logits",
    "BCEWithLogitsLoss": "logits",
    "binary_cross_entropy_with_logits": "logits",
    "MultiLabelSoftMarginLoss": "logits",
    "multilabel_soft_margin_loss": "logits",
    "sigmoid_focal_loss": "logits",
    "LabelSmoothingCrossEntropy": "logits",
    "SoftTargetCrossEntropy": "logits",
    "BCELoss": "probabilities",
    "binary_cross_entropy": "probabilities",
}
WRAPPERS = (
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.nn.parallel.DataParallel",
    "torch.nn.DataParallel",
    "torch.compile",
    "torch.jit.script",
    "torch.nn.SyncBatchNorm.convert_sync_batchnorm",
)


@function("torch.nn.*")
def make_module(call: Call) -> Value | None:
    """`nn.Linear(...)`, `nn.Sequential(...)`, `nn.CrossEntropyLoss()`."""
    below, _, name = call.name.rpartition(".")
    if below.startswith("torch.nn.functional"):
        return functional(call, name)
    if not name[:1].isupper() or name in ("Parameter", "Buffer"):
        return None
    made = call.made("Loss" if name.endswith("Loss") else "Module")
    path = call.path
    path.learn(made, layer=Const(name))
    if call.keywords.get("reduction") in (None, Const("mean")):
        path.learn(made, mean=TRUE)
    call.engine.places.setdefault(made.uid, call.span)
    made_by_default(made, path)
    if name == "Sequential":
        chained(call, made)
    if "device" in call.keywords or device_by_default(path):
        path.learn(made, device=UNKNOWN)
    return made


def _adopt(call: Call, made: Thing, name: str) -> None:
    path = call.path
    call.engine.places.setdefault(made.uid, call.span)
    made_by_default(made, path)
    if name not in ("torch.nn.Module", "torch.nn.modules.Module") or device_by_default(path):
        path.learn(made, device=UNKNOWN)


base("Module", "torch.nn.Module", "torch.nn.modules.Module", "torch.nn.Sequential", adopt=_adopt)
base("Module", "torch.nn.ModuleList", "torch.nn.ModuleDict", adopt=_adopt)
for _root in ("lightning", "lightning.pytorch", "pytorch_lightning", "pytorch_lightning.core"):
    base("Module", f"{_root}.LightningModule", adopt=_adopt)


@function(*WRAPPERS)
def wrap(call: Call) -> Value | None:
    """A wrapper that stands for the model it is given."""
    model = call.argument(0, "module") or call.keywords.get("model")
    if isinstance(model, Thing) and "Parallel" in call.name:
        if call.path.known(model, "@device") is None:
            call.path.learn(model, device=UNKNOWN)
    if call.name == "torch.compile":
        compiling(call)
    return model


@attributes("module")
def unwrapped(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`ddp_model.module`."""
    return thing if thing.kind == "Module" and path.known(thing, "@class") is None else None


@method("Module", "parameters", "named_parameters")
def parameters(call: Call) -> Value:
    """`model.parameters()`."""
    return call.path.learn(call.made(), owners=Pack((call.thing,)))


@method("Module", "to", "cuda", "cpu", "xpu", "to_empty")
def move(call: Call) -> Value:
    """`model.to(device)`, in place for a module."""
    device: Value = UNKNOWN
    if call.name in ("cuda", "cpu", "xpu"):
        device = Const(call.name)
    else:
        target = call.argument(0, "device")
        if isinstance(target, Const) and isinstance(target.value, str):
            device = Const(target.value.partition(":")[0])
        elif isinstance(target, Thing) and target.kind == "device":
            device = call.path.known(target, "@type") or UNKNOWN
        elif isinstance(target, External) or (target is None and "dtype" in call.keywords):
            return call.thing
    for module in (call.thing, *_held(call.thing, call.path)):
        call.path.learn(module, device=device)
    return call.thing


def _held(container: Thing, path: Path) -> list[Thing]:
    """The modules that a container holds: they move with it."""
    items = path.known(container, "@items")
    values = [*(items.items if isinstance(items, Pack) else ()), path.known(container, "@each")]
    values += [value for name, value in path.heap.of(container.uid) if name.startswith("[")]
    return [value for value in values if isinstance(value, Thing) and value.kind == "Module"]


@method("Module", "train", "eval", "requires_grad_", "float", "half", "double", "apply", "bfloat16")
def itself(call: Call) -> Value:
    """Methods that return the module."""
    return call.thing


def forward_event(call: Call, model: Thing) -> None:
    """Tell the protocols that a model is called; its parts are no models of their own."""
    path = call.path
    for frame in path.frames:
        if frame.function and frame.function.owner and kind_of(frame.function.owner)[0] == "Module":
            return
    region = call.engine.region(path)
    half_inputs(call, model, call.engine.describe(region, path))
    caching_forward(call, model)
    call.emit(
        Forward(
            at=call.span,
            occasional=call.occasional,
            model=call.ref(model, call.node.func),
            model_made=call.engine.places.get(model.uid),
            model_device=certain_device(call, model),
            region=call.engine.describe(region, path),
        )
    )


@entered("Module")
def entering(call: Call) -> None:
    """A model of the project is called; its `forward` is followed."""
    forward_event(call, call.thing)


@called("Module")
def forward(call: Call) -> Value:
    """`model(x)`."""
    model = call.thing
    inside = followed(call, model)
    forward_event(call, model)
    made = leaving_model(call, _output(call), model)
    nature = nature_of(inside, call.path)
    if nature is not None and isinstance(inside, Thing):
        activated(made, nature, inside, call)
    return made


def _output(call: Call) -> Thing:
    path = call.path
    made = path.learn(call.derived(*call.arguments), scaled=Pack(()))
    path.heap.forget((made.uid, "@weighted"))
    return call.engine.computed_here(made, call.node, path)


def functional(call: Call, name: str) -> Value | None:
    """`torch.nn.functional.name(...)`."""
    if name in WANTED:
        return _loss(call, name)
    return _loss(call, name) if name.endswith("_loss") else None


@function("torchvision.ops.sigmoid_focal_loss", "torchvision.ops.focal_loss.sigmoid_focal_loss")
def focal_loss(call: Call) -> Value:
    """`torchvision.ops.sigmoid_focal_loss(inputs, targets)`."""
    return _loss(call, "sigmoid_focal_loss")


@function("timm.loss.LabelSmoothingCrossEntropy", "timm.loss.SoftTargetCrossEntropy")
def make_timm_loss(call: Call) -> Value:
    """`LabelSmoothingCrossEntropy(smoothing=0.1)`, which applies log_softmax itself."""
    return call.path.learn(call.made("Loss"), layer=Const(call.name.rpartition(".")[2]))


@called("Loss")
def loss(call: Call) -> Value:
    """`criterion(prediction, target)`."""
    name = of_making(call.path.known(call.thing, "@layer"))
    return _loss(call, str(name.value) if isinstance(name, Const) else "")


def _loss(call: Call, name: str) -> Value:
    path = call.path
    prediction = call.picked(0, "inputs" if "inputs" in call.keywords else "input")
    got = nature_of(prediction, path)
    wants = WANTED.get(name)
    if wants is not None and path.known(prediction or NONE, "@activation") != UNKNOWN:
        shown = call.engine.places.get(prediction.uid) if isinstance(prediction, Thing) else None
        region = call.engine.region(path)
        if wants == "probabilities" and region is not None:
            call.engine.logic.pick(path.known(region, "@device") or NONE, path)
        call.emit(
            LossComputed(
                at=call.span,
                occasional=call.occasional,
                loss=name,
                wants=wants,
                got=got,
                shown=shown if got is not None else None,
                region=call.engine.describe(region, path),
                unseen=unseen(prediction, call.engine, path),
            )
        )
    return mark_mean(call, _output(call), call.receiver)
