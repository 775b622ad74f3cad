"""FullyShardedDataParallel: what it shards, and the scalers that step it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import PlainScalerStep, Ref
from mpaudit.finding import Related, Span
from mpaudit.source.api.torch_names import LEGACY_SCALERS, SCALERS
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.registry import function
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, TRUE, Const, External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call

WRAPPERS = (
    "torch.distributed.fsdp.FullyShardedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
)
POLICIES = (
    "torch.distributed.fsdp.MixedPrecision",
    "torch.distributed.fsdp.api.MixedPrecision",
    "torch.distributed.fsdp.fully_sharded_data_parallel.MixedPrecision",
)
PLAIN = frozenset([*LEGACY_SCALERS, *SCALERS])


@function(*WRAPPERS)
def wrap(call: Call) -> Value:
    """`FSDP(model, sharding_strategy=..., mixed_precision=MixedPrecision(...))`."""
    made = call.derived(*call.arguments, *call.keywords.values())
    made = Thing(made.uid, "library", made.since)
    strategy, policy = call.picked(2, "sharding_strategy"), call.picked(6, "mixed_precision")
    whole = isinstance(strategy, External) and strategy.name.endswith(".NO_SHARD")
    dtype = call.path.known(policy, "@param_dtype") if policy is not None else None
    dtype = call.engine.logic.pick(dtype, call.path) if dtype is not None else NONE
    if not whole and dtype != External("torch.bfloat16"):  # which overflows no sooner than float32
        for each in (made, call.argument(0, "module")):
            if isinstance(each, Thing):
                call.path.learn(each, sharded=Const(call.span))
    return made


@function(*POLICIES)
def make_policy(call: Call) -> Value:
    """`MixedPrecision(param_dtype=torch.float16, ...)`."""
    return call.path.learn(call.made("library"), param_dtype=call.argument(0, "param_dtype"))


@on_result(functions=PLAIN, methods=("step", "unscale_"))
def stepped(call: Call, function: Value, made: Value) -> None:
    """A plain scaler is built, or steps an optimizer; the step has been told: nothing may fork here."""
    path = call.path
    if isinstance(function, External):
        if isinstance(made, Thing) and made.kind == "GradScaler":
            aware = TRUE if path.frame.module.mentions("ShardedGradScaler") else None
            path.learn(made, plain=Const(call.span), aware=aware)
        return
    scaler = call.receiver
    if not isinstance(scaler, Thing):
        return
    plain = path.known(scaler, "@plain") if scaler.kind == "GradScaler" else None
    if not isinstance(plain, Const) or not isinstance(plain.value, Span):
        return
    if path.known(scaler, "@off") == TRUE:
        return
    at, wrapped = plain.value, _sharded(call)
    if wrapped is None:
        if path.known(scaler, "@aware") is not None:
            call.emit(PlainScalerStep(at=at, scaler=Ref(scaler.uid, ""), sharded=False))
        return
    call.emit(
        PlainScalerStep(
            at=at,
            scaler=Ref(scaler.uid, ""),
            sharded=True,
            same_file=wrapped.filename == at.filename,
            because=(
                Related(wrapped, "the parameters are sharded here"),
                Related(call.span, "each rank decides by itself here"),
            ),
        )
    )


def _sharded(call: Call) -> Span | None:
    """Where the parameters of an optimizer were sharded, None if they are whole or not known."""
    path, optimizer = call.path, call.argument(0, "optimizer")
    owners = path.known(optimizer, "@owners") if optimizer is not None else None
    for owner in parts(owners, path) if owners is not None else ():
        place = path.known(owner, "@sharded")
        for each in parts(place, path) if place is not None else ():
            if isinstance(each, Const) and isinstance(each.value, Span):
                return each.value
    return None
