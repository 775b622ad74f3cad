"""Mistakes with update(): too early, too often, for each optimizer (MP107, MP108)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import counts, inserted_after, script_line
from .roles import Program


@operator("update-before-step")
def update_first(program: Program) -> Iterator[Change]:
    """`update()` and `step()` exchanged."""
    for use in program.of("update"):
        script = use.script
        before = script.preceding(use.stmt)
        # After unscale_() an update() passes, and the mistake becomes another one.
        if not use.alone or not before or program.same(use, "unscale") or use.call.args:
            continue
        steps = program.beside(use, "step")
        step = next((each for each in steps if each.stmt is before[-1]), None)
        if step is None or not step.alone or step.scaler != use.scaler:
            continue
        # With other steps before, something has been stepped when update() runs.
        if len(steps) > 1 or len(program.same(use, "step")) > 1:
            continue
        yield change(
            script,
            (script.start(step.stmt), script.end(step.stmt), MARK + script.source(use.stmt)),
            (script.start(use.stmt), script.end(use.stmt), script.source(step.stmt)),
        )


@operator("update-before-step")
def update_twice(program: Program) -> Iterator[Change]:
    """A second update() right behind the first: nothing was stepped since."""
    for use in program.of("update"):
        if use.alone and not use.call.args and not use.call.keywords:
            text = use.script.source(use.stmt)
            yield change(use.script, inserted_after(use.script, use.stmt, MARK + text))


@operator("update-before-step")
def update_per_micro_batch(program: Program) -> Iterator[Change]:
    """update() moves behind the guard that lets only some iterations step."""
    for use in program.of("update"):
        script = use.script
        guard = script.parent(use.stmt)
        if not use.alone or not isinstance(guard, ast.If) or guard.orelse:
            continue
        if use.stmt not in guard.body or not counts(guard.test) or not script.loops(guard):
            continue
        if not any(step.stmt in guard.body for step in program.beside(use, "step")):
            continue
        if len(guard.body) == 1 or script.text[script.start(guard) :].startswith("elif"):
            continue
        # The other iterations go on behind the guard only if it does not leave the loop.
        if any(isinstance(n, ast.Continue | ast.Break | ast.Return) for n in ast.walk(guard)):
            continue
        if not any(
            script.loops(each.call)[:1] == script.loops(guard)[:1]
            for each in program.beside(use, "scale")
        ):
            continue
        at = script.line_end(script.end(guard))
        yield change(
            script,
            (script.line_start(script.start(use.stmt)), script.line_end(script.end(use.stmt)), ""),
            (at, at, f"{script.indent(guard)}{MARK}{script.source(use.stmt)}\n"),
        )


@operator("update-before-step")
def step_twice(program: Program) -> Iterator[Change]:
    """The same step() once more before update()."""
    for use in program.of("step"):
        rest = use.script.following(use.stmt)
        if not use.alone or not any(
            update.stmt in rest for update in program.beside(use, "update")
        ):
            continue
        text = use.script.source(use.stmt)
        if "\n" not in text:
            yield change(use.script, inserted_after(use.script, use.stmt, MARK + text))


@operator("repeated-scaler-update")
def update_per_optimizer(program: Program) -> Iterator[Change]:
    """An update() of its own behind each of several steps of one backward phase."""
    for use in program.of("update"):
        script, line = use.script, script_line(program, use)
        steps = []
        for each in reversed(line[: line.index(use)]):
            if each.kind != "step":
                break
            steps.append(each)
        if not use.alone or len(steps) < 2 or use.call.args:
            continue
        first, second = steps[-1], steps[-2]
        if not first.alone or not (first.argument and second.argument):
            continue
        if ast.dump(first.argument) == ast.dump(second.argument):
            continue
        text = script.source(use.stmt)
        yield change(script, inserted_after(script, first.stmt, MARK + text), marks=[])
