"""Old names put back: torch's AMP of one device, Keras' experimental policy (MP701, MP703)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .roles import Program
from .script import Script, unstarred

CAST = ("torch.autocast", "torch.amp.autocast")
SCALER = ("torch.amp.GradScaler", "torch.GradScaler")
KERAS = ("keras.mixed_precision.", "tensorflow.keras.mixed_precision.")


@operator("deprecated-torch-amp")
def old_region(program: Program) -> Iterator[Change]:
    """`torch.autocast("cuda", ...)` by its old name."""
    yield from _old(program, CAST, "autocast")


@operator("deprecated-torch-amp")
def old_scaler(program: Program) -> Iterator[Change]:
    """`torch.amp.GradScaler("cuda", ...)` by its old name."""
    yield from _old(program, SCALER, "GradScaler")


def _old(program: Program, names: tuple[str, ...], new: str) -> Iterator[Change]:
    for script in program.scripts:
        imported = script.imports.get("torch") == "torch"
        if "cuda.amp" in script.text or not imported or _asks(script):
            continue
        for call in script.calls():
            if script.qualified(call.func) not in names or not unstarred(call):
                continue
            if len(call.args) != 1 or not _is_cuda(call.args[0]) or "#" in script.source(call):
                continue
            rest = ", ".join(script.source(keyword) for keyword in call.keywords)
            old = f"{MARK}torch.cuda.amp.{new}({rest})"
            yield change(script, (script.start(call), script.end(call), old))


def _is_cuda(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == "cuda"


def _asks(script: Script) -> bool:
    """Whether the program goes by the version: an old name may be right there."""
    return "__version__" in script.text or "hasattr(" in script.text or "ImportError" in script.text


@operator("experimental-keras-policy")
def experimental_policy(program: Program) -> Iterator[Change]:
    """`mixed_precision.set_global_policy(...)` by its old name."""
    for script in program.scripts:
        if "experimental" in script.text or _asks(script) or "Error" in script.text:
            continue
        for call in script.calls():
            function = call.func
            if not isinstance(function, ast.Attribute) or function.attr != "set_global_policy":
                continue
            if not script.qualified(function).startswith(KERAS):
                continue
            at = script.end(function.value)
            old = ".experimental.set_policy"
            yield change(script, (at, script.end(function), old), marks=[function])


@operator("legacy-lightning-precision")
def old_word(program: Program) -> Iterator[Change]:
    """`precision="16-mixed"` of Trainer or Fabric by its old word."""
    for script in program.scripts:
        if _asks(script):
            continue
        for call in script.calls():
            if not script.qualified(call.func).endswith(("lightning.Trainer", "ghtning.Fabric")):
                continue
            for keyword in call.keywords:
                word = keyword.value
                if keyword.arg == "precision" and isinstance(word, ast.Constant):
                    old = {"16-mixed": "16", "bf16-mixed": '"bf16"'}.get(str(word.value))
                    if old:
                        yield change(script, (script.start(word), script.end(word), MARK + old))


@operator("apex-amp")
def apex_again(program: Program) -> Iterator[Change]:
    """apex.amp imported again beside torch, and asked for its state."""
    for script in program.scripts:
        if "apex" in script.text or _asks(script) or "__future__" in script.text:
            continue
        for statement in script.tree.body:
            if isinstance(statement, ast.Import) and statement.names[0].name == "torch":
                yield change(
                    script,
                    (script.end(statement), script.end(statement), f"\n{MARK}from apex import amp"),
                )
                break
