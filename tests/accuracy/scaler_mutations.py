"""Mistakes with the scaler beyond its order: arguments, state, what is read or changed (MP110-MP126)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .nets import nets, parameters_of
from .order_mutations import (
    float16_only,
    inserted_after,
    inserted_before,
)
from .roles import SCALERS, Program
from .script import Script, assignments, keyword

SCHEDULERS = "torch.optim.lr_scheduler."


@operator("scaler-with-bfloat16")
def bfloat16_with_scaler(program: Program) -> Iterator[Change]:
    """The regions change to bfloat16, and the scaler stays."""
    for script in program.scripts:
        made = {call for use in program.uses if use.script is script for call in use.made}
        regions = [call for _, _, call in program.regions(script)]
        if not made or not regions or not float16_only(program, script):
            continue
        if (
            any(keyword(call, "enabled") is not None for call in made)
            or "torch" not in script.imports
        ):
            continue
        # A region that is built elsewhere (a decorator, a partial) would stay in float16.
        if script.text.count("autocast(") != len(regions):
            continue
        if len(program.scripts) > 1 or any(call not in set(ast.walk(script.tree)) for call in made):
            continue
        edits = []
        for call in regions:
            dtype = keyword(call, "dtype")
            if dtype is not None:
                edits.append((script.start(dtype), script.end(dtype), "torch.bfloat16"))
            else:
                at = script.end(call) - 1
                comma = ", " if call.args or call.keywords else ""
                edits.append((at, at, f"{comma}dtype=torch.bfloat16"))
        yield change(script, *edits, marks=[*regions, *made])


@operator("scaler-not-checkpointed")
def state_not_saved(program: Program) -> Iterator[Change]:
    """The scaler's entry is taken out of a checkpoint that holds the optimizer's state, to be read again."""
    if not any(resumes(script) for script in program.scripts):
        return
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if (
                not isinstance(node, ast.Dict)
                or None in node.keys
                or "torch.save" not in script.text
            ):
                continue
            mine = [
                (key, value)
                for key, value in zip(node.keys, node.values, strict=True)
                if is_state(program, script, value)
            ]
            others = [v for v in node.values if is_optimizer_state(program, script, v)]
            if len(mine) != 1 or not others:
                continue
            if script.text.count(script.source(mine[0][1])) > 1:
                continue  # saved in another place as well
            key, value = mine[0]
            start, end = script.start(key), script.end(value)
            tail = script.text[end:]
            if tail.lstrip().startswith(","):
                end += len(tail) - len(tail.lstrip()) + 1
                if script.text[end : end + 1] == " ":
                    end += 1
            else:
                start = script.text.rfind(",", 0, start)
            function = script.function(node) or script.tree
            saves = [
                call
                for call in script.calls(function)
                if script.qualified(call.func) == "torch.save"
            ]
            yield change(script, (start, end, ""), marks=[node, *others, *saves])


def is_state(program: Program, script: Script, value: ast.expr) -> bool:
    """Whether a value is the state_dict() of a GradScaler."""
    if not (isinstance(value, ast.Call) and getattr(value.func, "attr", "") == "state_dict"):
        return False
    slot = program.slot(script, value.func.value)
    return slot is not None and any(map(program.live, program.scalers.get(slot, ())))


def resumes(script: Script) -> bool:
    """Whether a script loads what may be an optimizer's state."""
    return any(
        isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "load_state_dict"
        and "opt" in script.source(node)
        for node in ast.walk(script.tree)
    )


def is_optimizer_state(program: Program, script: Script, value: ast.expr) -> bool:
    return (
        isinstance(value, ast.Call)
        and getattr(value.func, "attr", "") == "state_dict"
        and ast.unparse(value.func.value).split(".")[-1].startswith(("opt", "adam", "sgd"))
    )


@operator("scheduler-before-step")
def scheduler_first(program: Program) -> Iterator[Change]:
    """The scheduler's step() moves before the optimizer's, in the same block."""
    for script, _, stmt in scheduler_steps(program):
        before = script.preceding(stmt)
        steps = [
            u for u in program.of("step") if u.script is script and u.stmt in before and u.alone
        ]
        if not steps or not script.owns_lines(stmt):
            continue
        target = steps[0].stmt
        yield change(
            script,
            inserted_before(script, target, MARK + script.source(stmt)),
            (script.start(stmt), script.end(stmt), "pass"),
        )


def scheduler_steps(program: Program) -> Iterator[tuple[Script, ast.Call, ast.stmt]]:
    names = {
        script.qualified(call.func)
        for script in program.scripts
        for call in script.calls()
        if script.qualified(call.func).startswith(SCHEDULERS)
    }
    held = program.holders(frozenset(names))
    for script in program.scripts:
        for call in script.calls():
            if isinstance(call.func, ast.Attribute) and call.func.attr == "step":
                slot = program.slot(script, call.func.value)
                stmt = script.statement(call)
                if slot and held.get(slot) and isinstance(stmt, ast.Expr) and stmt.value is call:
                    yield script, call, stmt


@operator("scheduler-before-step")
def scheduler_added(program: Program) -> Iterator[Change]:
    """A scheduler of the script's optimizer steps before it, once for each batch."""
    for use in program.of("step"):
        script = use.script
        if not use.alone or not isinstance(use.argument, ast.Name) or "torch" not in script.imports:
            continue
        if any(True for _ in scheduler_steps(program)) or len(program.of("step")) != 1:
            continue
        made = next(
            (
                script.statement(value)
                for target, value in assignments(script.tree)
                if isinstance(target, ast.Name)
                and program.slot(script, target) == program.slot(script, use.argument)
                and isinstance(value, ast.Call)
                and script.qualified(value.func).startswith("torch.optim.")
            ),
            None,
        )
        if made is None or script.function(made) is not script.function(use.call):
            continue
        # Made before the loop, stepped in it.
        if not script.owns_lines(made) or script.loops(made) or not script.loops(use.call):
            continue
        name = use.argument.id
        yield change(
            script,
            inserted_after(
                script,
                made,
                f"schedule = torch.optim.lr_scheduler.ExponentialLR({name}, gamma=0.999)",
            ),
            inserted_before(script, use.stmt, f"{MARK}schedule.step()"),
        )


@operator("closure-with-scaler")
def closure_given(program: Program) -> Iterator[Change]:
    """A closure goes to step()."""
    for use in program.of("step"):
        if len(use.call.args) == 1 and not use.call.keywords:
            at = use.script.end(use.call) - 1
            yield change(use.script, (at, at, ", closure=lambda: 0.0"), marks=[use.call])


@operator("bad-scaler-argument")
def flag_in_place_of_device(program: Program) -> Iterator[Change]:
    """`GradScaler(True)`, `GradScaler(2.0**16)`: the first argument of torch.amp's scaler is the device."""
    for script in program.scripts:
        for call in script.calls():
            name = script.qualified(call.func)
            if name not in SCALERS or "cuda" in name or "cpu" in name:
                continue
            if any(isinstance(a, ast.Starred) for a in call.args) or any(
                k.arg is None for k in call.keywords
            ):
                continue
            mark = script.start(call)
            for word in ("True", "2.0**16"):
                if not call.args and not call.keywords:
                    at = script.end(call) - 1
                    yield change(script, (at, at, word), (mark, mark, MARK))
                elif call.args:
                    first = call.args[0]
                    if isinstance(first, ast.Constant | ast.Name | ast.Attribute):
                        yield change(
                            script,
                            (script.start(first), script.end(first), word),
                            (mark, mark, MARK),
                        )


@operator("bad-scaler-argument")
def device_type_word(program: Program) -> Iterator[Change]:
    """`GradScaler(device_type=...)`: the word is autocast's, the scaler's is `device`."""
    for script in program.scripts:
        for call in script.calls():
            name = script.qualified(call.func)
            if name in SCALERS and "cuda" not in name and "cpu" not in name and call.args:
                if not isinstance(call.args[0], ast.Starred):
                    at = script.start(call.args[0])
                    yield change(script, (at, at, "device_type="), marks=[call])


@operator("scaler-without-autocast")
def no_region(program: Program) -> Iterator[Change]:
    """Every region of a script is gone, and the scaler stays."""
    for script in program.scripts:
        uses = [use for use in program.uses if use.script is script]
        regions = list(program.regions(script))
        if not uses or not regions or len(program.scripts) > 1:
            continue
        if (
            script.text.count("autocast(") != len(regions)
            or ".half(" in script.text
            or "float16" in script.text.replace("dtype=torch.float16", "")
        ):
            continue
        if any(len(r.items) != 1 or r.items[0].optional_vars for r, _, _ in regions):
            continue
        edits = []
        for region, _, _ in regions:
            colon = script.text.rfind(":", 0, script.start(region.body[0]))
            edits.append((script.start(region), colon + 1, "if True:"))
        # In a context manager's function the forward stands wherever that is entered.
        if any(isinstance(n, ast.Yield) for region, _, _ in regions for n in ast.walk(region)):
            continue
        # The place is the forward that nothing casts, or the loss: what the regions held, what their
        # calls run, and what follows them.
        inside = [node for region, _, _ in regions for node in region.body]
        called = {
            getattr(call.func, "attr", None) or getattr(call.func, "id", None)
            for node in inside
            for call in script.calls(node)
        }
        inside += [node for region, _, _ in regions for node in script.following(region)]
        inside += [
            node
            for function in ast.walk(script.tree)
            if isinstance(function, ast.FunctionDef) and function.name in called | {"forward"}
            for node in function.body
        ]
        yield change(script, *edits, marks=[*{u.call for u in uses}, *inside])


@operator("scaler-with-half-parameters")
def half_model(program: Program) -> Iterator[Change]:
    """`.half()` on the model that the optimizer trains."""
    for script, target, _ in nets(program):
        uses = [u for u in program.uses if u.script is script]
        if len(program.scripts) > 1 or not uses or ".half(" in script.text:
            continue
        stepped = {parameters_of(program, script, u.argument) for u in uses if u.kind == "step"}
        if ast.unparse(target) not in stepped:
            continue
        stmt = script.statement(target)
        text = f"{ast.unparse(target)}.half()"
        if script.owns_lines(stmt):
            yield change(
                script,
                inserted_after(script, stmt, MARK + text),
                marks=[
                    *(u.call for u in uses if u.kind in ("step", "unscale")),
                    *{c for u in uses for c in u.made if c in set(ast.walk(script.tree))},
                ],
            )
