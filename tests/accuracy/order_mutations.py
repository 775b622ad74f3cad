"""Mistakes in the order of the GradScaler protocol: steps left out, doubled, exchanged (MP101-MP108)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .roles import Program, Use, after
from .script import Script, names_in


def drop(use: Use) -> tuple[int, int, str]:
    """Put `pass` in the place of a statement."""
    stmt = use.stmt
    return (use.script.start(stmt), use.script.end(stmt), "pass")


def inserted_after(script: Script, stmt: ast.stmt, text: str) -> tuple[int, int, str]:
    """A new line behind a statement, as deep as it."""
    at = script.line_end(script.end(stmt))
    return (at, at, f"{script.indent(stmt)}{text}\n")


def inserted_before(script: Script, stmt: ast.stmt, text: str) -> tuple[int, int, str]:
    at = script.line_start(script.start(stmt))
    return (at, at, f"{script.indent(stmt)}{text}\n")


def atom(node: ast.expr, text: str) -> str:
    """A source text that an attribute can be taken of."""
    plain = (ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.List, ast.Dict, ast.Tuple)
    return text if isinstance(node, plain) else f"({text})"


def only_phase(program: Program, use: Use) -> bool:
    """Whether a scaled backward is the only one of its phase: a step of its scaler follows it, and no
    other backward of a live scaler lies between the step before and that step."""
    others = program.same(use, "scale")
    if not program.same(use, "step"):
        return False
    # A plain backward that runs as well: then only one of two losses is scaled.
    function = use.script.function(use.call)
    if any(
        use.script.function(call) is function and not use.script.exclusive(call, use.call)
        for call in plain_backwards(program, use.script)
    ):
        return False
    if all(
        use.script.exclusive(use.call, each.call) for each in others if each.script is use.script
    ):
        if all(each.script is use.script for each in others):
            return True
    line = sorted([use, *program.beside(use, "scale", "step")], key=lambda each: each.place)
    index = line.index(use)
    following = line[index + 1 :]
    earlier = line[:index]
    if not following or following[0].kind != "step":
        return False
    # The steps of other optimizers may belong to the same phase: look back over them to the backward.
    return not earlier or earlier[-1].kind == "step"


def plain_backwards(program: Program, script: Script) -> list[ast.Call]:
    """The backward() calls of a file on losses that are not the result of scale() there and then."""
    scaled = {use.backward for use in program.of("scale")}
    names = {
        target.id
        for use in program.of("scale")
        if isinstance(use.stmt, ast.Assign)
        for target in use.stmt.targets
        if isinstance(target, ast.Name)
    }
    return [
        call
        for call in script.calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "backward"
        and call not in scaled
        and getattr(call.func.value, "id", None) not in names
    ]


@operator("missing-scaler-update")
def drop_update(program: Program) -> Iterator[Change]:
    """No update() is left for the steps of this scaler."""
    for use in program.of("update"):
        steps = program.same(use, "step")
        # Another update() on the way, or in a function that may run in turn, makes up for this one.
        others = program.same(use, "update")
        if not use.alone or not steps or use.call.args:
            continue
        if any(
            each.script is not use.script or not never_in_turn(use.script, use.call, each.call)
            for each in others
        ):
            continue
        near = [
            each
            for each in steps
            if each.script is not use.script or not use.script.exclusive(use.call, each.call)
        ]
        yield change(use.script, drop(use), elsewhere=[(each.script, each.call) for each in near])


@operator("clip-before-unscale")
def drop_unscale(program: Program) -> Iterator[Change]:
    """The only unscale_() before a clip is gone."""
    for use in program.of("unscale"):
        # With two unscale_ calls before one clip, one of them missing is `mismatched-optimizer`.
        if not use.alone or program.beside(use, "unscale") or divided(program, use.script):
            continue
        clips = clips_after(program, use)
        if clips:
            yield change(use.script, drop(use), marks=clips)


def never_in_turn(script: Script, one: ast.AST, other: ast.AST) -> bool:
    """Whether two nodes stand in exclusive branches of a condition that a loop around it never changes."""
    if not script.exclusive(one, other):
        return False
    above = set(script.above(other))
    common = next(node for node in script.above(one) if node in above)
    if not isinstance(common, ast.If | ast.IfExp):
        return False
    loops = script.loops(common)
    return not names_in([common.test], ast.Load) & names_in(loops[-1:], ast.Store)


def divided(program: Program, script: Script) -> bool:
    """Whether a file asks for the scale: it may unscale by hand, or multiply the limit by it."""
    return any(
        isinstance(node, ast.Attribute) and node.attr in ("get_scale", "_scale")
        for node in ast.walk(script.tree)
    )


def clips_after(program: Program, use: Use) -> list[ast.Call]:
    """The clips that run between an unscale_() and the step after it; those of functions of the file
    that are called there are included."""
    script = use.script
    function = script.function(use.call)
    steps = [each for each in program.beside(use, "step") if after(each, use)]
    if not steps:
        return []
    limit = min(each.place for each in steps)
    found = []
    everywhere = program.clips(script)
    for call in script.calls(function or script.tree):
        place = (call.end_lineno or 0, call.end_col_offset or 0)
        if not use.place < place < limit or script.exclusive(use.call, call):
            continue
        if script.function(call) is not function:
            continue
        if call in everywhere and limited(call):
            found.append(call)
            continue
        name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
        found += [
            clip
            for clip in everywhere
            if limited(clip)
            and (owner := script.function(clip)) is not None
            and owner is not function
            and owner.name == name
        ]
    return found


def limited(clip: ast.Call) -> bool:
    """Whether a clip really clips: not `max_norm=inf`, which only reads the norm."""
    return "inf" not in ast.unparse(clip)


@operator("clip-before-unscale")
def swap_clip_and_unscale(program: Program) -> Iterator[Change]:
    """The clip stands in the line before unscale_()."""
    for use in program.of("unscale"):
        script = use.script
        if not use.alone or program.beside(use, "unscale") or divided(program, script):
            continue
        rest = script.following(use.stmt)
        if (
            not rest
            or not script.owns_lines(rest[0])
            or not isinstance(rest[0], ast.Expr | ast.Assign)
        ):
            continue
        clip = next((c for c in program.clips(script) if script.statement(c) is rest[0]), None)
        if clip is None or not limited(clip):
            continue
        first, second = use.stmt, rest[0]
        one, other = script.source(first), script.source(second)
        yield change(
            script,
            (script.start(first), script.end(first), MARK + other),
            (script.start(second), script.end(second), one),
        )


@operator("unscaled-step")
def step_directly(program: Program) -> Iterator[Change]:
    """`scaler.step(optimizer)` becomes `optimizer.step()`."""
    for use in program.of("step"):
        if len(use.call.args) != 1 or use.call.keywords or use.argument is None:
            continue
        # After unscale_() the gradients are right, and only the check for infinities is lost.
        if program.same(use, "unscale") or divided(program, use.script):
            continue
        if isinstance(use.argument, ast.Starred):
            continue
        text = atom(use.argument, use.script.source(use.argument))
        yield change(
            use.script,
            (use.script.start(use.call), use.script.end(use.call), f"{MARK}{text}.step()"),
        )


@operator("double-unscale")
def second_unscale(program: Program) -> Iterator[Change]:
    """The same unscale_() once more, in the next line."""
    for use in program.of("unscale"):
        if use.alone:
            text = use.script.source(use.stmt)
            if "\n" not in text:
                yield change(use.script, inserted_after(use.script, use.stmt, MARK + text))


@operator("double-unscale")
def second_unscale_before_step(program: Program) -> Iterator[Change]:
    """unscale_() once more, right before step(), after whatever the script did with the gradients."""
    for use in program.of("unscale"):
        for step in program.beside(use, "step"):
            script = use.script
            if not (use.alone and step.alone and after(step, use)) or not use.argument:
                continue
            if not step.argument or ast.dump(use.argument) != ast.dump(step.argument):
                continue
            text = script.source(use.stmt)
            if "\n" in text or script.block(use.stmt)[0] is not script.block(step.stmt)[0]:
                continue
            yield change(script, inserted_before(script, step.stmt, MARK + text))


@operator("double-unscale")
def unscale_per_micro_batch(program: Program) -> Iterator[Change]:
    """unscale_() (and its clip) move out of the guard that lets only some iterations step."""
    for use in program.of("unscale"):
        script = use.script
        guard = script.parent(use.stmt)
        if not use.alone or not isinstance(guard, ast.If) or not script.owns_lines(use.stmt):
            continue
        # Only a guard by counting: other conditions may hold in every iteration.
        if not counts(guard.test) or not script.loops(guard):
            continue
        body = guard.body
        if use.stmt not in body or not any(
            step.stmt in body and after(step, use) for step in program.beside(use, "step")
        ):
            continue
        # The backward must run in every iteration of the same loop, in the same function.
        scales = program.beside(use, "scale")
        if not any(
            script.loops(each.call)[:1] == script.loops(guard)[:1] and not after(each, use)
            for each in scales
        ):
            continue
        # What unscale_ itself needs must be there before the guard.
        index = body.index(use.stmt)
        moved = [use.stmt]
        clips = program.clips(script)
        if index + 1 < len(body) and any(script.statement(c) is body[index + 1] for c in clips):
            moved.append(body[index + 1])
        if index != 0 or not all(map(script.owns_lines, moved)):
            continue
        if len(body) == len(moved) or script.text[script.start(guard) :].startswith("elif"):
            continue
        lines = [
            f"{script.indent(guard)}{MARK if stmt is use.stmt else ''}{script.source(stmt)}\n"
            for stmt in moved
        ]
        if any("\n" in script.source(stmt) for stmt in moved):
            continue
        at = script.line_start(script.start(guard))
        yield change(
            script,
            (at, at, "".join(lines)),
            *(
                (script.line_start(script.start(s)), script.line_end(script.end(s)), "")
                for s in moved
            ),
        )


def counts(test: ast.expr) -> bool:
    """Whether a condition counts: it holds `%`, or compares an order of two numbers."""
    return any(
        (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod))
        or (
            isinstance(node, ast.Compare)
            and isinstance(node.ops[0], ast.GtE | ast.Gt)
            and not isinstance(node.comparators[0], ast.Constant)
        )
        for node in ast.walk(test)
    )


def script_line(program: Program, use: Use) -> list[Use]:
    """The uses of a scaler in the same function, in source order."""
    return sorted(
        [use, *program.beside(use, "scale", "step", "update")], key=lambda each: each.place
    )


def float16_only(program: Program, script: Script) -> bool:
    """Whether every region of a file is certainly on and in float16: the CUDA default, or by name."""
    regions = [call for _, _, call in program.regions(script)]
    for call in regions:
        words = {k.arg: k.value for k in call.keywords}
        if "enabled" in words or len(call.args) > 1 or None in words:
            return False
        dtype = words.get("dtype")
        if dtype is not None:
            if script.qualified(dtype) not in ("torch.float16", "torch.half"):
                return False
        else:
            device = call.args[0] if call.args else words.get("device_type")
            modern = "cuda.amp" not in script.qualified(call.func)
            if modern and not (isinstance(device, ast.Constant) and device.value == "cuda"):
                return False
    return bool(regions)
