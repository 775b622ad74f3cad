"""Mistakes on a DeepSpeed engine (MP608)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .mutation import Change, change, operator
from .roles import Program
from .script import Script

HALF = re.compile(r"""["']fp16["']:\s*\{["']enabled["']:\s*True""")
OTHER = re.compile(r"bf16|bfloat16|hasattr|\.scale\(|else:\s*\n\s*loss\.backward")


def on_engine(program: Program) -> bool:
    """Whether fp16 on DeepSpeed is the only way the program trains."""
    text = "".join(script.text for script in program.scripts)
    return "deepspeed.initialize(" in text and bool(HALF.search(text)) and not OTHER.search(text)


def _asked(script: Script, method: str) -> Iterator[ast.Call]:
    for call in script.calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr == method:
            yield call


@operator("deepspeed-raw-backward")
def backward_around_engine(program: Program) -> Iterator[Change]:
    """`engine.backward(loss)` becomes `loss.backward()`."""
    if not on_engine(program):
        return
    for script in program.scripts:
        for call in _asked(script, "backward"):
            if len(call.args) == 1 and not call.keywords:
                loss = script.source(call.args[0])
                edit = (script.start(call), script.end(call), f"({loss}).backward()")
                yield change(script, edit, marks=[call])


@operator("deepspeed-raw-backward")
def step_around_engine(program: Program) -> Iterator[Change]:
    """`engine.step()` becomes `optimizer.step()` of the optimizer that came back."""
    if not on_engine(program):
        return
    for script in program.scripts:
        made = [
            node
            for node in ast.walk(script.tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and script.source(node.value.func) == "deepspeed.initialize"
        ]
        if len(made) != 1 or not isinstance(made[0].targets[0], ast.Tuple):
            continue
        parts = made[0].targets[0].elts
        if len(parts) != 4 or any(isinstance(each, ast.Starred) for each in parts):
            continue
        engine = script.source(parts[0])
        for call in _asked(script, "step"):
            function = call.func
            assert isinstance(function, ast.Attribute)
            if script.source(function.value) == engine and not call.args:
                yield change(
                    script,
                    (script.start(parts[1]), script.end(parts[1]), "own_optimizer"),
                    (script.start(call), script.end(call), "own_optimizer.step()"),
                    marks=[call],
                )


@operator("deepspeed-config-conflict")
def both_in_configuration(program: Program) -> Iterator[Change]:
    """`"fp16": {"enabled": True}` in a configuration gets bfloat16 beside it."""
    text = "".join(script.text for script in program.scripts)
    if "deepspeed.initialize(" not in text or OTHER.search(text):
        return
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if not isinstance(node, ast.Dict):
                continue
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "fp16":
                    if HALF.match(script.text[script.start(key) : script.end(value)]):
                        at = script.start(key)
                        edit = (at, at, '"bf16": {"enabled": True}, ')
                        yield change(script, edit, marks=[key])
