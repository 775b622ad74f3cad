"""Mistakes where Lightning, Fabric or FSDP own the training step (MP604, MP605, MP607, MP612)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from .mutation import Change, change, operator
from .roles import Program
from .script import Script, keyword

HALF = re.compile(r"16-mixed|precision=16\b")
OTHER = re.compile(r"bf16|32-true|64-true")
MANUAL = re.compile(r"automatic_optimization\s*=\s*False")


def scales(program: Program) -> bool:
    """Whether 16-mixed is the only precision that the program ever asks for."""
    text = "".join(script.text for script in program.scripts)
    return bool(HALF.search(text)) and not OTHER.search(text) and "lightning" in text


def methods(script: Script, name: str) -> Iterator[ast.Call]:
    for call in script.calls():
        if isinstance(call.func, ast.Attribute) and call.func.attr == name:
            yield call


@operator("lightning-raw-backward")
def backward_around_owner(program: Program) -> Iterator[Change]:
    """`self.manual_backward(loss)` or `fabric.backward(loss)` becomes `loss.backward()`."""
    if not scales(program):
        return
    for script in program.scripts:
        found = list(methods(script, "manual_backward"))
        found += [
            call
            for call in methods(script, "backward")
            if script.source(call.func.value).endswith("fabric")
        ]
        for call in found:
            if len(call.args) == 1 and not call.keywords:
                loss = script.source(call.args[0])
                edit = (script.start(call), script.end(call), f"({loss}).backward()")
                yield change(script, edit, marks=[call])


@operator("lightning-raw-clip")
def hook_before_unscaling(program: Program) -> Iterator[Change]:
    """What clips or reads in on_before_optimizer_step does so in on_after_backward."""
    if not scales(program):
        return
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if not isinstance(node, ast.FunctionDef) or node.name != "on_before_optimizer_step":
                continue
            parameters = node.args.args
            names = {n.id for s in node.body for n in ast.walk(s) if isinstance(n, ast.Name)}
            if len(parameters) < 2 or parameters[-1].arg in names:
                continue
            start = script.text.index(node.name, script.start(node))
            yield change(
                script,
                (start, start + len(node.name), "on_after_backward"),
                (script.end(parameters[-2]), script.end(parameters[-1]), ""),
                marks=[call for call in script.calls(node) if "norm" in script.source(call.func)],
            )


@operator("lightning-raw-clip")
def clip_around_fabric(program: Program) -> Iterator[Change]:
    """`fabric.clip_gradients(model, optimizer, max_norm=1.0)` becomes torch's function."""
    if not scales(program):
        return
    for script in program.scripts:
        for call in methods(script, "clip_gradients"):
            limit = keyword(call, "max_norm")
            if limit is None or not script.source(call.func.value).endswith("fabric"):
                continue
            model = script.source(call.args[0])
            new = f"torch.nn.utils.clip_grad_norm_({model}.parameters(), {script.source(limit)})"
            yield change(script, (script.start(call), script.end(call), new), marks=[call])


@operator("lightning-unsupported-combination")
def clip_for_manual_module(program: Program) -> Iterator[Change]:
    """The only Trainer of a module that optimises by hand is told to clip."""
    modules = [
        node
        for script in program.scripts
        for node in ast.walk(script.tree)
        if isinstance(node, ast.ClassDef) and "Module" in "".join(map(ast.unparse, node.bases))
    ]
    if len(modules) != 1 or not MANUAL.search(ast.unparse(modules[0])):
        return
    for script in program.scripts:
        calls = [c for c in script.calls() if script.qualified(c.func).endswith(".Trainer")]
        if len(calls) == 1 and calls[0].keywords and keyword(calls[0], "gradient_clip_val") is None:
            at = script.start(calls[0].keywords[0])
            yield change(script, (at, at, "gradient_clip_val=0.5, "), marks=[calls[0]])


@operator("fsdp-with-plain-grad-scaler")
def scaler_of_one_rank(program: Program) -> Iterator[Change]:
    """FSDP's own scaler becomes torch's."""
    for script in program.scripts:
        if "NO_SHARD" in script.text or "FullyShardedDataParallel" not in script.text:
            continue
        for call in script.calls():
            if script.qualified(call.func).endswith(".ShardedGradScaler"):
                edit = (script.start(call.func), script.end(call.func), "torch.amp.GradScaler")
                yield change(script, edit, marks=[call])
