"""Hugging Face's Trainer and its kin: what their arguments ask for, and what they no longer take."""

from __future__ import annotations

import ast
from pathlib import Path as File
from typing import TYPE_CHECKING

from mpaudit.event import PrecisionAsked, PrecisionRefused
from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import base, function, others
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import NONE, TRUE, Class, Const, Function, Thing, Value
from mpaudit.source.library.trainers.accelerate import ACCELERATORS, MANY, PRECISIONS, entry, given
from mpaudit.source.text.requirement import allowed
from mpaudit.source.trait.compat import expected, guarded

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

CONFIGS = frozenset(
    """SFTConfig DPOConfig GRPOConfig KTOConfig ORPOConfig CPOConfig BCOConfig GKDConfig RLOOConfig
    RewardConfig PRMConfig OnlineDPOConfig NashMDConfig XPOConfig""".split()  # noqa: SIM905
)
"""What is a TrainingArguments in TRL."""
ARGUMENTS = (
    "transformers.TrainingArguments",
    "transformers.training_args.TrainingArguments",
    "transformers.Seq2SeqTrainingArguments",
    "transformers.training_args_seq2seq.Seq2SeqTrainingArguments",
    "sentence_transformers.SentenceTransformerTrainingArguments",
    "sentence_transformers.training_args.SentenceTransformerTrainingArguments",
    "sentence_transformers.cross_encoder.CrossEncoderTrainingArguments",
    "sentence_transformers.cross_encoder.training_args.CrossEncoderTrainingArguments",
    "sentence_transformers.sparse_encoder.SparseEncoderTrainingArguments",
    *(f"trl.{name}" for name in sorted(CONFIGS)),
    *(f"trl.trainer.{name}" for name in sorted(CONFIGS)),
)
PAIRS = (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval"))
REMOVED = ("fp16_opt_level", "half_precision_backend", "fp16_backend")
"""Arguments that transformers 5 has dropped."""
MEANT = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "no",
    "fp32": "no",
    "none": "no",
}
"""What somebody means who gives an Accelerator another name of a precision."""


@function(*ARGUMENTS)
def make_arguments(call: Call) -> Value:
    """`TrainingArguments(output_dir, fp16=True)`."""
    made = call.made("TrainingArguments")
    for name, value in call.keywords.items():
        call.path.heap[(made.uid, name)] = value
    _adopt(call, made, call.name)
    return made


def given_in_arguments(call: Call, arguments: Thing, name: str) -> Value | None:
    """What a TrainingArguments was given, None where it was certainly not, UNKNOWN where it may be."""
    path = call.path
    held = path.heap.get((arguments.uid, name))
    owner = path.known(arguments, "@class")
    if held is None and isinstance(owner, Class):
        held = lookup(path, owner, name)
    if held is None:
        extra = path.heap.get((arguments.uid, "**"))
        return None if extra is None else entry(call.engine.logic.settled(extra, path), name, call)
    return call.engine.logic.settled(held, path)


def _adopt(call: Call, made: Thing, name: str) -> None:
    maker, path = name.rpartition(".")[2], call.path
    call.engine.places.setdefault(made.uid, call.span)
    owner = path.known(made, "@class")
    if isinstance(owner, Class):
        maker = owner.node.name
        after = lookup(path, owner, "__post_init__")
        changes = isinstance(after, Function) and _may_switch(after)
        if changes or isinstance(lookup(path, owner, "__init__"), Function):
            return  # who knows what it makes of its arguments
    if expected(call.node, path.frame.module):
        return
    for pair in PAIRS:
        on = [_is_on(call, each, owner) for each in pair]
        if pair != PAIRS[0] and not all(on):
            continue  # it would speak for the other pair as well
        call.emit(
            PrecisionAsked(
                at=_place(call, pair[1]),
                occasional=call.occasional,
                maker=maker,
                switches=pair,
                both=all(on),
            )
        )
    for argument in REMOVED:
        keyword = _keyword(call, argument)
        if keyword is not None and not _older(call, "transformers", 5):
            _refuse(call, keyword, maker, argument, since="transformers 5")


base("TrainingArguments", *ARGUMENTS, adopt=_adopt)


def _may_switch(after: Function) -> bool:
    """Whether a `__post_init__` of the project's own may set a precision, or leaves out that check."""
    nodes = list(ast.walk(after.node))
    names = {each.attr for each in nodes if isinstance(each, ast.Attribute)}
    names |= {each.id for each in nodes if isinstance(each, ast.Name)}
    texts = {str(each.value) for each in nodes if isinstance(each, ast.Constant)}
    switches = {switch for pair in PAIRS for switch in pair}
    set_by_name = bool(names & {"setattr", "__dict__", "vars"})
    return set_by_name or bool(switches & (names | texts)) or "__post_init__" not in names


def _is_on(call: Call, name: str, owner: Value | None) -> bool:
    """Whether a switch is certainly on: given as True, or the class of the project says so."""
    value = given(call, MANY, name)
    if value is None and isinstance(owner, Class):
        value = lookup(call.path, owner, name)
    return value == TRUE


def _place(call: Call, name: str) -> Span:
    """Where a switch is given; the call where that is not in its text."""
    keyword = _keyword(call, name)
    return call.path.frame.module.span(keyword) if keyword is not None else call.span


def _keyword(call: Call, name: str) -> ast.keyword | None:
    return next((each for each in call.node.keywords if each.arg == name), None)


def _older(call: Call, library: str, major: int) -> bool:
    """Whether the project keeps to older releases of a library, or asks for its version."""
    module = call.path.frame.module
    ceiling = allowed(File(module.filename), (library,)).ceiling
    return (ceiling is not None and ceiling < (major, 0)) or guarded(call.node, module)


def _refuse(call: Call, keyword: ast.keyword, maker: str, argument: str, *, since: str) -> None:
    call.emit(
        PrecisionRefused(
            at=call.path.frame.module.span(keyword),
            maker=maker,
            argument=argument,
            error=f"{maker}.__init__() got an unexpected keyword argument '{argument}'",
            since=since,
        )
    )


@others("TrainingArguments")
def attribute(engine: Calls, arguments: Thing, name: str, _: Path) -> Value:
    """`args.learning_rate`, where it was not given."""
    return engine.term(".", arguments, Const(name))


@on_result(functions=ACCELERATORS, methods=())
def asked_of_accelerator(call: Call, _: Value, __: Value) -> None:
    """`Accelerator(mixed_precision="float16")`, `Accelerator(fp16=True)`."""
    if expected(call.node, call.path.frame.module):
        return
    keyword = _keyword(call, "fp16")
    if keyword is not None and not _older(call, "accelerate", 1):
        _refuse(call, keyword, "Accelerator", "fp16", since="accelerate 1")
    precision, node = (
        call.argument(2, "mixed_precision"),
        call.argument_node(2, "mixed_precision"),
    )
    if not isinstance(precision, Const) or precision == NONE or node is None:
        return
    value = str(precision.value)
    if value not in PRECISIONS:
        module = call.path.frame.module
        call.emit(
            PrecisionRefused(
                at=module.span(node),
                maker="Accelerator",
                argument="mixed_precision",
                value=repr(precision.value),
                error=f"Unknown mixed_precision mode: {value}. Choose between {list(PRECISIONS)}",
                instead=MEANT.get(value.lower(), "") if isinstance(precision.value, str) else "",
            )
        )
