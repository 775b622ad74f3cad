"""What is slow, or worth a word of advice: MP311, MP614, MP801 to MP803, MP806."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise

from .mutation import MARK, Change, change, operator
from .order_mutations import inserted_after
from .roles import Program, Use
from .script import LOOPS, Script, keyword

WAITS = (
    ".item()",
    "float(",
    "int(",
    "get_scale",
    "isfinite",
    "isnan",
    "isinf",
    ".cpu()",
    ".tolist()",
)
WIDE = 64
"""A width that somebody has chosen for a hidden layer."""


def _in_every_pass(use: Use) -> ast.stmt | None:
    """The innermost loop around a call, if each of its passes makes it."""
    loops = use.script.loops(use.call)
    if not loops or not use.alone or use.stmt not in loops[0].body:
        return None
    return loops[0]


@operator("hot-loop-sync")
def loss_read(program: Program) -> Iterator[Change]:
    """The host reads the loss in every pass of the training loop."""
    for use in program.of("scale"):
        script, loop = use.script, _in_every_pass(use)
        if loop is None or not isinstance(use.argument, ast.Name) or "cuda" not in script.text:
            continue
        nested = any(isinstance(node, LOOPS) for node in ast.walk(loop) if node is not loop)
        if nested or any(wait in script.source(loop) for wait in WAITS):
            continue
        last = loop.body[-1]
        if isinstance(last, ast.Expr) and script.owns_lines(last):
            text = f"{MARK}running = {use.argument.id}.item()"
            yield change(script, inserted_after(script, last, text))


@operator("scheduler-ignores-skipped-step")
def schedule_for_each_batch(program: Program) -> Iterator[Change]:
    """A schedule moves on behind `update()`, whether the optimizer was stepped or not."""
    for use in program.of("update"):
        script = use.script
        steps = [s for s in program.same(use, "step") if s.script is script]
        told = any(
            word in script.text for word in ("get_scale", "isfinite", "isnan", "lr_scheduler")
        )
        if _in_every_pass(use) is None or len(steps) != 1 or told:
            continue
        optimizer = steps[0].argument
        makers = [
            stmt
            for stmt in ast.walk(script.tree)
            if isinstance(stmt, ast.Assign)
            and isinstance(stmt.value, ast.Call)
            and script.qualified(stmt.value.func).startswith("torch.optim.")
            and isinstance(optimizer, ast.Name)
            and [ast.unparse(target) for target in stmt.targets] == [optimizer.id]
        ]
        if len(makers) != 1 or script.function(makers[0]) is not script.function(use.call):
            continue
        if script.imports.get("torch") == "torch" and script.owns_lines(makers[0]):
            named = ast.unparse(makers[0].targets[0])
            made = f"schedule = torch.optim.lr_scheduler.OneCycleLR({named}, 0.1, total_steps=1000)"
            yield change(
                script,
                inserted_after(script, makers[0], made),
                inserted_after(script, use.stmt, f"{MARK}schedule.step()"),
            )


@operator("low-precision-reduce")
def reduced_as_computed(program: Program) -> Iterator[Change]:
    """FSDP is not told to add gradients up in float32."""
    for script in program.scripts:
        for call in script.calls():
            name = script.qualified(call.func)
            given = keyword(call, "reduce_dtype")
            if (
                name.split(".")[-1] not in ("MixedPrecision", "MixedPrecisionPolicy")
                or given is None
            ):
                continue
            param = keyword(call, "param_dtype")
            if param is None or script.qualified(param) not in ("torch.bfloat16", "torch.float16"):
                continue
            if script.qualified(given) == "torch.float32":
                edit = (script.start(given), script.end(given), script.source(param))
                if script.qualified(param) == "torch.float16":
                    yield change(script, edit, marks=[given])


@operator("assumed-bfloat16")
def nobody_asks(program: Program) -> Iterator[Change]:
    """bfloat16 without asking whether the GPU has it."""
    for script in program.scripts:
        asked = [
            node
            for node in ast.walk(script.tree)
            if isinstance(node, ast.IfExp)
            and "is_bf16_supported" in script.source(node.test)
            and script.qualified(node.body) == "torch.bfloat16"
        ]
        if len(asked) != 1 or script.text.count("bf16") != script.source(asked[0]).count("bf16"):
            continue
        regions = [call for _, _, call in program.regions(script)]
        if regions:
            edit = (script.start(asked[0]), script.end(asked[0]), script.source(asked[0].body))
            yield change(script, edit, marks=regions)


@operator("evaluation-outside-autocast")
def evaluated_in_float32(program: Program) -> Iterator[Change]:
    """The region is left out where the model is evaluated."""
    for script in program.scripts:
        regions = list(program.regions(script))
        trained = {
            name
            for block, _, _ in regions
            if _runs_backward(script, block)
            for name in _called(block)
        }
        for block, _, _ in regions:
            if len(block.items) > 1 or not _without_gradients(script, block):
                continue
            judged = [name for name in _called(block) if name in trained]
            named = next((name for name in judged if f"{name}.eval()" in script.text), None)
            call = _called(block).get(named or "")
            if call is not None and not isinstance(block, ast.AsyncWith):
                end = script.text.index(":\n", script.end(block.items[-1].context_expr))
                yield change(script, (script.start(block), end, "if True"), marks=[call])


def _called(block: ast.AST) -> dict[str, ast.Call]:
    """What is called in a region, by the name or attribute that it is called by."""
    calls = [node for node in ast.walk(block) if isinstance(node, ast.Call)]
    return {ast.unparse(c.func): c for c in calls if isinstance(c.func, ast.Name)}


def _runs_backward(script: Script, block: ast.AST) -> bool:
    within = script.function(block) or script.tree
    return any(getattr(call.func, "attr", "") == "backward" for call in script.calls(within))


def _without_gradients(script: Script, block: ast.AST) -> bool:
    function = script.function(block)
    if function is None or _runs_backward(script, block):
        return False
    texts = [script.source(each) for each in function.decorator_list]
    withs = [node for node in script.above(block) if isinstance(node, ast.With)]
    texts += [ast.unparse(item) for node in withs for item in node.items]
    return any("no_grad" in text or "inference_mode" in text for text in texts)


@operator("tensor-core-misaligned")
def odd_width(program: Program) -> Iterator[Change]:
    """A hidden layer that is 5 wider than it was."""
    for script in program.scripts:
        if "autocast" not in script.text or len(program.scripts) > 1:
            continue
        for call in script.calls():
            if script.qualified(call.func) != "torch.nn.Sequential":
                continue
            layers = [
                each
                for each in call.args
                if isinstance(each, ast.Call) and script.qualified(each.func) == "torch.nn.Linear"
            ]
            for one, two in pairwise(layers):
                out, into = one.args[1:2], two.args[:1]
                if not out or not isinstance(out[0], ast.Constant) or len(one.args) < 2:
                    continue
                width = out[0].value
                if not isinstance(width, int) or width < WIDE or width % 8 or not into:
                    continue
                if isinstance(into[0], ast.Constant) and into[0].value == width:
                    places = (out[0], into[0])
                    edits = [(script.start(n), script.end(n), str(width + 5)) for n in places]
                    yield change(script, *edits, marks=[one])
