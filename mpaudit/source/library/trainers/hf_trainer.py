"""Hugging Face's Trainer and TRL's: which model they train, and whether they scale the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpaudit.event import HalfTrained
from mpaudit.source.engine.path import lookup
from mpaudit.source.engine.registry import (
    base,
    function,
    initialised,
    kind_of,
    method,
    others,
)
from mpaudit.source.engine.values import FALSE, NONE, TRUE, Class, Const, Function, Thing, Value
from mpaudit.source.library.torch.half_model import cast_by_hand
from mpaudit.source.library.trainers.accelerate import MANY, given
from mpaudit.source.library.trainers.hf_arguments import given_in_arguments

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

TRL = """SFTTrainer DPOTrainer GRPOTrainer KTOTrainer ORPOTrainer CPOTrainer BCOTrainer RewardTrainer
    PRMTrainer""".split()  # noqa: SIM905
TRAINERS = (
    "transformers.Trainer",
    "transformers.trainer.Trainer",
    "transformers.Seq2SeqTrainer",
    "transformers.trainer_seq2seq.Seq2SeqTrainer",
    "sentence_transformers.SentenceTransformerTrainer",
    "sentence_transformers.trainer.SentenceTransformerTrainer",
    *(f"trl.{name}" for name in TRL),
    *(f"trl.trainer.{name}" for name in TRL),
)
OTHERWISE = ("deepspeed", "fsdp")
"""Arguments by which another engine takes over the scaling, or the parameters."""


@function(*TRAINERS)
def make_trainer(call: Call) -> Value:
    """`Trainer(model, arguments)`."""
    made = call.made("HFTrainer")
    _told(call, made)
    return made


def _adopt(call: Call, made: Thing, _: str) -> None:
    owner = call.path.known(made, "@class")
    own = isinstance(owner, Class) and lookup(call.path, owner, "__init__")
    if not isinstance(own, Function):
        _told(call, made)


base("instance", *TRAINERS, adopt=_adopt)


@initialised("instance")
def _of_own_class(call: Call, made: Thing) -> None:
    """`super().__init__(model=model, args=args)` in a Trainer of the project."""
    owner = call.path.known(made, "@class")
    if isinstance(owner, Class) and kind_of(owner)[1] in TRAINERS:
        _told(call, made)


def _told(call: Call, made: Thing) -> None:
    """Note what a Trainer was given; one that trains adapters is left alone."""
    if given(call, MANY, "peft_config") in (None, NONE):
        model, arguments = given(call, 0, "model"), given(call, 1, "args")
        call.path.learn(made, trained=model, arguments=arguments)


@method("instance", "train")
def train_by_own_class(call: Call) -> Value | None:
    """`trainer.train()` of a Trainer of the project, which does not say otherwise."""
    return train(call) if call.path.known(call.thing, "@trained") is not None else None


@method("HFTrainer", "train")
def train(call: Call) -> Value:
    """`trainer.train()`."""
    path = call.path
    model, arguments = path.known(call.thing, "@trained"), path.known(call.thing, "@arguments")
    cast = cast_by_hand(model, path)
    if cast is None or cast.name != "float16" or cast.at is None:
        return call.made()
    if (
        isinstance(arguments, Thing)
        and arguments.kind == "TrainingArguments"
        and _certain(model, path)
    ):
        if _scales(call, arguments):
            call.emit(
                HalfTrained(
                    at=call.span,
                    occasional=call.occasional,
                    trainer=_name(call.thing, path),
                    cast=cast.at,
                    asked=_asked(call, arguments),
                )
            )
    return call.made()


def _certain(model: Value | None, path: Path) -> bool:
    """Whether a model is cast on this path, and not only on some that were joined."""
    known = path.known(model, "@param_dtype") if model is not None else None
    known = known or (path.known(model, "@dtype") if model is not None else None)
    return isinstance(known, Const)


def _scales(call: Call, arguments: Thing) -> bool:
    """Whether it is certain that a Trainer with these arguments scales the loss by a GradScaler."""
    if any(
        given_in_arguments(call, arguments, each) not in (None, NONE, FALSE, Const(""))
        for each in OTHERWISE
    ):
        return False
    return given_in_arguments(call, arguments, "fp16") == TRUE


def _asked(call: Call, arguments: Thing) -> Span | None:
    return call.engine.places.get(arguments.uid)


def _name(trainer: Thing, path: Path) -> str:
    owner = path.known(trainer, "@class")
    return owner.node.name if isinstance(owner, Class) else "the Trainer"


@others("HFTrainer")
def attribute(engine: Calls, trainer: Thing, name: str, path: Path) -> Value:
    """`trainer.model`, `trainer.args`; what nothing is known of stays unknown."""
    held = {"model": "@trained", "args": "@arguments"}.get(name)
    known = path.known(trainer, held) if held else None
    return known if known is not None else engine.term(".", trainer, Const(name))


@method("HFTrainer", "evaluate", "predict", "save_model", "save_state", "log", "push_to_hub")
def untouched(call: Call) -> Value:
    """Methods that train nothing."""
    return call.made()
