"""What a DeepSpeed configuration asks for, as far as a dict of the program or a file says it."""

from __future__ import annotations

import ast
from pathlib import Path as File
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.event import EngineConfigured
from mpaudit.finding import Related
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import FALSE, NONE, TRUE, Const, External, Thing, Value
from mpaudit.source.library.trainers.accelerate import entry
from mpaudit.source.text.config_file import UnreadableConfigError, beside, read_config
from mpaudit.source.text.requirement import allowed
from mpaudit.source.text.tree_text import Tree

if TYPE_CHECKING:
    from mpaudit.finding import Span
    from mpaudit.source.engine.request import Call
    from mpaudit.source.text.module import Module

CONFIG = ("config", "config_params")
"""The arguments of `deepspeed.initialize` that take one; `args` may name a file as well."""
LIBRARIES = ("transformers.", "trl.", "accelerate.", "lightning.", "pytorch_lightning.")
CHANGES = frozenset(["pop", "popitem", "clear", "update", "setdefault"])
TAKERS = {
    "TrainingArguments": (999, "deepspeed"),
    "Seq2SeqTrainingArguments": (999, "deepspeed"),
    "SFTConfig": (999, "deepspeed"),
    "DPOConfig": (999, "deepspeed"),
    "GRPOConfig": (999, "deepspeed"),
    "HfDeepSpeedConfig": (0, "config_file_or_dict"),
    "HfTrainerDeepSpeedConfig": (0, "config_file_or_dict"),
    "DeepSpeedPlugin": (0, "hf_ds_config"),
    "DeepSpeedStrategy": (999, "config"),
}
"""Who else takes a configuration, and by which argument."""
PLAIN_BACKWARD = (0, 18)
"""Since 0.18.3 `loss.backward()` is let through in bf16 under ZeRO."""


class Configured(Struct, frozen=True):
    """Switches of a configuration, None where they are not known; `at` is where fp16 is asked for."""

    fp16: bool | None = None
    bf16: bool | None = None
    stage: int | None = None
    at: Span | None = None

    @property
    def requires_engine(self) -> bool | None:
        """Whether `loss.backward()` is refused, or comes out wrong, in every release."""
        if self.fp16 or self.stage == 0:
            return True
        return False if self.fp16 is False and self.stage is not None else None

    @property
    def wraps_optimizer(self) -> bool | None:
        """Whether the engine trains copies of the parameters, so that the given optimizer has none."""
        if self.fp16 or self.bf16 or self.stage:
            return True
        return False if (self.fp16, self.bf16, self.stage) == (False, False, 0) else None


def configured(call: Call, config: Value | None) -> Configured:
    """What a configuration says."""
    config = call.engine.logic.settled(config, call.path)
    if isinstance(config, Thing) and config.kind == "dict":
        if call.path.known(config, "@changed") is not None:
            return Configured()
        bf16 = _enabled(call, config, "bf16")
        return Configured(
            _enabled(call, config, "fp16"),
            bf16 if bf16 is not False else _enabled(call, config, "bfloat16"),
            _stage(call, config),
        )
    if isinstance(config, Const) and isinstance(config.value, str):
        return _of_file(call.path.frame.module, config.value)
    return Configured()


def silent_about(call: Call, engine: Thing) -> bool:
    """Whether a script whose configuration is not in view may well train so that nothing is amiss.

    It speaks of bfloat16, or its project asks for a release that lets a plain backward through.
    """
    place = call.engine.places.get(engine.uid)
    texts = [frame.module.text for frame in call.path.frames]
    if any("bf16" in text or "bfloat16" in text for text in texts):
        return True
    floor = allowed(File(place.filename), ("deepspeed",)).floor if place is not None else None
    return floor is not None and floor >= PLAIN_BACKWARD


def _enabled(call: Call, config: Thing, name: str) -> bool | None:
    """Whether a precision is switched on; "auto" and what is computed is not known."""
    part = entry(config, name, call)
    if part in (None, NONE):
        return False
    if not isinstance(part, Thing) or part.kind != "dict":
        return None
    value = entry(part, "enabled", call)
    if call.path.known(part, "@changed") is not None:
        return None
    if value is None:
        return False
    return {TRUE: True, FALSE: False}.get(value) if isinstance(value, Const) else None


def _stage(call: Call, config: Thing) -> int | None:
    part = entry(config, "zero_optimization", call)
    if part in (None, NONE):
        return 0
    if not isinstance(part, Thing) or part.kind != "dict":
        return None
    value = entry(part, "stage", call)
    if value is None:
        return 0
    stage = value.value if isinstance(value, Const) else None
    return stage if isinstance(stage, int) and not isinstance(stage, bool) else None


def _of_file(script: Module, name: str) -> Configured:
    """What a configuration in a file says; nothing where it cannot be read."""
    path = beside(File(script.filename), name)
    if script.project is not None:
        noted = script.project.noted(script)
        (noted.asked if path is None else noted.read).add(str(_absolute(script, path, name)))
    if path is None:
        return Configured()
    try:
        config = read_config(path.read_bytes(), str(path))
        tree = config.tree()
    except (OSError, UnreadableConfigError):
        return Configured()
    half = _on_in(tree, "fp16")
    other = _on_in(tree, "bf16" if tree.get("bf16") is not None else "bfloat16")
    stage = tree.get("zero_optimization", "stage")
    number = 0.0 if stage is None else stage.value
    sharded = tree.get("zero_optimization")
    known = isinstance(number, float) and (sharded is None or isinstance(sharded.value, Tree))
    part = tree.get("fp16")
    at = config.span(*part.key) if half and part is not None else None
    return Configured(half, other, int(number) if known else None, at)  # type: ignore[arg-type]


def _absolute(script: Module, path: File | None, name: str) -> File:
    return (path or File(script.filename).parent / name).absolute()


def _on_in(tree: Tree, name: str) -> bool | None:
    part, switch = tree.get(name), tree.get(name, "enabled")
    if part is None or (switch is None and isinstance(part.value, Tree)):
        return False
    value = switch.value if switch is not None else None
    return value if isinstance(value, bool) else None


# Who changes a configuration, and who takes one


@on_result(functions=(), methods=CHANGES)
def changed(call: Call, _: Value, __: Value) -> None:
    """`config.pop("fp16")`, `config.update(other)`: what it holds then is not known."""
    if isinstance(call.receiver, Thing) and call.receiver.kind == "dict":
        call.path.learn(call.receiver, changed=TRUE)


def _takes(name: str) -> bool:
    return name.rpartition(".")[2] in TAKERS and name.startswith(LIBRARIES)


@on_result(functions=_takes, methods=())
def given_to_library(call: Call, callee: Value, _: Value) -> None:
    """`TrainingArguments(deepspeed={...})`, `HfDeepSpeedConfig({...})` and their like."""
    if not isinstance(callee, External):
        return
    name = callee.name.rpartition(".")[2]
    place = TAKERS[name]
    config = call.argument(*place)
    if isinstance(config, Thing) and config.kind == "dict":
        tell(call, config)
    if place[1] == "deepspeed":
        _agree(call, config, name)


def _agree(call: Call, config: Value | None, maker: str) -> None:
    """Tell of arguments that ask for the other precision than the configuration."""
    known = configured(call, config)
    if known.fp16 == known.bf16:
        return
    for switch, other in (("fp16", known.bf16), ("bf16", known.fp16)):
        keyword = next((each for each in call.node.keywords if each.arg == switch), None)
        if other and keyword is not None and call.argument(999, switch) == TRUE:
            call.emit(
                EngineConfigured(
                    at=call.path.frame.module.span(keyword), both=True, maker=maker, switch=switch
                )
            )


def tell(call: Call, config: Value | None) -> None:
    """Tell of a dict that a library takes for a configuration."""
    config = call.engine.logic.settled(config, call.path)
    if not isinstance(config, Thing) or config.kind != "dict":
        return
    known = configured(call, config)
    at, other = _key(call, config, "fp16"), _key(call, config, "bf16")
    other = other or _key(call, config, "bfloat16")
    call.emit(
        EngineConfigured(
            at=at or call.span,
            both=bool(known.fp16 and known.bf16),
            other=Related(other, "the other one is enabled here") if other is not None else None,
        )
    )


def _key(call: Call, config: Thing, name: str) -> Span | None:
    """Where a key stands in the text of a dict, None where that is not in view."""
    operation, *operands = call.engine.identities.description(config.uid)
    node = operands[0] if operation == "made" and operands else None
    keys: list[ast.AST]
    if isinstance(node, ast.Dict):
        keys = [k for k in node.keys if isinstance(k, ast.Constant) and k.value == name]
    elif isinstance(node, ast.Call):
        keys = [each for each in node.keywords if each.arg == name]
    else:
        return None
    for module in dict.fromkeys(frame.module for frame in reversed(call.path.frames)):
        if keys and keys[0] in module.parents:
            return module.span(keys[0])
    return None
