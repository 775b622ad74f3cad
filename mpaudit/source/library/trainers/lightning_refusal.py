"""What Lightning and Fabric refuse: options that exclude each other, optimizers that do not go with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import CombinationRefused
from mpaudit.finding import Related, Span
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, TRUE, UNKNOWN, Const, Thing, Value
from mpaudit.source.library.trainers.lightning_names import MIXED, because, hook, option

if TYPE_CHECKING:
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

LBFGS = ("torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS")
BFLOAT16 = Const("bfloat16")
REFUSED = {
    "gradient_clip_val": "Automatic gradient clipping is not supported for manual optimization.",
    "accumulate_grad_batches": "Automatic gradient accumulation is not supported for manual "
    "optimization.",
}
INSTEAD = {
    "gradient_clip_val": "Clip in the module: `self.clip_gradients(optimizer, ...)` in "
    "`on_before_optimizer_step`",
    "accumulate_grad_batches": "Accumulate in `training_step`: step and zero the gradients every n-th "
    "batch only",
}
FUSED = "does not allow for gradient clipping because it performs unscaling of gradients internally"


def remember(call: Call, trainer: Thing) -> None:
    """Note the options of a Trainer that may be refused, and where they stand."""
    for name in REFUSED:
        node = next((k.value for k in call.node.keywords if k.arg == name), None)
        place = call.path.frame.module.span(node) if node is not None else call.span
        call.path.learn(trainer, **{name: option(call, name), name + " at": Const(place)})


def twice_chosen(call: Call) -> None:
    """`Trainer(precision="16-mixed", plugins=[MixedPrecision(...)])`."""
    given, plugins = option(call, "precision"), option(call, "plugins")
    if given in (NONE, UNKNOWN) or not isinstance(given, Const):
        return
    if not any(
        call.path.known(each, "@precision") is not None for each in parts(plugins, call.path)
    ):
        return
    node = next((k.value for k in call.node.keywords if k.arg == "precision"), call.node)
    call.emit(
        CombinationRefused(
            at=call.path.frame.module.span(node),
            what=f"the precision is given twice: {given.value!r}, and by a plugin",
            error=f"Received both `precision={given.value}` and `plugins=...`. Choose one.",
            instead="Leave out one of the two",
        )
    )


def needless_scaler(call: Call, precision: Value | None) -> None:
    """`MixedPrecision("bf16-mixed", "cuda", scaler=GradScaler())`."""
    scaler = call.argument(2, "scaler")
    if (
        precision == Const("bf16-mixed")
        and isinstance(scaler, Thing)
        and scaler.kind == "GradScaler"
    ):
        call.emit(
            CombinationRefused(
                at=call.span,
                what="a plugin for bf16-mixed is given a GradScaler",
                error="`precision='bf16-mixed'` does not use a scaler, found ...",
                instead="Leave the scaler out: bfloat16 needs none",
            )
        )


def refused(call: Call, model: Thing, manual: bool | None, configured: Value | None) -> None:
    """What `fit` refuses, now that module, Trainer and optimizers are known."""
    path = call.path
    trainer, precision = path.known(model, "@trainer"), path.known(model, "@precision")
    if not isinstance(trainer, Thing):
        return
    if manual:
        for name in REFUSED:
            _refuse_option(call, trainer, name)
    if precision not in (MIXED, BFLOAT16) or configured is None:
        return
    configured = call.engine.logic.pick(configured, path)
    for optimizer in parts(configured, path):
        if isinstance(optimizer, Thing) and optimizer.kind == "Optimizer":
            _refuse_optimizer(call, model, trainer, optimizer, clips=manual is False)


def _refuse_option(call: Call, trainer: Thing, name: str) -> None:
    value, place = call.path.known(trainer, "@" + name), call.path.known(trainer, f"@{name} at")
    idle = 1 if name == "accumulate_grad_batches" else 0
    if not isinstance(value, Const) or not isinstance(value.value, (int, float)):
        return
    if value.value == idle or not isinstance(place, Const) or not isinstance(place.value, Span):
        return
    call.emit(
        CombinationRefused(
            at=place.value,
            what=f"`{name}` is set for a module that optimises by hand",
            error=REFUSED[name],
            instead=INSTEAD[name],
            because=(
                Related(call.span, "the module that is trained has automatic_optimization = False"),
            ),
        )
    )


def _refuse_optimizer(
    call: Call, model: Thing, trainer: Thing, optimizer: Thing, *, clips: bool
) -> None:
    path = call.path
    made = _made(call, optimizer)
    mixed = path.known(model, "@precision") == MIXED
    if mixed and _is_lbfgs(optimizer, path):
        at = because(call.engine, trainer)
        call.emit(lbfgs(at[0].span if at else call.span, made))
    value, place = (path.known(trainer, f"@gradient_clip_val{word}") for word in ("", " at"))
    if (
        not clips
        or not _is_fused(optimizer, path)
        or hook(model, "configure_gradient_clipping", path)
    ):
        return
    limit = value.value if isinstance(value, Const) else None
    if isinstance(limit, (int, float)) and limit > 0 and isinstance(place, Const):
        assert isinstance(place.value, Span)
        call.emit(
            CombinationRefused(
                at=place.value,
                what=f"Lightning does not clip for a fused optimizer under {'' if mixed else 'bf'}16-mixed",
                error=f"The current optimizer ... {FUSED}",
                instead="Build the optimizer without `fused=True`, or clip in the module's "
                "`configure_gradient_clipping`, with torch's function, in bf16-mixed",
                because=(*because(call.engine, trainer), *made),
            )
        )


def lbfgs(at: Span, made: tuple[Related, ...]) -> CombinationRefused:
    """LBFGS under 16-mixed: it evaluates its closure as often as it likes, a scaler steps once."""
    return CombinationRefused(
        at=at,
        what="LBFGS is trained in 16-mixed, which has no place for its closure",
        error="AMP and the LBFGS optimizer are not compatible.",
        instead="Train with LBFGS in 32-true or in bf16-mixed, or with another optimizer",
        because=made,
    )


def refused_by_fabric(call: Call, fabric: Thing, optimizer: Thing, precision: str | None) -> None:
    """LBFGS that steps through a Fabric in 16-mixed."""
    if precision == MIXED.value and _is_lbfgs(optimizer, call.path):
        at = because(call.engine, fabric)
        call.emit(lbfgs(at[0].span if at else call.span, _made(call, optimizer)))


def clip_refused_by_fabric(call: Call, fabric: Thing, precision: str | None) -> None:
    """`fabric.clip_gradients(model, fused_optimizer, ...)` in 16-mixed."""
    optimizer = call.argument(1, "optimizer")
    if precision != MIXED.value or not isinstance(optimizer, Thing):
        return
    if _is_fused(optimizer, call.path):
        call.emit(
            CombinationRefused(
                at=call.span,
                what="Fabric cannot clip under 16-mixed for a fused optimizer, which unscales in its step",
                error="Gradient clipping is not implemented for optimizers handling the unscaling.",
                instead="Build the optimizer without `fused=True`, or train in bf16-mixed",
                because=(*because(call.engine, fabric), *_made(call, optimizer)),
            )
        )


@on_result(functions=lambda name: name.startswith("torch.optim."), methods=())
def made(call: Call, _: Value, result: Value) -> None:
    """An optimizer is built: note whether it is fused, and where it stands."""
    if isinstance(result, Thing) and result.kind == "Optimizer":
        call.engine.places.setdefault(result.uid, call.span)
        call.path.learn(result, fused=call.keywords.get("fused"))


def _made(call: Call, optimizer: Thing) -> tuple[Related, ...]:
    place = call.engine.places.get(optimizer.uid)
    return (Related(place, "the optimizer is built here"),) if place is not None else ()


def _is_lbfgs(optimizer: Thing, path: Path) -> bool:
    maker = path.known(optimizer, "@maker")
    return isinstance(maker, Const) and maker.value in LBFGS


def _is_fused(optimizer: Thing, path: Path) -> bool:
    return path.known(optimizer, "@fused") == TRUE
