"""Losses scaled twice, by another scaler, logged, or accumulated wrongly (MP114, MP119, MP125, MP126)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import (
    atom,
    counts,
    only_phase,
    script_line,
)
from .roles import Program


@operator("scaled-loss-logged")
def scaled_loss_read(program: Program) -> Iterator[Change]:
    """The name of the loss is bound to the scaled loss, and what is printed later is that."""
    for use in program.of("scale"):
        script = use.script
        if not use.alone or use.backward is None or not isinstance(use.argument, ast.Name):
            continue
        name = use.argument.id
        rest = script.following(use.stmt)
        reads = [
            node
            for stmt in rest
            for node in ast.walk(stmt)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "item"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == name
        ]
        stored = any(
            isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name
            for stmt in rest
            for node in ast.walk(stmt)
        )
        if not reads or stored:
            continue
        tail = script.text[script.end(use.call) : script.end(use.backward)]
        text = f"{name} = {script.source(use.call)}\n{script.indent(use.stmt)}{name}{tail}"
        yield change(script, (script.start(use.call), script.end(use.backward), text), marks=reads)


@operator("inconsistent-loss-scaling")
def scaled_twice(program: Program) -> Iterator[Change]:
    """`scaler.scale(scaler.scale(loss))`."""
    for use in program.of("scale"):
        if (
            use.argument is None
            or isinstance(use.argument, ast.Starred)
            or not program.same(use, "step")
        ):
            continue
        script = use.script
        start, end = script.start(use.argument), script.end(use.argument)
        text = f"{use.scaler}.scale({script.source(use.argument)})"
        marks = [use.call, *([use.backward] if use.backward else [])]
        yield change(script, (start, end, text), marks=marks)


@operator("inconsistent-loss-scaling")
def one_loss_unscaled(program: Program) -> Iterator[Change]:
    """Of two losses of one phase, one is not scaled."""
    for use in program.of("scale"):
        if use.backward is None or use.argument is None:
            continue
        line = script_line(program, use)
        index = line.index(use)
        neighbours = [
            line[i]
            for i in (index - 1, index + 1)
            if 0 <= i < len(line) and line[i].kind == "scale" and line[i].backward is not None
        ]
        if not neighbours or only_phase(program, use):
            continue
        script = use.script
        # In the same block and the same loop: both run before the step.
        if not any(script.block(n.stmt)[0] is script.block(use.stmt)[0] for n in neighbours):
            continue
        if not any(step.stmt in script.following(use.stmt) for step in program.beside(use, "step")):
            continue
        text = atom(use.argument, script.source(use.argument))
        yield change(
            script,
            (script.start(use.call), script.end(use.call), MARK + text),
            marks=[n.call for n in neighbours],
        )


@operator("inconsistent-loss-scaling")
def stepped_by_other_scaler(program: Program) -> Iterator[Change]:
    """With two scalers, one network's loss is scaled by the other one."""
    for use in program.of("scale"):
        script = use.script
        others = {
            each.scaler
            for each in program.of("scale")
            if each.script is script
            and not each.made & use.made
            and script.function(each.call) is script.function(use.call)
        }
        if len(others) != 1 or not only_phase(program, use):
            continue
        func = use.call.func.value
        yield change(
            script,
            (script.start(func), script.end(func), MARK + others.pop()),
            marks=[s.call for s in program.beside(use, "step")],
        )


@operator("undivided-accumulation")
def loss_not_divided(program: Program) -> Iterator[Change]:
    """The division of an accumulated loss by the number of micro-batches is gone."""
    for script in program.scripts:
        guards = [
            node
            for node in ast.walk(script.tree)
            if isinstance(node, ast.If)
            and counts(node.test)
            and script.loops(node)
            and any(u.call in set(ast.walk(node)) for u in program.of("step") if u.script is script)
        ]
        if len(guards) != 1:
            continue
        words = {
            ast.unparse(n)
            for n in ast.walk(guards[0].test)
            if isinstance(n, ast.Name | ast.Attribute)
        }
        scales = [u for u in program.of("scale") if u.script is script]
        if len(scales) != 1:
            continue
        divisions = [
            node
            for node in ast.walk(script.loops(guards[0])[0])
            if isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and ast.unparse(node.right) in words
        ]
        if len(divisions) != 1:
            continue
        node = divisions[0]
        yield change(
            script,
            (script.end(node.left), script.end(node), ""),
            marks=[node, scales[0].call, *([scales[0].backward] if scales[0].backward else [])],
        )


@operator("mid-accumulation-step")
def zeroed_per_micro_batch(program: Program) -> Iterator[Change]:
    """zero_grad() moves out of the guard: the gradients of earlier micro-batches are lost."""
    for use in program.of("step"):
        script = use.script
        guard = script.parent(use.stmt)
        if not isinstance(guard, ast.If) or not counts(guard.test) or guard.orelse:
            continue
        loops = script.loops(guard)
        if not loops or not any(
            script.loops(each.call)[:1] == loops[:1] for each in program.beside(use, "scale")
        ):
            continue
        if script.text[script.start(guard) :].startswith("elif"):
            continue
        if any(isinstance(n, ast.Continue | ast.Break | ast.Return) for n in ast.walk(guard)):
            continue
        for stmt in guard.body:
            call = getattr(stmt, "value", None)
            if not (isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "zero_grad"):
                continue
            if not script.owns_lines(stmt) or len(guard.body) < 2:
                continue
            at = script.line_end(script.end(guard))
            yield change(
                script,
                (script.line_start(script.start(stmt)), script.line_end(script.end(stmt)), ""),
                (at, at, f"{script.indent(guard)}{MARK}{script.source(stmt)}\n"),
                marks=[use.call],
            )
