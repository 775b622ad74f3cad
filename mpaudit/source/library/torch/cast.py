"""Casts and constructors: where a script states a dtype itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from mpaudit.source.engine.dtypes import Dtype, combined, dtype_named, fact, learned
from mpaudit.source.engine.registry import attributes, function
from mpaudit.source.engine.values import (
    TRUE,
    UNKNOWN,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.torch.containers import parts_of_model
from mpaudit.source.library.torch.default import default_dtype, stated_dtype

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

CASTS = {
    "half": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "double": "float64",
    "long": "int64",
    "int": "int32",
    "short": "int16",
    "bool": "bool",
    "byte": "uint8",
}
FILLED = ("zeros", "ones", "empty", "rand", "randn", "linspace", "eye", "logspace")
WHOLE = ("arange", "randint", "randperm", "argsort", "argmax", "argmin", "nonzero", "multinomial")
LIKE = ("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
LIMITS = {
    "float16": {"max": 65504.0, "min": -65504.0, "eps": 2.0**-10, "tiny": 2.0**-14},
    "bfloat16": {"max": 3.3895e38, "min": -3.3895e38, "eps": 2.0**-7, "tiny": 2.0**-126},
    "float32": {"max": 3.4028e38, "min": -3.4028e38, "eps": 2.0**-23, "tiny": 2.0**-126},
    "float64": {"max": 1.7976e308, "min": -1.7976e308, "eps": 2.0**-52, "tiny": 2.0**-1022},
}
"""What `torch.finfo` tells of each dtype."""


def cast(call: Call, receiver: Thing, made: Thing) -> bool:
    """`x.half()`, `x.to(torch.float32)`, `x.type_as(y)`: whether the call is one that states a dtype."""
    path = call.path
    if call.name in CASTS and not call.arguments:
        learned(made, Const(Dtype(CASTS[call.name], call.span, "cast")), path)
    elif call.name == "to":
        learned(made, _converted(call, receiver), path)
    if call.name in ("half", "to") and _is_data(receiver, path):
        if path.known(made, "@dtype") == Const(Dtype("float16")):
            path.learn(made, halved=Const(call.span))
    if call.name in (*CASTS, "to"):
        return call.name == "to" or not call.arguments
    if call.name == "type" and call.arguments:
        learned(made, stated_dtype(call, call.arguments[0]), path)
    elif call.name in ("type_as",) and call.arguments:
        learned(made, fact(call.arguments[0], path), path)
    elif call.name in NEW:
        given = call.keywords.get("dtype")
        if given is not None or call.name != "new_tensor":
            learned(made, stated_dtype(call, given) if given else fact(receiver, path), path)
    else:
        return False
    return True


def _is_data(tensor: Thing, path: Path) -> bool:
    """Whether a tensor is what the script was given, or made: nothing computed."""
    known = fact(tensor, path)
    return known is None or (isinstance(known, Const) and getattr(known.value, "how", "") == "made")


def _converted(call: Call, receiver: Thing) -> Value | None:
    """`x.to(...)`: a dtype, a device, both, or another tensor."""
    given = call.keywords.get("dtype")
    if given is not None:
        return stated_dtype(call, given)
    for value in (*call.arguments[:2], *(v for k, v in call.keywords.items() if k == "other")):
        stated = stated_dtype(call, value)
        if stated is not None:
            return stated
        if isinstance(value, Thing) and fact(value, call.path) is not None:
            return fact(value, call.path)
        if not _is_device(value, call):
            return None
    return fact(receiver, call.path)


def _is_device(value: Value, call: Call) -> bool:
    if isinstance(value, Choice):
        return _is_device(value.yes, call) and _is_device(value.no, call)
    if isinstance(value, Const):
        return isinstance(value.value, (str, int))
    if not isinstance(value, Thing):
        return False
    described = call.engine.identities.description(value.uid)
    return value.kind == "device" or described[::2] == (".", Const("device"))


def constructed(call: Call, name: str, made: Thing) -> Value | None:
    """The fact that a constructor states, None for other functions and where it is not known."""
    path, given = call.path, call.keywords.get("dtype")
    if name in WHOLE and given is None:
        if name == "arange" and any(_is_float(value) for value in call.arguments):
            return default_dtype(call)
        return Const(Dtype("int64", call.span, "made"))
    if name not in (*FILLED, *LIKE, "full", "arange", "tensor", "as_tensor"):
        return None
    if given is not None:
        stated = stated_dtype(call, given)
        if stated is None:
            return UNKNOWN
        return combined(lambda known: known and replace(known, how="made"), (stated,), path)
    if name in LIKE:
        return fact(call.argument(0, "input"), path)
    if name in FILLED:
        return default_dtype(call, lone=_shapeless(call))
    if name == "full" and _is_float(call.argument(1, "fill_value")):
        return default_dtype(call)
    value = call.argument(0, "data")
    if name in ("tensor", "as_tensor") and isinstance(value, Const):
        path.learn(made, number=TRUE)
    return UNKNOWN


def _shapeless(call: Call) -> bool:
    size = call.argument(0, "size")
    return isinstance(size, Pack) and not size.items


def _is_float(value: Value | None) -> bool:
    return isinstance(value, Const) and isinstance(value.value, float)


@attributes("dtype")
def dtype_attribute(engine: Calls, thing: Thing, path: Path) -> Value | None:
    """`x.dtype`: torch's own object where it is known."""
    if thing.kind:
        return None
    known = fact(thing, path)
    return None if known is None else _object(known, thing, engine, path)


def _object(known: Value, thing: Thing, engine: Calls, path: Path) -> Value:
    if isinstance(known, Choice):
        answer = path.facts.get(known.condition)
        if answer is not None:
            return _object(known.yes if answer else known.no, thing, engine, path)
        yes = _object(known.yes, thing, engine, path)
        return Choice(known.condition, yes, _object(known.no, thing, engine, path))
    if isinstance(known, Const) and isinstance(known.value, Dtype):
        return External(f"torch.{known.value.name}")
    return engine.term(".", thing, Const("dtype"))


def _view(name: str) -> None:
    @attributes(name)
    def viewed(engine: Calls, thing: Thing, path: Path) -> Value | None:
        known = None if thing.kind else fact(thing, path)
        if known is None:
            return None
        made = engine.derive(engine.term(".", thing, Const(name)), (thing,), path)
        return learned(made, known, path)


for _name in ("T", "mT", "H", "mH", "data", "real"):
    _view(_name)


@function("torch.finfo")
def finfo(call: Call) -> Value | None:
    """`torch.finfo(x.dtype)`."""
    name = dtype_named(call.picked(0, "type"))
    if name not in LIMITS:
        return None
    return call.path.learn(call.made("finfo"), of=Const(name))


def _limit(name: str) -> None:
    @attributes(name)
    def limit(_: Calls, thing: Thing, path: Path) -> Value | None:
        of = path.known(thing, "@of") if thing.kind == "finfo" else None
        return Const(LIMITS[str(of.value)][name]) if isinstance(of, Const) else None


for _name in ("min", "max", "eps", "tiny"):
    _limit(_name)


def converted_module(call: Call, module: Thing) -> None:
    """`model.half()`, `model.to(torch.bfloat16)`: note the dtype of the parameters, parts included."""
    if call.name in CASTS:
        stated: Value | None = Const(Dtype(CASTS[call.name], call.span, "cast"))
    elif call.name == "to":
        given = [v for v in (call.keywords.get("dtype"), *call.arguments[:2]) if v is not None]
        found = [s for s in (stated_dtype(call, v) for v in given) if s is not None]
        if not found and all(_is_device(value, call) for value in given):
            return
        stated = found[0] if found else UNKNOWN
    else:
        return
    for part in parts_of_model(module, call.path):
        call.path.learn(part, param_dtype=stated)
