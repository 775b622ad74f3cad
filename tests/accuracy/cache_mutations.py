"""Mistakes with what a region keeps, and with where it reaches (MP211, MP213, MP216), and MP301."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .dtype_mutations import half_outputs
from .mutation import MARK, Change, change, operator
from .nets import nets, parameters_of
from .order_mutations import inserted_after, inserted_before
from .roles import Program
from .script import Script


def forwards(program: Program) -> Iterator[tuple[Script, ast.Assign, str, str]]:
    """(script, statement, network, inputs) where a network runs in a region, as they are spelled."""
    for script, stmt, _ in half_outputs(program):
        call = stmt.value
        if isinstance(call, ast.Call) and not call.keywords and len(call.args) == 1:
            if not isinstance(call.args[0], ast.Starred):
                yield script, stmt, ast.unparse(call.func), ast.unparse(call.args[0])


@operator("no-grad-poisons-cache")
def no_grad_first(program: Program) -> Iterator[Change]:
    """The network runs without gradients just before it runs with them."""
    for script, stmt, net, inputs in forwards(program):
        pad = script.indent(stmt)
        text = f"with torch.no_grad():\n{pad}    before = {net}({inputs})"
        yield change(script, inserted_before(script, stmt, text), marks=[stmt])


@operator("cached-casts-in-capture")
def traced_in_region(program: Program) -> Iterator[Change]:
    """The network is traced in the region that keeps its casts."""
    for script, stmt, net, inputs in forwards(program):
        text = f"{MARK}traced = torch.jit.trace({net}, {inputs})"
        yield change(script, inserted_after(script, stmt, text))


@operator("autocast-across-threads")
def in_a_thread(program: Program) -> Iterator[Change]:
    """The network runs in a thread of its own, where the region is not entered."""
    for script, stmt, net, inputs in forwards(program):
        pad = script.indent(stmt)
        text = (
            f"import threading\n\n{pad}def job(batch):\n{pad}    {MARK}{net}(batch)\n\n"
            f"{pad}thread = threading.Thread(target=job, args=({inputs},))\n"
            f"{pad}thread.start()\n{pad}thread.join()"
        )
        yield change(script, inserted_after(script, stmt, text))


@operator("half-parameters")
def bfloat16_model(program: Program) -> Iterator[Change]:
    """`.bfloat16()` on the model that a plain optimizer trains."""
    owned = ("accelerate", "lightning")  # whoever prepares the optimizer knows what it does
    if (
        len(program.scripts) > 1
        or program.uses
        or any(o in s.text for s in program.scripts for o in owned)
    ):
        return
    for script, target, _ in nets(program):
        spelled = ast.unparse(target)
        stmt = script.statement(target)
        steps = [c for c in script.calls() if getattr(c.func, "attr", "") == "step" and not c.args]
        trained = [
            c
            for c in steps
            if isinstance(c.func, ast.Attribute)
            and parameters_of(program, script, c.func.value) == spelled
        ]
        if trained and script.owns_lines(stmt) and "float16" not in script.text:
            text = f"{MARK}{spelled}.bfloat16()"
            yield change(script, inserted_after(script, stmt, text), marks=trained)
