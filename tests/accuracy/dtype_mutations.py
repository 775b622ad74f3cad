"""Mistakes with what half precision can hold (MP301-MP312, MP405)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .loss_mutations import sure
from .mutation import MARK, Change, change, operator
from .nets import ends_in_half, nets
from .order_mutations import inserted_after
from .roles import Program
from .script import Script, keyword


def half_outputs(
    program: Program, dtype: str = "float16"
) -> Iterator[tuple[Script, ast.Assign, str]]:
    """(script, statement, name) where a name gets the output of a network that ends in a linear or
    convolution layer, inside a CUDA region of that dtype that is certainly on: the name holds a tensor
    of that dtype."""
    held = {program.slot(s, t): (s, c) for s, t, c in nets(program)}
    for script in program.scripts:
        if "torch" not in script.imports:
            continue
        for region, _, made in program.regions(script):
            if not sure(script, made) or len(region.items) != 1:
                continue
            given = keyword(made, "dtype")
            name = (
                script.qualified(given).removeprefix("torch.") if given is not None else "float16"
            )
            if name.replace("half", "float16") != dtype:
                continue
            for stmt in region.body:
                if not (isinstance(stmt, ast.Assign) and isinstance(stmt.value, ast.Call)):
                    continue
                net = held.get(program.slot(script, stmt.value.func))
                target = stmt.targets[0]
                if (
                    net
                    and ends_in_half(*net)
                    and isinstance(target, ast.Name)
                    and script.owns_lines(stmt)
                ):
                    yield script, stmt, target.id


def insertion(program: Program, line: str, dtype: str = "float16") -> Iterator[Change]:
    """A line behind each half output; NAME stands for the output."""
    for script, stmt, name in half_outputs(program, dtype):
        yield change(script, inserted_after(script, stmt, MARK + line.replace("NAME", name)))


@operator("half-overflow-constant")
def masked_fill(program: Program) -> Iterator[Change]:
    """masked_fill with a constant beyond 65504 on a float16 tensor."""
    yield from insertion(program, "NAME = NAME.masked_fill(NAME.isnan(), -1e9)")


@operator("half-overflow-constant")
def literal_beyond(program: Program) -> Iterator[Change]:
    """A masking constant that fits becomes one that does not."""
    for script in program.scripts:
        for node in ast.walk(script.tree):
            # `-1e4` in a conditional on the dtype, as the guarded idiom has it.
            if (
                isinstance(node, ast.IfExp)
                and "float16" in ast.unparse(node.test)
                and "masked_fill" in script.text
            ):
                for value in (node.body, node.orelse):
                    if ast.unparse(value) in ("-10000.0", "-65504.0"):
                        yield change(
                            script,
                            (script.start(value), script.end(value), "-1e9"),
                            marks=[
                                c
                                for c in script.calls()
                                if getattr(c.func, "attr", "") == "masked_fill"
                            ],
                        )


@operator("half-underflow-epsilon")
def epsilon(program: Program) -> Iterator[Change]:
    """A divisor's epsilon that is zero in float16."""
    yield from insertion(program, "NAME = NAME / (NAME.abs().amax(dim=-1, keepdim=True) + 1e-8)")


@operator("half-underflow-epsilon")
def clamp_and_log(program: Program) -> Iterator[Change]:
    """clamp(min=1e-8) on a float16 tensor."""
    yield from insertion(program, "NAME = NAME.clamp(min=1e-8)")


@operator("log-of-softmax")
def log_of_softmax(program: Program) -> Iterator[Change]:
    """log(softmax(x))."""
    yield from insertion(program, "logp = torch.log(torch.softmax(NAME, dim=-1))")


@operator("half-accumulator")
def running_sum(program: Program) -> Iterator[Change]:
    """A running sum in half precision."""
    for script, stmt, name in half_outputs(program):
        loops = script.loops(stmt)
        if not loops or (not script.owns_lines(loops[-1].body[0]) and not loops):
            continue
        loop = loops[-1]
        at = script.line_start(script.start(loop))
        pad = script.indent(loop)
        yield change(
            script,
            (at, at, f'{pad}{MARK}seen = torch.zeros((), dtype=torch.half, device="cuda")\n'),
            inserted_after(script, stmt, f"{MARK}seen += {name}.detach().mean()"),
        )


@operator("half-reduction")
def mean_of_squares(program: Program) -> Iterator[Change]:
    """A mean of squares in float16 for each row: one value beyond 256 makes it infinite.

    The mean over all elements is left out: a loss is often made so, of values that are small.
    """
    yield from insertion(program, "power = (NAME * NAME).mean(dim=-1)")


@operator("half-reduction")
def root_mean_square(program: Program) -> Iterator[Change]:
    """The length of a row's mean square in float16, as a hand-written RMSNorm takes it."""
    yield from insertion(program, "rms = NAME.square().mean(dim=-1, keepdim=True).sqrt()")


@operator("linalg-in-half")
def inverse(program: Program) -> Iterator[Change]:
    """torch.linalg has no half kernels."""
    yield from insertion(program, "inverse = torch.linalg.inv(NAME.flatten(1).T @ NAME.flatten(1))")


@operator("bfloat16-to-numpy")
def numpy_of_bfloat16(program: Program) -> Iterator[Change]:
    """numpy cannot hold bfloat16."""
    yield from insertion(program, "array = NAME.detach().cpu().numpy()", "bfloat16")


@operator("inplace-dtype-mismatch")
def index_put(program: Program) -> Iterator[Change]:
    """Half values are written by a mask into a float32 buffer."""
    for script, stmt, name in half_outputs(program):
        pad = script.indent(stmt)
        text = (
            f'{MARK}kept = torch.zeros({name}.shape, device="cuda")\n'
            f"{pad}{MARK}kept[{name} > 0] = {name}[{name} > 0]"
        )
        yield change(script, inserted_after(script, stmt, text))


@operator("mixed-tf32-api")
def both_switches(program: Program) -> Iterator[Change]:
    """The new TF32 switch is set, and the old one is read."""
    for script in program.scripts:
        body = script.tree.body
        imports = [s for s in body if isinstance(s, ast.Import | ast.ImportFrom)]
        early = {each.name for s in imports if isinstance(s, ast.Import) for each in s.names}
        if "torch" not in early or script.imports.get("torch") != "torch" or program.by_use:
            continue
        if "tf32" in script.text or "is_available" in script.text or len(program.scripts) > 1:
            continue
        text = (
            f'{MARK}torch.backends.cuda.matmul.fp32_precision = "tf32"\n'
            f"{MARK}print(torch.backends.cuda.matmul.allow_tf32)"
        )
        yield change(script, inserted_after(script, imports[-1], text))
