"""Mistakes with the scaler beyond its order: arguments, state, what is read or changed (MP110-MP126)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .nets import nets, optimizer_call, parameters_of
from .order_mutations import (
    atom,
    clips_after,
    counts,
    divided,
    drop,
    float16_only,
    inserted_after,
    inserted_before,
    only_phase,
    plain_backwards,
    script_line,
)
from .roles import SCALERS, Program, Use, after
from .script import Script, assignments, keyword

SCHEDULERS = "torch.optim.lr_scheduler."


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
    """The scaler's entry is taken out of a checkpoint that holds the optimizer's state."""
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


@operator("closure-with-scaler")
def closure_given(program: Program) -> Iterator[Change]:
    """A closure goes to step()."""
    for use in program.of("step"):
        if len(use.call.args) == 1 and not use.call.keywords:
            at = use.script.end(use.call) - 1
            yield change(use.script, (at, at, ", closure=lambda: 0.0"), marks=[use.call])


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


@operator("bad-scaler-argument")
def flag_in_place_of_device(program: Program) -> Iterator[Change]:
    """`GradScaler(False)`, `GradScaler(2.0**16)`: the first argument of torch.amp's scaler is the device."""
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
            for word in ("False", "2.0**16"):
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
