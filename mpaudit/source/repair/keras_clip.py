"""Gradients of a Keras tape, clipped where they are unscaled."""

from __future__ import annotations

import ast

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.protocols.keras_scaling_problems import APPLIED, BUILT
from mpaudit.source.api.keras_names import ROOTS
from mpaudit.source.repair.registry import Context, alone, block_of, lines_of, repairs
from mpaudit.source.repair.tape_call import calls_of, function_around, related_call
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.walk import walk

ARGUMENTS = {
    "clip_by_global_norm": "global_clipnorm",
    "clip_by_norm": "clipnorm",
    "clip_by_value": "clipvalue",
}
"""The argument by which an optimizer of Keras clips as a function of TensorFlow does."""


@repairs("clip-scaled-gradients")
def clip_unscaled(context: Context) -> Fix | None:
    """Keras 3: leave clipping to the inner optimizer. Keras 2: clip after unscaling."""
    call = context.node(ast.Call)
    if not isinstance(call, ast.Call) or context.subject("keras") not in ("2", "3"):
        return None
    module, statement = context.module, context.module.statement(call)
    clipped = _clipped(statement, call)
    if clipped is None or not alone(module, statement):
        return None
    if context.subject("keras") == "2":
        return _swapped(module, statement, clipped)
    applied = related_call(module, context.problem, APPLIED)
    if applied is None or function_around(module, applied) is not function_around(module, call):
        return None
    return _moved(context, call, clipped, applied)


def _moved(
    context: Context, call: ast.Call, clipped: tuple[str, str], applied: ast.Call
) -> Fix | None:
    """Move the literal threshold to the constructor of the optimizer."""
    module, (target, source) = context.module, clipped
    built = related_call(module, context.problem, BUILT)
    setting = _setting(call)
    if built is None or setting is None or not _plain_optimizer(module, built):
        return None
    if not _built_once(module, built, applied):
        return None
    function, statement = function_around(module, call), module.statement(call)
    inside = {id(node) for node in walk(applied)}
    uses = [n for n in walk(function) if isinstance(n, ast.Name) and n.id == target]
    edits = [Edit(*lines_of(module, statement), "")]
    if target != source:
        loads = [n for n in uses if isinstance(n.ctx, ast.Load)]
        stores = [n for n in uses if isinstance(n.ctx, ast.Store)]
        if len(stores) != 1 or not all(id(n) in inside for n in loads):
            return None
        edits.extend(Edit(*module.range(n), source) for n in loads)
    edits.append(_further_argument(module, built, setting))
    return Fix("Let the inner optimizer clip, after unscaling", tuple(edits), Safety.SAFE)


def _swapped(module: Module, statement: ast.stmt, clipped: tuple[str, str]) -> Fix | None:
    """Clip below the statement that unscales the same gradients."""
    target, source = clipped
    block = block_of(module, statement)
    following = block[block.index(statement) + 1 :][:1]
    if target != source or not following or not alone(module, following[0]):
        return None
    match following[0]:
        case ast.Assign(
            targets=[ast.Name(id=name)],
            value=ast.Call(
                func=ast.Attribute(attr="get_unscaled_gradients"), args=[ast.Name(id=given)]
            ),
        ) if name == given == target:
            first, second = module.range(statement), module.range(following[0])
            edits = (
                Edit(*first, module.text[slice(*second)]),
                Edit(*second, module.text[slice(*first)]),
            )
            return Fix("Unscale before clipping", edits, Safety.SAFE)
    return None


def _clipped(statement: ast.stmt, call: ast.Call) -> tuple[str, str] | None:
    """The name that clipped gradients get, and the one they had."""
    match statement:
        case ast.Assign(
            targets=[ast.Tuple(elts=[ast.Name(id=target), ast.Name(id=norm)])],
            value=ast.Call(args=[ast.Name(id=source), *_]) as value,
        ) if value is call and norm.startswith("_"):
            return target, source
        case ast.Assign(
            targets=[ast.Name(id=target)],
            value=ast.ListComp(
                elt=element,
                generators=[
                    ast.comprehension(target=ast.Name(id=each), iter=ast.Name(id=source), ifs=[])
                ],
            ),
        ) if call in _branches(element, each):
            return (target, source) if _first(call) == each else None
    return None


def _branches(element: ast.expr, each: str) -> list[ast.expr]:
    """What a comprehension yields for gradients that there are: `clip(g) if g is not None else g`."""
    match element:
        case ast.IfExp(
            test=ast.Compare(
                left=ast.Name(id=name),
                ops=[ast.Is() | ast.IsNot() as op],
                comparators=[ast.Constant(value=None)],
            )
        ) if name == each:
            there, none = element.body, element.orelse
            if isinstance(op, ast.Is):
                there, none = none, there
            return [there] if ast.unparse(none) in (each, "None") else []
    return [element]


def _first(call: ast.Call) -> str:
    return ast.unparse(call.args[0]) if call.args else ""


def _setting(call: ast.Call) -> str | None:
    """`clipnorm=1.0` for `tf.clip_by_norm(g, 1.0)`, None where the threshold is no literal."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    given = [*call.args[1:], *(k.value for k in call.keywords)]
    numbers = [_number(each) for each in given]
    if function not in ARGUMENTS or not numbers or None in numbers:
        return None
    if function == "clip_by_value":
        symmetric = len(given) == len(call.args) - 1 == 2 and numbers[0] == -(numbers[1] or 0)
        return f"clipvalue={ast.unparse(given[1])}" if symmetric else None
    keyword = [k.arg for k in call.keywords]
    if len(given) != 1 or not set(keyword) <= {"clip_norm"}:
        return None
    return f"{ARGUMENTS[function]}={ast.unparse(given[0])}"


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, (int, float)) else None


def _plain_optimizer(module: Module, built: ast.Call) -> bool:
    """Whether a call makes an optimizer of Keras that does not clip yet."""
    name = Names.of(module).resolve(built.func) or ""
    known = name.startswith(tuple(f"{root}.optimizers." for root in ROOTS))
    keywords = [k.arg for k in built.keywords]
    return (
        known
        and not name.endswith(".LossScaleOptimizer")
        and None not in keywords
        and not set(keywords) & set(ARGUMENTS.values())
    )


def _built_once(module: Module, built: ast.Call, applied: ast.Call) -> bool:
    """Whether the constructor serves these gradients only, and no other optimizer."""
    function = function_around(module, built)
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return True
    if function is function_around(module, applied) or function.name == "__init__":
        return True
    return len(list(calls_of(module.tree, function.name))) <= 1


def _further_argument(module: Module, call: ast.Call, argument: str) -> Edit:
    _, end = module.range(call)
    given = [*call.args, *(k.value for k in call.keywords)]
    if not given:
        return Edit(end - 1, end - 1, argument)
    last = max(module.range(each)[1] for each in given)
    return Edit(last, last, f", {argument}")
