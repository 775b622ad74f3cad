"""Mistakes in how autocast is asked for and what it covers (MP202-MP216, MP701)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .loss_mutations import CROSS_ENTROPY, loss_calls, sure
from .mutation import MARK, Change, change, operator
from .nets import ends_in_half, nets
from .place_mutations import multiline_string, on
from .roles import AUTOCASTS, SCALERS, Program
from .script import Script, keyword, names_in, unstarred

NEW = frozenset(["torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast"])


def modern_calls(program: Program) -> Iterator[tuple[Script, ast.Call]]:
    """The calls of torch.autocast, wherever they stand."""
    for script in program.scripts:
        for call in script.calls():
            if script.qualified(call.func) in NEW and unstarred(call):
                yield script, call


@operator("bad-autocast-argument")
def flag_as_dtype(program: Program) -> Iterator[Change]:
    """`autocast("cuda", enabled=flag)` becomes `autocast("cuda", flag)`."""
    for script, call in modern_calls(program):
        words = [k.arg for k in call.keywords]
        if (
            len(call.args) != 1
            or "enabled" not in words
            or "dtype" in words
            or words[0] != "enabled"
        ):
            continue
        # A flag by a literal, a comparison, a `not`, an `is`: certainly a bool.
        value = call.keywords[0].value
        certain = isinstance(value, ast.Compare) or isinstance(program.constant(value), bool)
        if certain:
            at = script.start(call.keywords[0])
            yield change(script, (at, script.start(value), ""), marks=[call])


@operator("bad-autocast-argument")
def literal_flag_as_dtype(program: Program) -> Iterator[Change]:
    """`autocast("cuda")` becomes `autocast("cuda", True)`, the old signature's habit."""
    for script, call in modern_calls(program):
        if len(call.args) == 1 and not call.keywords:
            at = script.end(call.args[0])
            yield change(script, (at, at, ", True"), marks=[call])


@operator("bad-autocast-argument")
def dtype_as_text(program: Program) -> Iterator[Change]:
    """`dtype="float16"`."""
    for script, call in modern_calls(program):
        dtype = keyword(call, "dtype")
        if dtype is not None and script.qualified(dtype) in ("torch.float16", "torch.bfloat16"):
            word = script.qualified(dtype).removeprefix("torch.")
            yield change(
                script, (script.start(dtype), script.end(dtype), f'"{word}"'), marks=[call]
            )


@operator("bad-autocast-argument")
def device_object(program: Program) -> Iterator[Change]:
    """`autocast(device.type)` becomes `autocast(device)` where that is a torch.device."""
    devices = program.holders(frozenset(["torch.device"]))
    for script, call in modern_calls(program):
        given = call.args[0] if call.args else keyword(call, "device_type")
        if isinstance(given, ast.Attribute) and given.attr == "type":
            slot = program.slot(script, given.value)
            if slot and devices.get(slot):
                yield change(script, (script.end(given.value), script.end(given), ""), marks=[call])


@operator("bad-autocast-argument")
def no_device(program: Program) -> Iterator[Change]:
    """`torch.autocast()` with no device: the old function's call under the new name."""
    for script, call in modern_calls(program):
        if len(call.args) == 1 and isinstance(call.args[0], ast.Constant):
            end = script.start(call.keywords[0]) if call.keywords else script.end(call) - 1
            yield change(script, (script.start(call.args[0]), end, ""), marks=[call])


@operator("autocast-never-entered")
def decorator_without_call(program: Program) -> Iterator[Change]:
    """`@torch.autocast("cuda")` becomes `@torch.autocast`."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if isinstance(node, ast.FunctionDef):
                for each in node.decorator_list:
                    if isinstance(each, ast.Call) and script.qualified(each.func) in AUTOCASTS:
                        yield change(
                            script,
                            (script.end(each.func), script.end(each), ""),
                            marks=[each],
                        )


@operator("forward-outside-autocast")
def forward_before_region(program: Program) -> Iterator[Change]:
    """The call of the network moves out of the region, which keeps the loss."""
    held = {program.slot(s, t) for s, t, _ in nets(program)}
    for script in program.scripts:
        for region, _, call in program.regions(script):
            first = region.body[0]
            if len(region.body) < 2 or not on(program, call) or not script.owns_lines(first):
                continue
            value = getattr(first, "value", None)
            if not (isinstance(first, ast.Assign) and isinstance(value, ast.Call)):
                continue
            slot = program.slot(script, value.func)
            if slot is None or slot not in held:
                continue
            # What is left must hold no forward of its own.
            rest = region.body[1:]
            if any(program.slot(script, c.func) in held for s in rest for c in script.calls(s)):
                continue
            if multiline_string(script, first, first) or "\n" in script.source(first):
                continue
            at = script.line_start(script.start(region))
            yield change(
                script,
                (at, at, f"{script.indent(region)}{MARK}{script.source(first)}\n"),
                (script.line_start(script.start(first)), script.line_end(script.end(first)), ""),
                marks=[call],
            )


@operator("loss-outside-autocast")
def loss_behind_region(program: Program) -> Iterator[Change]:
    """The loss of a float16 output is computed behind the region."""
    held = {program.slot(s, t): (s, c) for s, t, c in nets(program)}
    losses = {call for _, call in loss_calls(program, CROSS_ENTROPY)}
    for script in program.scripts:
        for region, _, call in program.regions(script):
            last = region.body[-1]
            if not sure(script, call) or len(region.body) != 2 or len(region.items) != 1:
                continue
            first = region.body[0]
            if not (isinstance(first, ast.Assign) and isinstance(first.value, ast.Call)):
                continue
            net = held.get(program.slot(script, first.value.func))
            if net is None or not ends_in_half(*net) or not script.owns_lines(last):
                continue
            if not isinstance(last, ast.Assign) or last.value not in losses:
                continue
            given = last.value.args[:1]
            if not given or ast.unparse(given[0]) != ast.unparse(first.targets[0]):
                continue
            if "\n" in script.source(last):
                continue
            yield change(
                script,
                (
                    script.line_start(script.start(last)),
                    script.line_end(script.end(last)),
                    f"{script.indent(region)}{MARK}{script.source(last)}\n",
                ),
            )


@operator("dead-amp-branch")
def device_compared_with_text(program: Program) -> Iterator[Change]:
    """`device.type == "cuda"` becomes `device == "cuda"`, which is never true."""
    devices = program.holders(frozenset(["torch.device"]))
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if not isinstance(node, ast.Compare) or not isinstance(
                node.comparators[0], ast.Constant
            ):
                continue
            # A branch that has nothing to do with mixed precision is dead as well, and not ours.
            words = script.source(script.statement(node)).lower()
            if not any(word in words for word in ("amp", "autocast", "scaler", "float16", "half")):
                continue
            left = node.left
            if (
                isinstance(left, ast.Attribute)
                and left.attr == "type"
                and node.comparators[0].value == "cuda"
            ):
                slot = program.slot(script, left.value)
                if slot and devices.get(slot):
                    yield change(
                        script, (script.end(left.value), script.end(left), ""), marks=[node]
                    )


@operator("half-into-disabled-autocast")
def no_float_before_disabled(program: Program) -> Iterator[Change]:
    """`.float()` is taken from what enters a region that is switched off inside one that is on."""
    for script in program.scripts:
        everything = {call: region for region, _, call in program.regions(script)}
        for call, region in everything.items():
            enabled = keyword(call, "enabled")
            if not (isinstance(enabled, ast.Constant) and enabled.value is False):
                continue
            outer = [
                c
                for c, r in everything.items()
                if r is not region and r in set(script.above(region)) and on(program, c)
            ]
            if not outer:
                continue
            # Only what the outer region makes by calling something of the program: a network's output.
            made = {
                name
                for stmt in everything[outer[0]].body
                if isinstance(stmt, ast.Assign)
                and isinstance(stmt.value, ast.Call)
                and not script.qualified(stmt.value.func)
                for target in stmt.targets
                for name in names_in([target], ast.Store)
            }
            for each in script.calls(region):
                func = each.func
                if isinstance(func, ast.Attribute) and func.attr == "float" and not each.args:
                    if isinstance(func.value, ast.Name) and func.value.id in made:
                        if not computed_with(script, each):
                            continue
                        yield change(
                            script,
                            (script.end(func.value), script.end(each), ""),
                            marks=[each, region, script.statement(each)],
                        )


def computed_with(script: Script, cast: ast.Call) -> bool:
    """Whether torch itself computes with a cast tensor, there and then: who knows what others do.

    A product with a float32 tensor, or its distribution, is float32 with the cast and without.
    """
    parent = script.parent(cast)
    if isinstance(parent, ast.Call):
        return parent.args[:1] == [cast] and script.qualified(parent.func).startswith("torch.nn.f")
    line = [each for each in script.above(cast) if isinstance(each, ast.expr)]
    above = next((each for each in line if isinstance(each, ast.Attribute)), None)
    return above is not None and above.attr in ("pow", "exp", "log", "softmax", "log_softmax")


@operator("misused-custom-fwd")
def custom_fwd_without_device(program: Program) -> Iterator[Change]:
    """`@custom_fwd(device_type="cuda")` becomes `@custom_fwd`, the old function's form."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if isinstance(node, ast.FunctionDef):
                for each in node.decorator_list:
                    if isinstance(each, ast.Call) and script.qualified(each.func) in (
                        "torch.amp.custom_fwd",
                        "torch.amp.custom_bwd",
                    ):
                        yield change(
                            script,
                            (script.end(each.func), script.end(each), ""),
                            marks=[each, node],
                        )


@operator("misused-custom-fwd")
def one_of_the_pair(program: Program) -> Iterator[Change]:
    """custom_fwd without custom_bwd."""
    yield from _without(program, ("torch.amp.custom_bwd",))


@operator("unprotected-autograd-function")
def no_custom_fwd(program: Program) -> Iterator[Change]:
    """A custom function with matrix products loses both decorators."""
    yield from _without(program, ("torch.amp.custom_fwd", "torch.amp.custom_bwd"))


def _without(program: Program, names: tuple[str, ...]) -> Iterator[Change]:
    for script in program.scripts:
        for owner in ast.walk(script.tree):
            if not isinstance(owner, ast.ClassDef) or not any(
                "Function" in ast.unparse(b) for b in owner.bases
            ):
                continue
            text = script.source(owner)
            if not any(word in text for word in ("matmul", ".mm(", "@ ", "linear", "bmm", "conv")):
                continue
            gone = [
                each
                for node in owner.body
                if isinstance(node, ast.FunctionDef)
                for each in node.decorator_list
                if script.qualified(each.func if isinstance(each, ast.Call) else each) in names
            ]
            if len(gone) != len(names):
                continue
            # With cast_inputs both halves see the same dtype, and one decorator alone does no harm.
            if len(names) == 1 and "cast_inputs" in text:
                continue
            edits = [
                (script.line_start(script.start(each)), script.line_end(script.end(each)), "")
                for each in gone
            ]
            marks = [owner, *(n for n in owner.body if isinstance(n, ast.FunctionDef))]
            marks += [d for n in marks[1:] for d in n.decorator_list if d not in gone]
            # The products in backward are where the dtypes meet.
            marks += [s for n in owner.body if isinstance(n, ast.FunctionDef) for s in n.body]
            yield change(script, *edits, marks=marks)


@operator("manual-half-cast")
def half_input(program: Program) -> Iterator[Change]:
    """`model(x)` becomes `model(x.half())` in a float16 region."""
    held = {program.slot(s, t) for s, t, _ in nets(program)}
    for script in program.scripts:
        for region, _, made in program.regions(script):
            if not sure(script, made):
                continue
            for stmt in region.body:
                for call in script.calls(stmt):
                    if program.slot(script, call.func) in held and len(call.args) == 1:
                        given = call.args[0]
                        # What a region has made is in half already.
                        made_here = names_in(
                            [n for r, _, _ in program.regions(script) for n in r.body], ast.Store
                        )
                        if isinstance(given, ast.Name) and given.id not in made_here:
                            at = script.end(given)
                            yield change(script, (at, at, ".half()"), marks=[call])


@operator("deprecated-torch-amp")
def old_names(program: Program) -> Iterator[Change]:
    """`torch.autocast("cuda", ...)` becomes `torch.cuda.amp.autocast(...)`, and the scaler likewise."""
    for script in program.scripts:
        for call in script.calls():
            name = script.qualified(call.func)
            if "torch" not in script.imports or not call.args or not unstarred(call):
                continue
            if (
                name not in (*NEW, "torch.amp.GradScaler", "torch.GradScaler")
                or len(call.args) != 1
            ):
                continue
            first = call.args[0]
            if not (isinstance(first, ast.Constant) and first.value == "cuda"):
                continue
            end = script.start(call.keywords[0]) if call.keywords else script.end(first)
            kind = "GradScaler" if "Scaler" in name else "autocast"
            yield change(
                script,
                (script.start(call.func), script.end(call.func), f"{MARK}torch.cuda.amp.{kind}"),
                (script.start(first), end, ""),
            )


@operator("deprecated-torch-amp")
def old_import(program: Program) -> Iterator[Change]:
    """`from torch.amp import ...` becomes `from torch.cuda.amp import ...`, with the calls of old."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            if (
                not isinstance(node, ast.ImportFrom)
                or node.module != "torch.amp"
                or node.col_offset
            ):
                continue
            if not all(each.name in ("GradScaler", "autocast") for each in node.names):
                continue
            edits, marks, bad = [], [node], False
            for call in script.calls():
                name = script.qualified(call.func)
                if name not in SCALERS | AUTOCASTS or not isinstance(call.func, ast.Name):
                    continue
                first = call.args[0] if call.args else None
                if not (
                    isinstance(first, ast.Constant)
                    and first.value == "cuda"
                    and len(call.args) == 1
                ):
                    bad = True
                    break
                end = script.start(call.keywords[0]) if call.keywords else script.end(first)
                edits.append((script.start(first), end, ""))
                marks.append(call)
            if not bad and edits:
                at = script.start(node) + script.source(node).index("torch.amp")
                yield change(
                    script, (at, at + len("torch.amp"), "torch.cuda.amp"), *edits, marks=marks
                )
