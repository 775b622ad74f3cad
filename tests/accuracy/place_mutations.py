"""Mistakes in where things stand: the scaler in the loop, backward in the region (MP109, MP201, MP2xx)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import inserted_before
from .roles import Program
from .script import Script, keyword, names_in


def indented(
    script: Script, first: ast.stmt, last: ast.stmt, by: str = "    "
) -> tuple[int, int, str] | None:
    """The lines of a stretch of statements, deeper by four; None where a string runs over lines."""
    if multiline_string(script, first, last):
        return None
    start = script.line_start(script.start(first))
    end = script.line_end(script.end(last))
    text = script.text[start:end]
    return (
        start,
        end,
        "".join(by + line if line.strip() else line for line in text.splitlines(True)),
    )


def multiline_string(script: Script, first: ast.stmt, last: ast.stmt) -> bool:
    return any(
        isinstance(node, ast.Constant | ast.JoinedStr)
        and first.lineno <= node.lineno
        and (node.end_lineno or 0) <= (last.end_lineno or 0)
        and node.end_lineno != node.lineno
        for node in ast.walk(script.tree)
        if hasattr(node, "lineno")
    )


@operator("scaler-in-loop")
def scaler_into_loop(program: Program) -> Iterator[Change]:
    """The scaler is built at the start of each pass of the loop that steps it."""
    for script in program.scripts:
        for use in [use for use in program.of("step") if use.script is script]:
            for made in use.made:
                yield from _into_loops(program, script, use, made)


def _into_loops(program, script, use, made) -> Iterator[Change]:
    if not any(made is node for node in ast.walk(script.tree)):
        return
    stmt = script.statement(made)
    if not isinstance(stmt, ast.Assign) or stmt.value is not made or not script.owns_lines(stmt):
        return
    if len(stmt.targets) != 1 or "\n" in script.source(stmt):
        return
    # A method's scaler is built in __init__: there is no loop to move it into.
    if script.function(made) is not script.function(use.call):
        return
    name = ast.unparse(stmt.targets[0])
    if ast.unparse(use.call.func.value) != name:
        return
    body, index = script.block(stmt)
    for loop in script.loops(use.call):
        # The loop comes behind the construction, in the same block.
        outer = next((s for s in body[index + 1 :] if loop is s or loop in ast.walk(s)), None)
        if outer is None:
            continue
        between = body[index + 1 : body.index(outer)]
        # Used before the loop (load_state_dict, a closure over it): it would not exist yet.
        if any(name in _texts(node) for node in between):
            continue
        # The arguments must mean the same in every pass.
        if names_in([made], ast.Load) & names_in([loop], ast.Store):
            continue
        first = loop.body[0]
        if not script.owns_lines(first) and not isinstance(
            first, ast.With | ast.If | ast.For | ast.Try
        ):
            continue
        if outer is not loop and any(name in _texts(node) for node in _before(outer, loop)):
            continue
        yield change(
            script,
            (script.start(stmt), script.end(stmt), "pass"),
            inserted_before(script, first, f"{name} = {MARK}{script.source(made)}"),
        )


def _before(outer: ast.AST, loop: ast.AST) -> list[ast.AST]:
    """The simple statements of `outer` that stand before the loop."""
    return [
        node
        for node in ast.walk(outer)
        if isinstance(node, ast.Expr | ast.Assign | ast.If)
        and node.lineno < loop.lineno
        and loop not in ast.walk(node)
    ]


def _texts(node: ast.AST) -> set[str]:
    return {
        ast.unparse(each) for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute)
    }


@operator("backward-in-autocast")
def backward_into_region(program: Program) -> Iterator[Change]:
    """The backward behind a region moves to the region's end."""
    for script in program.scripts:
        for region, _, call in program.regions(script):
            if not on(program, call) or len(region.items) != 1:
                continue
            following = script.following(region)
            line = [stmt for stmt in following[:4] if isinstance(stmt, ast.Expr)]
            stmt = next((s for s in line if _is_backward(s)), None)
            if (
                stmt is None
                or not script.owns_lines(stmt)
                or not script.owns_lines(region.body[-1])
            ):
                continue
            # Only the backward of a loss that this region computes, on the next lines.
            between = following[: following.index(stmt)]
            if not all(isinstance(s, ast.Expr | ast.Assign | ast.AugAssign) for s in between):
                continue
            moved = [*between, stmt]
            if not all(map(script.owns_lines, moved)):
                continue
            made = indented(script, moved[0], stmt)
            if made is None or region.body[0].col_offset != region.col_offset + 4:
                continue
            start, end, text = made
            at = script.start(stmt) - start
            # The mark goes to where the backward's text now begins: deeper by 4 for each line.
            lines = text[: at + 4 * (script.text[start : script.start(stmt)].count("\n") + 1)]
            marked = lines + MARK + text[len(lines) :]
            yield change(script, (start, end, marked), elsewhere=inner_backwards(program, stmt))


def inner_backwards(program: Program, stmt: ast.Expr) -> list[tuple[Script, ast.AST]]:
    """The tensor's backward() inside the program's own functions called "backward": where a wrapper is
    moved into the region, that is the place as well."""
    if not any(
        isinstance(node, ast.FunctionDef) and node.name == "backward"
        for script in program.scripts
        for node in ast.walk(script.tree)
    ):
        return []
    return [
        (script, call)
        for script in program.scripts
        for call in script.calls()
        if getattr(call.func, "attr", "") == "backward"
        and (owner := script.function(call)) is not None
        and owner.name == "backward"
    ]


def _is_backward(stmt: ast.Expr) -> bool:
    call = stmt.value
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "backward"
    )


def on(program: Program, call: ast.Call) -> bool:
    """Whether a region may be on: not `enabled=False`, by a literal or a constant name."""
    enabled = keyword(call, "enabled")
    if enabled is not None and program.constant(enabled) in (False, None, 0):
        return False
    return not any(isinstance(a, ast.Constant) and a.value is False for a in call.args)


@operator("autocast-around-loop")
def region_around_loop(program: Program) -> Iterator[Change]:
    """The region is entered once, around the loop that steps."""
    for script in program.scripts:
        if ".compile(" in script.text or "cache_enabled" in script.text:
            continue  # compilation turns the cast cache off
        for region, item, call in program.regions(script):
            loops = script.loops(region)
            if not loops or len(region.items) != 1 or item.optional_vars or not on(program, call):
                continue
            loop = loops[0]
            if region not in loop.body or multiline_string(script, loop, loop):
                continue
            if not steps_in(program, script, loop):
                continue
            # The arguments must mean the same before the loop.
            if names_in([call], ast.Load) & names_in([loop], ast.Store):
                continue
            if (
                not script.owns_lines(region.body[-1])
                or loop.orelse
                or region.lineno == region.body[0].lineno
            ):
                continue
            # A region that only evaluates, or that stands in no_grad, holds nothing stale.
            header = script.source(call)
            start = script.line_start(script.start(loop))
            end = script.line_end(script.end(loop))
            out = [f"{script.indent(loop)}with {MARK}{header}:\n"]
            first, last = region.lineno, region.body[0].lineno - 1
            for number, line in enumerate(
                script.text[start:end].splitlines(True), start=loop.lineno
            ):
                if number == first:
                    out.append(f"    {script.indent(region)}if True:\n")
                elif first < number <= last:
                    continue
                else:
                    out.append("    " + line if line.strip() else line)
            yield change(script, (start, end, "".join(out)))


def steps_in(program: Program, script: Script, loop: ast.AST) -> bool:
    """Whether a loop steps an optimizer itself: through a scaler, or an optimizer by origin or name."""
    inside = set(ast.walk(loop))
    return any(use.call in inside for use in program.of("step"))


@operator("autocast-never-entered")
def region_never_entered(program: Program) -> Iterator[Change]:
    """The object is built in a statement of its own, and nothing enters it."""
    for script in program.scripts:
        for region, item, call in program.regions(script):
            if len(region.items) != 1 or item.optional_vars or not on(program, call):
                continue
            if region.lineno == region.body[0].lineno:
                continue
            body = script.start(region.body[0])
            colon = script.text.rfind(":", 0, body)
            yield change(
                script,
                (
                    script.start(region),
                    colon + 1,
                    f"{MARK}{script.source(call)}\n{script.indent(region)}if True:",
                ),
            )


@operator("autocast-device-mismatch")
def other_device(program: Program) -> Iterator[Change]:
    """The region is for the CPU, and the model runs on the GPU."""
    for script in program.scripts:
        # Every device of the program must be CUDA by a literal: nothing on the CPU, nothing chosen.
        if not only_cuda(script):
            continue
        for region, _, call in program.regions(script):
            device = call.args[0] if call.args else keyword(call, "device_type")
            if isinstance(device, ast.Constant) and device.value == "cuda" and on(program, call):
                # The region must run a model: a call of a plain name or attribute inside, not torch's.
                if not any(
                    _runs_model(script, each) for stmt in region.body for each in script.calls(stmt)
                ):
                    continue
                yield change(
                    script,
                    (script.start(device), script.end(device), '"cpu"'),
                    marks=[call],
                )


def _runs_model(script: Script, call: ast.Call) -> bool:
    name = ast.unparse(call.func).split(".")[-1].lower()
    return not script.qualified(call.func) and any(
        word in name
        for word in ("model", "net", "gen", "disc", "encoder", "decoder", "student", "policy")
    )


def only_cuda(script: Script) -> bool:
    """Whether tensors and models move to CUDA by literals only."""
    moved = False
    for call in script.calls():
        name = getattr(call.func, "attr", "")
        if name in ("is_available", "cpu"):
            return False
        if name == "cuda":
            moved = True
        if name in ("to", "device") and call.args:
            given = call.args[0]
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                if not given.value.startswith("cuda"):
                    return False
                moved = True
    return moved
