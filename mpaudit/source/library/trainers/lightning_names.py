"""What Lightning calls its classes, and what its options say of the precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.finding import Related
from mpaudit.source.engine.facts import parts
from mpaudit.source.engine.path import UNSET, lookup
from mpaudit.source.engine.values import (
    NONE,
    UNKNOWN,
    Class,
    Const,
    External,
    Function,
    Thing,
    Value,
)
from mpaudit.source.library.torch.device import decided

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

ROOTS = ("lightning", "pytorch_lightning", "lightning_fabric")
MIXED = Const("float16")
"""Autocast to float16, with a GradScaler of Lightning's own."""
PRECISIONS = {
    "16-mixed": MIXED,
    "16": MIXED,
    "bf16-mixed": Const("bfloat16"),
    "bf16": Const("bfloat16"),
    "16-true": Const("half"),
    "bf16-true": Const("half"),
    "32-true": Const("float32"),
    "32": Const("float32"),
    "64-true": Const("float32"),
    "64": Const("float32"),
}
"""What `precision=` may say; anything else is not known."""


def named(value: object, name: str) -> bool:
    """Whether a value is the class `name` of Lightning, by whichever path it was imported."""
    if not isinstance(value, External):
        return False
    root, *_, last = value.name.split(".")
    return root in ROOTS and last == name


def derives(owner: object, name: str, seen: frozenset[int] = frozenset()) -> bool:
    """Whether a class of the project derives from Lightning's class `name`."""
    if not isinstance(owner, Class) or owner.uid in seen:
        return False
    within = seen | {owner.uid}
    return any(named(base, name) or derives(base, name, within) for base in owner.bases)


def is_module(thing: object, path: Path) -> bool:
    """Whether a thing is an instance of a project's LightningModule."""
    return isinstance(thing, Thing) and derives(path.known(thing, "@class"), "LightningModule")


def hook(thing: Thing, name: str, path: Path) -> Function | None:
    """The method `name` that the class of a thing defines in the project."""
    owner = path.known(thing, "@class")
    found = lookup(path, owner, name) if isinstance(owner, Class) else None
    return found if isinstance(found, Function) else None


def option(call: Call, name: str) -> Value:
    """An option that Lightning takes by its name only: NONE if it is not given, UNKNOWN if it may be."""
    value = call.keywords.get(name)
    rest = call.keywords.get("**")
    if value is None and rest is not None:
        value = call.path.heap.get((rest.uid, f"[{name!r}]")) if isinstance(rest, Thing) else None
        complete = isinstance(rest, Thing) and call.path.known(rest, "@items") is not None
        return value or (NONE if complete else UNKNOWN)
    return value or NONE


def precision(call: Call, default: Value) -> Value:
    """What a Trainer or a Fabric computes in: a Const of PRECISIONS, or a Choice of such.

    A precision plugin decides where there is one. On the CPU, Lightning makes bfloat16 of 16-mixed, and
    what the same script does on a GPU is not known.
    """
    given, plugins = option(call, "precision"), option(call, "plugins")
    strategy = option(call, "strategy")
    for plugin in parts(plugins, call.path):
        found = call.path.known(plugin, "@precision")
        if found is not None:
            return found
    if given == NONE:
        return default if plugins == NONE and strategy != UNKNOWN else UNKNOWN
    if _scales_itself(strategy, call.path):
        return UNKNOWN
    found = decided(given, _named)
    if option(call, "accelerator") == Const("cpu"):
        found = decided(found, lambda value: UNKNOWN if value == MIXED else value)
    return found


def _named(value: Value) -> Value:
    if isinstance(value, Const) and isinstance(value.value, (str, int)):
        return PRECISIONS.get(str(value.value), UNKNOWN)
    return UNKNOWN


def _scales_itself(strategy: Value, path: Path) -> bool:
    """Whether a strategy leaves loss scaling to DeepSpeed."""
    made = strategy if isinstance(strategy, Const) else path.known(strategy, "@strategy")
    return isinstance(made, Const) and "deepspeed" in str(made.value).lower()


def learn_precision(call: Call, made: Thing, default: Value) -> Thing:
    """Note what a Trainer or a Fabric computes in, and where that was chosen."""
    node = next((k.value for k in call.node.keywords if k.arg in ("precision", "plugins")), None)
    place = call.path.frame.module.span(node) if node is not None else call.span
    call.engine.places.setdefault(made.uid, place)
    return call.path.learn(made, precision=precision(call, default))


def chosen(call: Call, made: Value | None) -> str | None:
    """The precision on this path, None if it is not known. Raises Fork where it hangs on a flag."""
    known = call.path.known(made, "@precision") if made is not None else None
    known = call.engine.logic.pick(known, call.path) if known is not None else None
    return str(known.value) if isinstance(known, Const) and known not in (UNKNOWN, UNSET) else None


def because(engine: Calls, made: Value | None) -> tuple[Related, ...]:
    """Where the precision was chosen."""
    place = engine.places.get(made.uid) if isinstance(made, Thing) else None
    return (Related(place, "the precision is chosen here"),) if place is not None else ()
