"""What the hardware or the compiler makes of it: MP215, MP308, MP804, MP805, MP807 and MP808."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import Change, change, operator
from .roles import Program
from .script import Script, keyword


def _line(script: Script, stmt: ast.stmt) -> tuple[int, int, str]:
    """An edit that takes a statement out, with its lines."""
    start = script.line_start(script.start(stmt))
    return start, script.line_end(script.end(stmt)), ""


def _regions(program: Program, script: Script) -> list[ast.Call]:
    return [call for _, _, call in program.regions(script)]


@operator("checkpoint-drops-autocast")
def recomputed_without_guards(program: Program) -> Iterator[Change]:
    """A checkpoint that runs its part again loses `custom_fwd` and `custom_bwd`."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if not isinstance(node, ast.ClassDef):
                continue
            guards = [
                (function, each)
                for function in node.body
                if isinstance(function, ast.FunctionDef)
                for each in function.decorator_list
                if isinstance(each, ast.Call)
                and script.qualified(each.func).endswith(("custom_fwd", "custom_bwd"))
            ]
            reruns = [call for call in script.calls(node) if ast.unparse(call.func) == "ctx.run"]
            if len(guards) != 2 or len(reruns) != 1:
                continue
            edits = [
                (script.line_start(script.start(each)), script.line_end(script.end(each)), "")
                for _, each in guards
            ]
            yield change(script, *edits, marks=reruns)


@operator("checkpoint-drops-autocast")
def recomputed_outside_the_region(program: Program) -> Iterator[Change]:
    """The region is left out in which a checkpoint runs its part again."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if not isinstance(node, ast.With) or len(node.items) != 2:
                continue
            first, second = (item.context_expr for item in node.items)
            restores = isinstance(second, ast.Call) and "autocast_kwargs" in ast.unparse(second)
            calls = [call for call in script.calls(node) if ast.unparse(call.func) == "ctx.run"]
            stored = [
                stmt
                for stmt in ast.walk(script.class_of(node) or node)
                if isinstance(stmt, ast.Assign)
                and ast.unparse(stmt.targets[0]) == "ctx.autocast_kwargs"
            ]
            if restores and len(calls) == 1 and len(stored) == 1:
                edit = (script.end(first), script.end(second), "")
                yield change(script, _line(script, stored[0]), edit, marks=calls)


@operator("adam-epsilon-in-half")
def epsilon_of_float32(program: Program) -> Iterator[Change]:
    """Adam over float16 parameters loses the epsilon that float16 can hold."""
    for script in program.scripts:
        for call in script.calls():
            given = keyword(call, "eps")
            name = script.qualified(call.func)
            if given is None or name not in ("torch.optim.Adam", "torch.optim.AdamW"):
                continue
            if ".half()" in script.text and isinstance(given, ast.Constant):
                edit = (script.start(given), script.end(given), "1e-8")
                yield change(script, edit, marks=[call])


@operator("compiled-backward-autocast")
def switch_left_out(program: Program) -> Iterator[Change]:
    """`backward_pass_autocast` stays as it is."""
    for script in program.scripts:
        for stmt in script.tree.body:
            if not isinstance(stmt, ast.Assign) or not script.owns_lines(stmt):
                continue
            if ast.unparse(stmt.targets[0]).endswith("backward_pass_autocast"):
                compiled = [
                    call
                    for call in script.calls()
                    if script.qualified(call.func) == "torch.compile"
                ]
                yield change(script, _line(script, stmt), marks=compiled)


@operator("unsuitable-hardware")
def float16_on_the_cpu(program: Program) -> Iterator[Change]:
    """A region of the CPU computes in float16, for which the CPU has no units."""
    for script in program.scripts:
        for call in _regions(program, script):
            given = keyword(call, "dtype")
            first = call.args[0] if call.args else None
            on_cpu = isinstance(first, ast.Constant) and first.value == "cpu"
            if not on_cpu or given is None or keyword(call, "enabled") is not None:
                continue
            if script.qualified(given) == "torch.bfloat16" and "cuda" not in script.text:
                spelled = script.source(given).replace("bfloat16", "float16")
                if script.source(given).startswith("torch."):
                    edit = (script.start(given), script.end(given), spelled)
                    yield change(script, edit, marks=[call])


@operator("tf32-not-enabled")
def matmuls_left_in_float32(program: Program) -> Iterator[Change]:
    """Nobody allows TF32 where a flag may switch the region off."""
    switches = ("set_float32_matmul_precision", "allow_tf32", "fp32_precision")
    for script in program.scripts:
        if len(program.scripts) > 1:
            continue
        found = [
            stmt
            for stmt in script.tree.body
            if isinstance(stmt, ast.Expr | ast.Assign)
            and any(word in script.source(stmt) for word in switches)
        ]
        told = sum(script.text.count(word) for word in switches)
        if len(found) != 1 or told != 1 or not script.owns_lines(found[0]):
            continue
        flagged = [
            call
            for call in _regions(program, script)
            if keyword(call, "enabled") is not None and "cuda" in script.text
        ]
        if flagged:
            yield change(script, _line(script, found[0]), marks=flagged)


@operator("prefer-bfloat16")
def nobody_asks_for_the_device(program: Program) -> Iterator[Change]:
    """float16 without a look at the GPU, which may well have bfloat16."""
    for script in program.scripts:
        for stmt in script.tree.body:
            if not isinstance(stmt, ast.Assign) or not isinstance(stmt.value, ast.Compare):
                continue
            if "get_device_capability" not in script.source(stmt.value):
                continue
            low = [
                call
                for call in _regions(program, script)
                if (given := keyword(call, "dtype")) is not None
                and script.qualified(given) == "torch.float16"
            ]
            if low and script.text.count("capability") == 1:
                edit = (script.start(stmt.value), script.end(stmt.value), "True")
                yield change(script, edit, marks=low)
