"""Mistakes in what Hugging Face's Trainer and Accelerate are asked for (MP606, MP611)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .accelerate_mutations import ACCELERATOR
from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script, keyword, unstarred

MAKERS = ("TrainingArguments", "SFTConfig", "DPOConfig")


def arguments(program: Program) -> Iterator[tuple[Script, ast.Call]]:
    """The calls that build a TrainingArguments, outside of tests of what is refused."""
    for script in program.scripts:
        for call in script.calls():
            if script.qualified(call.func).endswith(MAKERS) and unstarred(call):
                if not any(isinstance(each, ast.With) for each in script.above(call)):
                    yield script, call


@operator("conflicting-precision-flags")
def both_precisions(program: Program) -> Iterator[Change]:
    """`fp16=..., bf16=...` -> both True; a missing one is added."""
    for script, call in arguments(program):
        edits = []
        for name in ("fp16", "bf16"):
            given = keyword(call, name)
            if given is not None:
                edits.append((script.start(given), script.end(given), f"{MARK}True"))
            elif call.args or call.keywords:
                at = script.end(call) - 1
                comma = "" if script.text[:at].rstrip().endswith(",") else ", "
                edits.append((at, at, f"{comma}{MARK}{name}=True"))
        ends = [edit for edit in edits if edit[0] == edit[1]]
        if len(ends) < 2:
            yield change(script, *edits, marks=[call])


@operator("conflicting-precision-flags")
def name_of_a_dtype(program: Program) -> Iterator[Change]:
    """`mixed_precision="fp16"` -> `mixed_precision="float16"`."""
    for script in program.scripts:
        for call in script.calls():
            given = keyword(call, "mixed_precision")
            if script.qualified(call.func) not in ACCELERATOR or not isinstance(
                given, ast.Constant
            ):
                continue
            if given.value in ("fp16", "bf16"):
                text = f'{MARK}"{"b" if given.value == "bf16" else ""}float16"'
                yield change(script, (script.start(given), script.end(given), text))


@operator("conflicting-precision-flags")
def argument_of_old(program: Program) -> Iterator[Change]:
    """An argument that transformers 5 has dropped; not in a file that asks for the version."""
    for script, call in arguments(program):
        if "__version__" in script.text:
            continue
        given = keyword(call, "fp16") or keyword(call, "bf16")
        if given is not None:
            at = script.end(given)
            yield change(script, (at, at, f', {MARK}half_precision_backend="auto"'))


@operator("half-checkpoint-with-fp16")
def loaded_in_half(program: Program) -> Iterator[Change]:
    """A checkpoint that is trained in bfloat16 is loaded in float16 and trained with fp16."""
    for script, call in arguments(program):
        function, on = script.function(call), keyword(call, "bf16")
        if function is None or not (isinstance(on, ast.Constant) and on.value is True):
            continue
        if keyword(call, "fp16") is not None or keyword(call, "deepspeed") is not None:
            continue
        trains = [
            each
            for each in script.calls(function)
            if isinstance(each.func, ast.Attribute) and each.func.attr == "train"
        ]
        loads = [
            each
            for each in script.calls(function)
            if isinstance(each.func, ast.Attribute) and each.func.attr == "from_pretrained"
        ]
        dtype = keyword(loads[0], "dtype") if len(loads) == 1 else None
        if not trains or dtype is None or "peft" in script.text:
            continue
        switch = next(each for each in call.keywords if each.arg == "bf16")
        yield change(
            script,
            (script.start(switch), script.end(switch), "fp16=True"),
            (script.start(dtype), script.end(dtype), f"{MARK}torch.float16"),
            marks=[loads[0]],
        )
