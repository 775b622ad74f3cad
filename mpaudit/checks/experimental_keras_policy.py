"""MP703: Keras' experimental mixed-precision API, and the graph rewrite, both removed.

At most one problem per file for `keras.mixed_precision.experimental` and `Policy(..., loss_scale=)`,
at the first place in the text, with one fix for all; one for each graph rewrite. Not reported is code
that asks for the version or falls back, a project that allows no TensorFlow from 2.4 on, and code of
TensorFlow 1.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.migration import keras_experimental
from mpaudit.source.migration.keras_experimental import ROOTS, SUCCESSORS, Imported, Use
from mpaudit.source.text.argument import UnrepairableError
from mpaudit.source.text.names import Names
from mpaudit.source.text.requirement import TENSORFLOW, Allowed, allowed
from mpaudit.source.trait.compat import guarded

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_MOST_RELATED = 8
_STABLE = (2, 4)
"""The first TensorFlow that has the API without `experimental`."""
_POLICIES = frozenset(f"{root}.mixed_precision.Policy" for root in ROOTS)
_REWRITE = "tensorflow.train.experimental.enable_mixed_precision_graph_rewrite"
_TENSORFLOW_1 = frozenset(
    f"tensorflow.{name}"
    for name in [
        "ConfigProto",
        "Session",
        "app.run",
        "contrib.layers",
        "estimator.tpu",
        "flags.FLAGS",
        "get_variable",
        "global_variables_initializer",
        "layers.conv2d",
        "layers.dense",
        "logging.info",
        "logging.set_verbosity",
        "placeholder",
        "train.AdamOptimizer",
        "train.GradientDescentOptimizer",
        "train.MomentumOptimizer",
        "train.Saver",
        "train.get_or_create_global_step",
        "trainable_variables",
        "variable_scope",
    ]
)
"""Names that only TensorFlow 1 has."""


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield what a file uses of the API that was removed."""
    text = module.text
    if "mixed_precision" not in text:
        return
    if not ("experimental" in text or "loss_scale" in text):
        return
    names = Names.of(module)
    found = [each for each in keras_experimental.uses(names) if not guarded(each.node, module)]
    brought = [
        each
        for each in keras_experimental.imports(module, names)
        if not guarded(each.statement, module)
    ]
    calls = [*_policies(module, names)]
    rewrites = [node for node in names.reads() if names.resolve(node) == _REWRITE]
    if not (found or brought or calls or rewrites):
        return
    stated = allowed(Path(module.filename), TENSORFLOW)
    if (stated.ceiling is not None and stated.ceiling < _STABLE) or _is_tensorflow_1(names):
        return
    if found or brought or calls:
        yield _experimental(module, found, brought, calls, stated)
    for node in rewrites:
        if not guarded(node, module) and isinstance(node, ast.Attribute):
            yield _rewrite(module, node)


def _is_tensorflow_1(names: Names) -> bool:
    return any(
        (names.resolve(node) or "") in _TENSORFLOW_1
        for node in names.reads()
        if isinstance(node, ast.Attribute)
    )


def _policies(module: Module, names: Names) -> Iterator[ast.Call]:
    """The calls of `Policy` with an argument that it lost when it left `experimental`."""
    for node in names.reads():
        call = module.parents[node]
        if (
            isinstance(call, ast.Call)
            and call.func is node
            and any(keyword.arg == "loss_scale" for keyword in call.keywords)
            and names.resolve(node) in _POLICIES
            and not guarded(node, module)
        ):
            yield call


def _experimental(
    module: Module,
    found: list[Use],
    brought: list[Imported],
    calls: list[ast.Call],
    stated: Allowed,
) -> tuple[Problem, Fix | None]:
    outermost = [each.node for each in found if each.name not in SUCCESSORS]
    places: set[ast.expr | ast.stmt] = {*outermost, *(each.statement for each in brought), *calls}
    places = places or {each.node for each in found}
    first, *others = sorted(places, key=lambda node: (node.lineno, node.col_offset))
    fix: Fix | None = None
    unrepaired = ""
    try:
        if stated.floor is not None and stated.floor < _STABLE and (found or brought):
            floor = f"{stated.floor[0]}.{stated.floor[1]}"
            older = f"TensorFlow {floor}, which the project allows, has nothing else"
            raise UnrepairableError(older if stated.floor > (0, 0) else "it allows old ones", first)
        fix = keras_experimental.migrate(module, found, brought)
        more = [
            edit
            for call in calls
            for edit in keras_experimental.without_loss_scale(
                module, call, Names.of(module).resolve(call.func) or "", "Policy"
            )
        ]
        fix = Fix(fix.message, (*fix.edits, *more), fix.safety)
    except UnrepairableError as reason:
        row = getattr(reason.node, "lineno", first.lineno)
        unrepaired = f"; not repaired, because {reason} (line {row})"
        fix = None
    if found or brought:
        message = (
            "`keras.mixed_precision.experimental` was removed in TensorFlow 2.9; write "
            "`mixed_precision.set_global_policy`, `Policy` and `LossScaleOptimizer`"
        )
        raises = "ImportError" if isinstance(first, ast.stmt) else "AttributeError"
        consequence = f"it raises {raises} with any newer TensorFlow or Keras"
    else:
        message = "`Policy` takes no loss_scale; the optimizer does the loss scaling"
        consequence = "it raises TypeError: the argument went when `Policy` left `experimental`"
    related = [Related(module.span(node), "here too") for node in others[:_MOST_RELATED]]
    problem = Problem(
        "experimental-keras-policy",
        module.span(first),
        message,
        consequence + unrepaired,
        tuple(related),
    )
    return problem, fix


def _rewrite(module: Module, node: ast.Attribute) -> tuple[Problem, Fix | None]:
    """The graph rewrite, and what stands for it today: shown, as the model has to follow it."""
    problem = Problem(
        "experimental-keras-policy",
        module.span(node),
        "the mixed-precision graph rewrite was removed from `tf.train.experimental`; set the policy "
        "`mixed_float16` before the model is built",
        "it raises AttributeError with TensorFlow 2.21; the rewrite left in tf.compat.v1 takes no "
        "Keras 3 optimizer",
    )
    call, statement = module.parents[node], module.statement(node)
    plain = isinstance(call, ast.Call) and call.func is node and len(call.args) == 1
    root = module.source(node).partition(".train.")[0]
    start, _ = module.line_range(statement.lineno)
    indent = module.text[start : module.range(statement)[0]]
    if not plain or indent.strip() or not root.isidentifier():
        return problem, None
    assert isinstance(call, ast.Call)
    if any(k.arg != "loss_scale" for k in call.keywords):
        return problem, None
    new = f"{root}.keras.mixed_precision.LossScaleOptimizer({module.source(call.args[0])})"
    line = (
        f"{root}.keras.mixed_precision.set_global_policy({module.quote}mixed_float16{module.quote})"
    )
    comment = "  # must run before the first layer is built"
    edits = (
        Edit(start, start, f"{indent}{line}{comment}{module.newline}"),
        Edit(*module.range(call), new),
    )
    return problem, Fix("set the policy and scale the loss", edits, Safety.SUGGESTION)
