"""Hugging Face Accelerate: the Accelerator, and what it returns for what it is given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.event import Accelerated, Prepared, Ref
from mpaudit.source.engine.registry import base, function, initialised, method, others
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Choice,
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

ACCELERATORS = ("accelerate.Accelerator", "accelerate.accelerator.Accelerator")
PRECISIONS = ("no", "fp8", "fp16", "bf16")
MANY = 999
"""The position of an argument that is given by its name only."""
ENGINES = ("deepspeed_plugin", "deepspeed_plugins", "megatron_lm_plugin")
"""Arguments that hand loss scaling and clipping over to another library."""
ALL = (0, "@accelerators")
"""The Accelerators that were made on a path."""
PREPARED = (0, "@prepared")
"""Whether anything was prepared on a path."""


@function(*ACCELERATORS)
def make_accelerator(call: Call) -> Value:
    """`Accelerator(mixed_precision="fp16", gradient_accumulation_steps=4)`."""
    made = call.made("Accelerator")
    _told(call, made)
    return made


def _adopt(call: Call, made: Thing, _: str) -> None:
    _told(call, made)


base("Accelerator", *ACCELERATORS, adopt=_adopt)


@initialised("Accelerator")
def _of_own_class(call: Call, made: Thing) -> None:
    """`super().__init__(mixed_precision="fp16")` in a class of the project."""
    _told(call, made)


def _told(call: Call, made: Thing) -> None:
    """Note what an Accelerator was told."""
    path = call.path
    precision = given(call, 2, "mixed_precision")
    if precision == UNKNOWN and "mixed_precision" not in call.keywords:
        precision = None  # nobody sees whether the caller chooses one
    steps = given(call, 3, "gradient_accumulation_steps")
    plugin = given(call, 14, "gradient_accumulation_plugin")
    if isinstance(plugin, Thing):
        steps = path.known(plugin, "@steps") or UNKNOWN
    if any(_handed(call, name) for name in ENGINES):
        path.learn(made, foreign=TRUE)
    path.learn(made, precision=precision or NONE, steps=steps or Const(1))
    call.engine.places.setdefault(made.uid, call.span)
    known = path.heap.get(ALL)
    before = known.items if isinstance(known, Pack) else ()
    path.heap[ALL] = Pack(tuple(dict.fromkeys((*before, made))))


@function("accelerate.utils.GradientAccumulationPlugin", "accelerate.GradientAccumulationPlugin")
def make_plugin(call: Call) -> Value:
    """`GradientAccumulationPlugin(num_steps=4)`."""
    return call.path.learn(call.made("library"), steps=given(call, 0, "num_steps") or UNKNOWN)


def _handed(call: Call, name: str) -> bool:
    """Whether an argument is given; what nobody sees in `**kwargs` of a caller may as well be missing."""
    value = given(call, MANY, name)
    return value not in (None, NONE) and (value != UNKNOWN or name in call.keywords)


def given(call: Call, position: int, name: str) -> Value | None:
    """An argument, also from `**kwargs`: None if it is certain that it was not given."""
    value = call.argument(position, name)
    extra = call.keywords.get("**")
    if value is not None or extra is None:
        return value
    return entry(call.engine.logic.settled(extra, call.path), name, call)


def entry(table: Value | None, name: str, call: Call) -> Value | None:
    """What a dict holds under a literal key, None if it is certain that it has no such key."""
    if not isinstance(table, Thing):
        return UNKNOWN
    held = dict(call.path.heap.of(table.uid))
    found = held.get(f"[{name!r}]")
    if found is not None:
        return call.engine.logic.settled(found, call.path)
    if table.kind != "dict" or "['**']" in held:
        return UNKNOWN
    items = held.get("@items")
    if isinstance(items, Pack):
        whole = len(items.items) <= sum(key[0] == "[" for key in held)
    else:
        whole = _collected(call.engine, table)
    return None if whole else UNKNOWN


def _collected(engine: Calls, table: Thing) -> bool:
    """Whether a dict is the `**kwargs` of a function whose call is in view."""
    operation, *operands = engine.identities.description(table.uid)
    if operation != "parameter" or not isinstance(operands[-1], int):
        return False
    return engine.identities.description(operands[-1])[0] == "in"


# What is known of it


def known_of(engine: Calls, accelerator: Thing, path: Path) -> Accelerated:
    """What is known of an Accelerator on this path, and how it is spelled in the function at hand."""
    precision = path.known(accelerator, "@precision")
    steps = engine.logic.settled(path.known(accelerator, "@steps") or Const(1), path)
    since = path.known(accelerator, "@gathering")
    return Accelerated(
        Ref(accelerator.uid, ""),
        scales=(
            False
            if _scalerless(engine, accelerator, path)
            else _scales(engine, precision or UNKNOWN, path)
        ),
        chosen=precision not in (None, NONE),
        accumulates=_accumulates(steps),
        gathering=isinstance(since, Thing) and since.since == path.frame.iteration,
        text=next(_spellings(accelerator, path, engine), ""),
    )


def _scalerless(engine: Calls, accelerator: Thing, path: Path) -> bool:
    """Whether the script has asked for the scaler of an Accelerator, and there is none."""
    scaler = engine.term(".", accelerator, Const("scaler"))
    return path.facts.get(engine.term("is None", scaler), not path.facts.get(scaler, True))


def _scales(engine: Calls, precision: Value, path: Path) -> bool | None:
    """Whether the precision is fp16."""
    precision = engine.logic.settled(precision, path) or UNKNOWN
    if isinstance(precision, Choice):
        answers = {_scales(engine, each, path) for each in (precision.yes, precision.no)}
        return answers.pop() if len(answers) == 1 else None
    if isinstance(precision, External):
        precision = Const(precision.name.rpartition(".")[2].lower())
    if isinstance(precision, Const):
        if precision in (NONE, UNKNOWN):
            return None
        return precision.value == "fp16"
    for name in PRECISIONS:  # the script may have asked before
        answer = path.facts.get(engine.term("==", precision, Const(name)))
        if answer is not None and (answer or name == "fp16"):
            return answer and name == "fp16"
    return None


def _accumulates(steps: Value | None) -> bool | None:
    if isinstance(steps, Const) and isinstance(steps.value, int):
        return steps.value > 1
    return None


def _spellings(accelerator: Thing, path: Path, engine: Calls) -> Iterator[str]:
    """The names that hold an accelerator here, and the attributes of what names hold."""
    objects: list[tuple[str, Thing]] = []
    for scope in path.frame.scopes:
        for name, value in path.heap.of(scope):
            held = engine.logic.settled(value, path)
            if name[0] == "@" or not isinstance(held, Thing):
                continue
            if held == accelerator:
                yield name
            objects.append((name, held))
    for name, thing in objects:
        if path.known(thing, "@class") is not None:
            for attribute, value in path.heap.of(thing.uid):
                if engine.logic.settled(value, path) == accelerator and attribute[0] not in "@[":
                    yield f"{name}.{attribute}"


def is_foreign(accelerator: Value | None, path: Path) -> bool:
    """Whether another engine behind an Accelerator scales and clips."""
    return accelerator is None or path.known(accelerator, "@foreign") is not None


def the_one(path: Path) -> Thing | None:
    """The only Accelerator of the program, None where there are several or none was made in view."""
    known = path.heap.get(ALL)
    if isinstance(known, Pack) and len(known.items) == 1 and isinstance(known.items[0], Thing):
        return known.items[0]
    return None


# prepare


@method("Accelerator", "prepare")
def prepare(call: Call) -> Value:
    """`model, optimizer = accelerator.prepare(model, optimizer)`: one for each, in order."""
    values = call.arguments
    starred = any(isinstance(each, ast.Starred) for each in call.node.args)
    if not values or (starred and len(values) == len(call.node.args)):
        return call.derived(*values)
    results = tuple(_prepared(call, each) for each in values)
    return results[0] if len(results) == 1 else Pack(results)


@method("Accelerator", "prepare_model", "prepare_optimizer")
def prepare_one(call: Call) -> Value | None:
    """`accelerator.prepare_model(model)`; one that is only evaluated keeps its ways."""
    if call.keywords.get("evaluation_mode", FALSE) != FALSE or not call.arguments:
        return call.argument(0, "model")
    return _prepared(call, call.arguments[0])


@method("Accelerator", "prepare_data_loader", "prepare_scheduler", "skip_first_batches")
def prepare_other(call: Call) -> Value | None:
    """What has nothing to do with precision comes back as it was."""
    return call.arguments[0] if call.arguments else None


def _prepared(call: Call, value: Value) -> Value:
    """What an Accelerator returns for a model or optimizer; other things as they are."""
    path, identities = call.path, call.engine.identities
    if isinstance(value, Choice):
        return Choice(value.condition, _prepared(call, value.yes), _prepared(call, value.no))
    if not isinstance(value, Thing) or value.kind == "Prepared":
        return value
    kind = "Prepared" if value.kind in ("Module", "Optimizer", "library") else ""
    made = Thing(identities.number("prepared", value), kind, value.since)
    path.learn(made, raw=value, accelerator=call.thing)
    if value.kind != "Optimizer" and not _is_loader(call, value):
        path.learn(made, through=Pack((value,)), wraps=value)
    path.heap[PREPARED] = TRUE
    call.emit(
        Prepared(
            at=call.span,
            accelerator=known_of(call.engine, call.thing, path),
            raw=Ref(value.uid, ""),
            prepared=Ref(made.uid, ""),
        )
    )
    return made


def _is_loader(call: Call, value: Thing) -> bool:
    """Whether something was built by a call of `DataLoader`: a loss does not come from one."""
    operation, *operands = call.engine.identities.description(value.uid)
    node = operands[0] if operation == "made" and operands else None
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DataLoader")


@method("Accelerator", "unwrap_model")
def unwrap(call: Call) -> Value | None:
    """`accelerator.unwrap_model(model)` has the same parameters."""
    return call.argument(0, "model")


@method("Accelerator", "accumulate")
def accumulate(call: Call) -> Value:
    """`with accelerator.accumulate(model):`, once for each micro-batch."""
    iteration = call.path.frame.iteration
    number = call.engine.identities.number("gathering", iteration)
    call.path.learn(call.thing, gathering=Thing(number, since=iteration))
    return call.made("context")


@method(
    "Accelerator",
    *"""no_sync join_uneven_inputs split_between_processes main_process_first
    local_main_process_first profile print log wait_for_everyone gather gather_for_metrics reduce
    pad_across_processes save save_state load_state save_model get_state_dict init_trackers
    get_tracker end_training free_memory clear register_for_checkpointing set_trigger
    check_trigger register_save_state_pre_hook register_load_state_pre_hook""".split(),  # noqa: SIM905
)
def untouched(call: Call) -> Value:
    """Methods that leave gradients and optimizers alone."""
    return call.derived(*call.arguments)


@others("Accelerator")
def attribute(engine: Calls, accelerator: Thing, name: str, path: Path) -> Value:
    """`accelerator.sync_gradients` counts the micro-batches; other attributes keep what they hold."""
    if name == "sync_gradients":
        iteration = path.frame.iteration
        number = engine.identities.number("micro-batch", accelerator, iteration)
        counter = Thing(number, since=iteration)
        return engine.term("==", engine.term("Mod", counter, accelerator), Const(0))
    kept = {"mixed_precision": "@precision", "gradient_accumulation_steps": "@steps"}
    known = path.known(accelerator, kept[name]) if name in kept else None
    if known not in (None, NONE, UNKNOWN):
        return known
    return engine.term(".", accelerator, Const(name))
