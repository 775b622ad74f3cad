"""Mistakes with gradients that are scaled, gone, or changed by hand (MP105, MP106, MP115, MP121-MP124)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .nets import optimizer_call, parameters_of
from .order_mutations import (
    clips_after,
    divided,
    drop,
    inserted_after,
    inserted_before,
    plain_backwards,
)
from .roles import Program, Use, after
from .script import assignments


def before_unscaling(program: Program, use: Use) -> ast.stmt | None:
    """For a step: the statement before which the gradients are there and still scaled."""
    near = [u for u in program.beside(use, "unscale") if after(use, u)]
    if not near:
        # An unscale_ somewhere else may come first; then nobody knows.
        return use.stmt if use.alone and not program.same(use, "unscale") else None
    first = near[0]
    return first.stmt if first.alone else None


@operator("clip-before-unscale")
def clip_added(program: Program) -> Iterator[Change]:
    """A clip is put before the step of a script that never unscales."""
    for use in program.of("step"):
        script = use.script
        if program.same(use, "unscale") or not use.alone or divided(program, script):
            continue
        if program.clips(script) or "torch" not in script.imports:
            continue
        model = parameters_of(program, script, use.argument)
        if model is None or not scaled_before(program, use):
            continue
        text = f"{MARK}torch.nn.utils.clip_grad_norm_({model}.parameters(), 1.0)"
        yield change(script, inserted_before(script, use.stmt, text))


def scaled_before(program: Program, use: Use) -> bool:
    """Whether the step's own function (or no other one than the program's only) ran a scaled backward."""
    return bool(program.same(use, "scale"))


@operator("clip-before-unscale")
def clip_after_step(program: Program) -> Iterator[Change]:
    """unscale_() and the clip move behind step(): the gradients were applied already."""
    for use in program.of("unscale"):
        script = use.script
        rest = script.following(use.stmt)
        clips = [c for c in clips_after(program, use) if rest and script.statement(c) is rest[0]]
        steps = [s for s in program.beside(use, "step") if s.stmt in rest]
        if not clips or len(steps) != 1 or program.same(use, "unscale") or not use.alone:
            continue
        clip, step = rest[0], steps[0]
        if not (script.owns_lines(clip) and step.alone and isinstance(clip, ast.Expr)):
            continue
        if step.scaler != use.scaler or clip is not script.preceding(step.stmt)[-1]:
            continue
        yield change(
            script,
            (script.start(use.stmt), script.end(use.stmt), "pass"),
            (script.start(clip), script.end(clip), script.source(step.stmt)),
            (script.start(step.stmt), script.end(step.stmt), MARK + script.source(clip)),
        )


@operator("double-unscale")
def unscaled_by_hand(program: Program) -> Iterator[Change]:
    """The gradients are divided by the scale in a loop, and step() divides them again."""
    for use in program.of("step"):
        script = use.script
        if program.same(use, "unscale") or not use.alone or divided(program, script):
            continue
        model = parameters_of(program, script, use.argument)
        if model is None:
            continue
        pad = script.indent(use.stmt)
        text = (
            f"for parameter in {model}.parameters():\n"
            f"{pad}    {MARK}parameter.grad.div_({use.scaler}.get_scale())"
        )
        yield change(script, inserted_before(script, use.stmt, text))


@operator("mismatched-optimizer")
def other_optimizer_unscaled(program: Program) -> Iterator[Change]:
    """unscale_() gets the other optimizer: the clipped gradients are still scaled."""
    for use in program.of("unscale"):
        script = use.script
        others = {
            script.source(step.argument)
            for step in program.same(use, "step")
            if step.argument is not None
            and step.script is script
            and isinstance(step.argument, ast.Name | ast.Attribute)
        }
        mine = script.source(use.argument) if use.argument is not None else ""
        others.discard(mine)
        clips = clips_after(program, use)
        if not use.alone or len(others) != 1 or not clips or program.beside(use, "unscale"):
            continue
        # Both must be known for what they are, and the other one where it is put.
        other = others.pop()
        step = next(
            each
            for each in program.same(use, "step")
            if each.argument is not None and script.source(each.argument) == other
        )
        one = optimizer_call(program, script, use.argument)
        two = optimizer_call(program, script, step.argument)
        if script.function(use.call) is not script.function(step.call) or None in (one, two):
            continue
        if one is two:
            continue
        yield change(
            script,
            (script.start(use.argument), script.end(use.argument), other),
            marks=[*clips, use.call],
        )


@operator("mismatched-optimizer")
def one_of_two_not_unscaled(program: Program) -> Iterator[Change]:
    """Two optimizers, one clip over the parameters of both, and one unscale_() only."""
    for use in program.of("unscale"):
        script = use.script
        rest = script.following(use.stmt)
        second = next(
            (u for u in program.beside(use, "unscale") if rest and u.stmt is rest[0]), None
        )
        if second is None or not (use.alone and second.alone):
            continue
        clips = [c for c in clips_after(program, second) if "parameters" in ast.unparse(c)]
        clips = [c for c in clips if ast.unparse(c).count("parameters()") > 1]
        if clips:
            yield change(script, drop(use), marks=clips)
            yield change(script, drop(second), marks=clips)


@operator("scaled-gradient-penalty")
def penalty_not_unscaled(program: Program) -> Iterator[Change]:
    """The penalty's gradients are no longer multiplied by 1 / scale."""
    for script in program.scripts:
        inverses = {
            target.id
            for target, value in assignments(script.tree)
            if isinstance(target, ast.Name)
            and isinstance(value, ast.BinOp)
            and isinstance(value.op, ast.Div)
            and isinstance(value.left, ast.Constant)
            and "get_scale" in ast.unparse(value.right)
        }
        for node in ast.walk(script.tree):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
                if isinstance(node.right, ast.Name) and node.right.id in inverses:
                    grads = [
                        call
                        for call in script.calls()
                        if script.qualified(call.func) == "torch.autograd.grad"
                    ]
                    yield change(
                        script,
                        (script.end(node.left), script.end(node), ""),
                        marks=[script.statement(node), *grads],
                    )


@operator("step-without-gradients")
def zeroed_before_step(program: Program) -> Iterator[Change]:
    """zero_grad() between backward and step."""
    for use in program.of("step"):
        script = use.script
        if not use.alone or not isinstance(use.argument, ast.Name | ast.Attribute):
            continue
        if not use.script.owns_lines(use.stmt) or not program.same(use, "scale"):
            continue
        if plain_backwards(program, script):
            continue  # it may make gradients again
        target = before_unscaling(program, use)
        if target is None:
            continue
        # Behind backward: the step's own phase lies in this function before it, or in another one.
        text = f"{MARK}{script.source(use.argument)}.zero_grad()"
        yield change(script, inserted_before(script, target, text), marks=[use.call])


@operator("guard-skips-update")
def guard_leaves(program: Program) -> Iterator[Change]:
    """A guard against NaN leaves the iteration between unscale_() and update()."""
    for use in program.of("unscale"):
        script = use.script
        rest = script.following(use.stmt)
        updates = [u for u in program.beside(use, "update") if u.stmt in rest]
        if not use.alone or not updates or not script.loops(use.call):
            continue
        # With other updates of the scaler in the loop, the iteration may still be closed.
        if len(program.same(use, "update")) != 1 or "torch" not in script.imports:
            continue
        clip = next((c for c in clips_after(program, use) if script.statement(c) in rest), None)
        names = loss_names(program, use)
        if not names:
            continue
        pad = script.indent(use.stmt)
        text = f"if not torch.isfinite({names[0]}):\n{pad}    {MARK}continue"
        anchor = use.stmt if clip is None else script.statement(clip)
        if script.owns_lines(anchor) and isinstance(anchor, ast.Expr | ast.Assign):
            yield change(script, inserted_after(script, anchor, MARK + text))


def loss_names(program: Program, use: Use) -> list[str]:
    return [
        each.argument.id
        for each in program.beside(use, "scale")
        if isinstance(each.argument, ast.Name)
    ]


@operator("sanitized-gradients")
def nan_to_num(program: Program) -> Iterator[Change]:
    """nan_to_num on the gradients before the scaler has looked at them."""
    for use in program.of("step"):
        script = use.script
        target = before_unscaling(program, use)
        model = parameters_of(program, script, use.argument)
        if target is None or model is None or "torch" not in script.imports:
            continue
        if not program.same(use, "scale"):
            continue
        pad = script.indent(target)
        text = (
            f"{MARK}for parameter in {model}.parameters():\n"
            f"{pad}    {MARK}parameter.grad = torch.nan_to_num(parameter.grad)"
        )
        yield change(script, inserted_before(script, target, text))


@operator("scaled-gradient-read")
def norm_of_scaled(program: Program) -> Iterator[Change]:
    """A gradient norm is printed while the gradients are scaled."""
    for use in program.of("step"):
        script = use.script
        target = before_unscaling(program, use)
        model = parameters_of(program, script, use.argument)
        if target is None or model is None or not program.same(use, "scale"):
            continue
        text = f"{MARK}print(max(p.grad.norm().item() for p in {model}.parameters() if p.grad is not None))"
        yield change(script, inserted_before(script, target, text))
