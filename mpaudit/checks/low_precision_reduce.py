"""MP614: FSDP policies that add the gradients of all ranks up in 16 bits.

Reported is what the text decides: dtypes that stand in the call, or under a name that only holds
dtypes. A policy that names bfloat16 for the reduction has chosen it, and is left alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.engine.dtypes import DTYPES, HALF
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_POLICIES = frozenset(
    [
        "torch.distributed.fsdp.MixedPrecision",
        "torch.distributed.fsdp.api.MixedPrecision",
        "torch.distributed.fsdp.fully_sharded_data_parallel.MixedPrecision",
        "torch.distributed.fsdp.MixedPrecisionPolicy",
        "torch.distributed._composable.fsdp.MixedPrecisionPolicy",
    ]
)
_MAX_STEPS = 4

Found = tuple[Problem, Fix | None]


def check(module: Module) -> Iterator[Found]:
    """Yield the policies under which gradients are reduced in 16 bits, asked for or not."""
    if "MixedPrecision" not in module.text:
        return
    names = Names.of(module)
    for call in module.every(ast.Call):
        if names.resolve(call.func) not in _POLICIES or not _plain(call):
            continue
        param, reduce = _argument(call, 0, "param_dtype"), _argument(call, 1, "reduce_dtype")
        computed = _dtypes(param, module, _MAX_STEPS)
        if reduce is None or _is_none(reduce):
            low = computed & set(HALF) if None not in computed else set()
            if low:
                yield _inherited(module, call, param, reduce, low)
        elif _dtypes(reduce, module, _MAX_STEPS) == {"float16"}:
            yield _chosen(module, reduce)


def _plain(call: ast.Call) -> bool:
    return not any(isinstance(each, ast.Starred) for each in call.args) and all(
        each.arg for each in call.keywords
    )


def _argument(call: ast.Call, position: int, keyword: str) -> ast.expr | None:
    if position < len(call.args):
        return call.args[position]
    return next((each.value for each in call.keywords if each.arg == keyword), None)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _dtypes(node: ast.expr | None, module: Module, steps: int) -> set[str | None]:
    """The plain names of the dtypes that an expression may be; None among them if nobody can tell."""
    if node is None or steps == 0:
        return {None}
    names = Names.of(module)
    known = DTYPES.get(names.resolve(node) or "")
    if known is not None:
        return {known}
    if isinstance(node, ast.IfExp):
        return _dtypes(node.body, module, steps - 1) | _dtypes(node.orelse, module, steps - 1)
    if isinstance(node, ast.Name):
        bindings = [each for each in names.bindings(node) if not each.empty]
        origins = [each.origin for each in bindings if isinstance(each.origin, ast.expr)]
        if origins and len(origins) == len(bindings):
            return set().union(*(_dtypes(each, module, steps - 1) for each in origins))
    return {None}


def _inherited(
    module: Module,
    call: ast.Call,
    param: ast.expr | None,
    reduce: ast.expr | None,
    low: set[str | None],
) -> Found:
    dtype = " or ".join(sorted(str(each) for each in low))
    problem = Problem(
        "low-precision-reduce",
        module.span(call),
        f"the policy says nothing of `reduce_dtype`: gradients are added up in {dtype} over the ranks",
        _consequence(low),
    )
    return problem, _suggestion(module, param, reduce)


def _chosen(module: Module, reduce: ast.expr) -> Found:
    problem = Problem(
        "low-precision-reduce",
        module.span(reduce),
        "gradients are added up in float16 over the ranks",
        _consequence({"float16"}),
    )
    return problem, _suggestion(module, None, reduce)


def _consequence(low: set[str | None]) -> str:
    if "float16" in low:
        return "a sum beyond 65504 is inf: 40000 on each of four ranks is one, though the mean is 40000"
    return "each addition rounds to 8 bits: eight ranks changed the gradients by 0.3 %"


def _suggestion(module: Module, param: ast.expr | None, reduce: ast.expr | None) -> Fix:
    """Reducing in float32 costs twice the traffic: shown, never applied."""
    edits: tuple[Edit, ...] = ()
    given = reduce if reduce is not None else param
    if isinstance(given, ast.Attribute) and isinstance(given.value, ast.Name):
        if Names.of(module).resolve(given.value) == "torch":
            torch = given.value.id
            start, end = module.range(given)
            text = f"{torch}.float32"
            if reduce is None:
                start, text = end, f", reduce_dtype={text}"
            edits = (Edit(start, end, text),)
    return Fix("Reduce in float32: `reduce_dtype=torch.float32`", edits, Safety.SUGGESTION)
