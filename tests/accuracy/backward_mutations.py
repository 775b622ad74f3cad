"""Losses that are not scaled, or a scaler that is not there (MP101, MP102)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import atom, float16_only, only_phase
from .roles import Program
from .script import unstarred


@operator("unscaled-backward")
def backward_without_scale(program: Program) -> Iterator[Change]:
    """`scaler.scale(loss).backward()` becomes `loss.backward()`."""
    for use in program.of("scale"):
        if use.backward is None or use.argument is None or not only_phase(program, use):
            continue
        text = atom(use.argument, use.script.source(use.argument))
        yield change(
            use.script,
            (use.script.start(use.call), use.script.end(use.call), MARK + text),
        )


@operator("unscaled-backward")
def discard_scale(program: Program) -> Iterator[Change]:
    """`scaler.scale(loss)` as a statement, and `loss.backward()` in the next line."""
    for use in program.of("scale"):
        if use.backward is None or not use.alone or not only_phase(program, use):
            continue
        if not isinstance(use.argument, ast.Name | ast.Attribute) or not unstarred(use.call):
            continue
        script, loss = use.script, use.script.source(use.argument)
        rest = script.text[script.end(use.call) : script.end(use.backward)]
        yield change(
            script,
            (
                script.start(use.call),
                script.end(use.backward),
                f"{script.source(use.call)}\n{script.indent(use.stmt)}{MARK}{loss}{rest}",
            ),
        )


@operator("unscaled-backward")
def scaled_variable_not_used(program: Program) -> Iterator[Change]:
    """`scaled = scaler.scale(loss)` stays, and `loss.backward()` runs instead of `scaled.backward()`."""
    for use in program.of("scale"):
        stmt, script = use.stmt, use.script
        if use.backward or not isinstance(stmt, ast.Assign) or stmt.value is not use.call:
            continue
        target = stmt.targets[0]
        if not isinstance(target, ast.Name) or not isinstance(use.argument, ast.Name):
            continue
        if target.id == use.argument.id or not only_phase(program, use):
            continue
        function = script.function(stmt) or script.tree
        calls = [
            call
            for call in script.calls(function)
            if isinstance(call.func, ast.Attribute)
            and call.func.attr == "backward"
            and isinstance(call.func.value, ast.Name)
            and call.func.value.id == target.id
        ]
        if len(calls) == 1:
            name = calls[0].func.value
            yield change(script, (script.start(name), script.end(name), MARK + use.argument.id))


@operator("missing-grad-scaler")
def no_scaler(program: Program) -> Iterator[Change]:
    """The scaler is taken out: float16 trains without loss scaling."""
    for script in program.scripts:
        uses = [use for use in program.uses if use.script is script]
        made = frozenset().union(*(use.made for use in uses)) if uses else frozenset()
        if not uses or any(use.made != uses[0].made for use in uses):
            continue
        if any(use.script is not script for use in program.uses):
            continue
        if not all(any(call is node for node in ast.walk(script.tree)) for call in made):
            continue
        if any(not program.live(call) or call.keywords or len(call.args) > 1 for call in made):
            continue  # enabled=..., init_scale=...: without it, another meaning
        if not all(use.alone for use in uses) or any(
            use.kind == "scale" and (use.backward is None or use.argument is None) for use in uses
        ):
            continue
        if not float16_only(program, script):
            continue
        edits, known = [], set()
        for use in uses:
            known.update(ast.walk(use.call))
            stmt = use.stmt
            if use.kind == "scale":
                text = atom(use.argument, script.source(use.argument))
                edits.append((script.start(use.call), script.end(use.call), MARK + text))
            elif use.kind == "step":
                if len(use.call.args) != 1:
                    break
                text = atom(use.argument, script.source(use.argument))
                edits.append((script.start(use.call), script.end(use.call), f"{text}.step()"))
            else:
                edits.append((script.start(stmt), script.end(stmt), "pass"))
        else:
            # Any other mention (a condition on the scaler, a checkpoint) makes it another program.
            names = {use.scaler for use in uses}
            mentions = [
                node
                for node in ast.walk(script.tree)
                if isinstance(node, ast.Name | ast.Attribute)
                and isinstance(node.ctx, ast.Load)
                and ast.unparse(node) in names
                and node not in known
            ]
            if not mentions:
                yield change(script, *edits)
