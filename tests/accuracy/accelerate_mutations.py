"""Mistakes around Hugging Face's Accelerate (MP601-MP603, MP609, MP610)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .mutation import MARK, Change, change, operator
from .order_mutations import atom
from .roles import Program
from .script import Script, argument, keyword

ACCELERATOR = frozenset(["accelerate.Accelerator", "accelerate.accelerator.Accelerator"])
CLIPS = ("clip_grad_norm_", "clip_grad_value_")


def uses(program: Program, *methods: str) -> Iterator[tuple[Script, ast.Call, ast.Call]]:
    """(script, call of a method, call that made it) of Accelerators that scale in their own way.

    One behind which DeepSpeed works is left out.
    """
    held = program.holders(ACCELERATOR)
    for script in program.scripts:
        for call in script.calls():
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in methods:
                continue
            slot = program.slot(script, call.func.value)
            made = held.get(slot, frozenset()) if slot else frozenset()
            if len(made) == 1:
                (one,) = made
                if not any(k.arg is None or "plugin" in k.arg for k in one.keywords):
                    yield script, call, one


def scales(program: Program, made: ast.Call) -> bool:
    """Whether an Accelerator may be one that scales losses."""
    precision = argument(made, 2, "mixed_precision")
    if isinstance(precision, ast.Name) and _default(program, made, precision.id) in ("bf16", "no"):
        return False
    return precision is None or program.constant(precision) in (..., "fp16", None)


def _default(program: Program, inside: ast.AST, name: str) -> object:
    """The literal default of a parameter of the function around a node, ... where it has none."""
    for script in program.scripts:
        if script.parent(inside) is None:
            continue
        function = script.function(inside)
        spec = function.args if function else ast.arguments([], [], None, [], [], None, [])
        takes = [*spec.posonlyargs, *spec.args]
        for parameter, default in zip(reversed(takes), reversed(spec.defaults), strict=False):
            if parameter.arg == name and isinstance(default, ast.Constant):
                return default.value
    return ...


def steps(program: Program, made: ast.Call) -> object:
    """How many micro-batches an Accelerator was told: a number, ... where it is not known."""
    given = argument(made, 3, "gradient_accumulation_steps")
    return 1 if given is None else program.constant(given)


def prepares_optimizer(program: Program) -> bool:
    """Whether a program, which has one Accelerator, prepares all its optimizers in view."""
    makers = [
        call
        for script in program.scripts
        for call in script.calls()
        if script.qualified(call.func).startswith("torch.optim.")
        and "lr_scheduler" not in script.qualified(call.func)
    ]
    prepared = [call for _, call, _ in uses(program, "prepare")]
    return len(makers) == 1 and bool(prepared)


@operator("accelerate-raw-backward")
def backward_around(program: Program) -> Iterator[Change]:
    """`accelerator.backward(loss)` -> `loss.backward()`."""
    if not prepares_optimizer(program):
        return
    for script, call, made in uses(program, "backward"):
        if not scales(program, made) and steps(program, made) == 1:
            continue
        if len(call.args) != 1 or not isinstance(call.args[0], ast.Name):
            continue
        rest = [script.source(each) for each in call.keywords]
        text = f"{MARK}{script.source(call.args[0])}.backward({', '.join(rest)})"
        yield change(script, (script.start(call), script.end(call), text))


@operator("accelerate-raw-clip")
def clip_by_torch(program: Program) -> Iterator[Change]:
    """`accelerator.clip_grad_norm_(...)` -> `torch.nn.utils.clip_grad_norm_(...)`."""
    for script, call, made in uses(program, *CLIPS):
        if not scales(program, made) or script.imports.get("torch") != "torch":
            continue
        text = f"{MARK}torch.nn.utils.{call.func.attr}"
        yield change(script, (script.start(call.func), script.end(call.func), text))


@operator("accelerate-raw-clip")
def raw_optimizer(program: Program) -> Iterator[Change]:
    """`model, optimizer = accelerator.prepare(model, optimizer)`: the prepared optimizer is dropped."""
    if not prepares_optimizer(program):
        return
    for script, call, made in uses(program, "prepare"):
        statement = script.statement(call)
        if not scales(program, made) or not isinstance(statement, ast.Assign):
            continue
        targets = statement.targets[0]
        if statement.value is not call or not isinstance(targets, ast.Tuple):
            continue
        if any(_clips(script, call) for script in program.scripts for call in script.calls()):
            continue  # a clip unscales first, and the step is right
        if len(targets.elts) != len(call.args):
            continue
        for target, given in zip(targets.elts, call.args, strict=True):
            name = ast.unparse(target)
            stepped = [
                each
                for each in script.calls()
                if isinstance(each.func, ast.Attribute)
                and each.func.attr == "step"
                and ast.unparse(each.func.value) == name
                and not each.args
            ]
            zeroed = f"{name}.zero_grad(" in script.text
            if name == ast.unparse(given) and stepped and zeroed:
                text = (script.start(target), script.end(target), "_unused")
                yield change(script, text, marks=stepped)


def _clips(script: Script, call: ast.Call) -> bool:
    return isinstance(call.func, ast.Attribute) and call.func.attr in (*CLIPS, "unscale_gradients")


@operator("accelerate-with-grad-scaler")
def own_scaler_steps(program: Program) -> Iterator[Change]:
    """A GradScaler built where the Accelerator is steps the prepared optimizer."""
    if not prepares_optimizer(program):
        return
    for script, call, made in uses(program, "backward"):
        statement = script.statement(made)
        if script.imports.get("torch") != "torch" or not isinstance(statement, ast.Assign):
            continue
        if statement not in _block_around(script, call) or not script.owns_lines(statement):
            continue
        for step in script.following(script.statement(call)):
            found = getattr(step, "value", None)
            if not isinstance(found, ast.Call) or not isinstance(found.func, ast.Attribute):
                continue
            owner = ast.unparse(found.func.value)
            if found.func.attr != "step" or f"{owner}.zero_grad(" not in script.text:
                continue
            at = script.line_end(script.end(statement))
            line = f"{script.indent(statement)}{MARK}own_scaler = torch.amp.GradScaler()\n"
            stepped = f"own_scaler.step({owner})\n{script.indent(step)}own_scaler.update()"
            yield change(script, (at, at, line), (script.start(step), script.end(step), stepped))


def _block_around(script: Script, node: ast.AST) -> list[ast.stmt]:
    """The statements before a node, in its block and in the blocks around it within its function."""
    found: list[ast.stmt] = []
    for each in (node, *script.above(node)):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            break
        if isinstance(each, ast.stmt):
            found += script.preceding(each)
    return found


@operator("accelerate-clip-mid-accumulation")
def clip_unguarded(program: Program) -> Iterator[Change]:
    """The clip leaves `if accelerator.sync_gradients:`."""
    for script, call, made in uses(program, *CLIPS):
        guard = script.parent(script.statement(call))
        if steps(program, made) in (1, None) or not isinstance(guard, ast.If) or guard.orelse:
            continue
        name = f"{ast.unparse(call.func.value)}.sync_gradients"
        if ast.unparse(guard.test) != name or len(guard.body) != 1:
            continue
        inside = [
            each
            for each in script.above(guard)
            if isinstance(each, ast.With) and ".accumulate(" in ast.unparse(each.items[0])
        ]
        if inside:
            text = MARK + script.source(guard.body[0])
            yield change(script, (script.start(guard), script.end(guard), text))


@operator("accelerate-double-division")
def divided_again(program: Program) -> Iterator[Change]:
    """`accelerator.backward(loss)` -> `accelerator.backward(loss / N)`, with N as the Accelerator has it."""
    for script, call, made in uses(program, "backward"):
        given = keyword(made, "gradient_accumulation_steps")
        if given is None or program.constant(given) == 1 or len(call.args) != 1:
            continue
        if "gradient_accumulation_steps" in script.source(call.args[0]) or "/ items" in script.text:
            continue
        divisor = f"{ast.unparse(call.func.value)}.gradient_accumulation_steps"
        loss = call.args[0]
        text = f"{MARK}{atom(loss, script.source(loss))} / {divisor}"
        yield change(script, (script.start(loss), script.end(loss), text))
