"""What sums, counters and moving averages in 16 bits have in common, in torch and in TensorFlow."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from mpaudit.event import HalfAdded, Ref
from mpaudit.finding import Related
from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.values import NOWHERE, Const, Pack, Thing, Value
from mpaudit.source.library.python.number import number

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

LARGEST_SHARE = 0.01
"""A moving average that takes more than this of the new parameters, moves."""
_PARTS = frozenset(
    ["items", "values", "keys", "children", "modules", "parameters", "named_parameters"]
)
SHORT = 256
"""A sum of as many terms or fewer is a short one."""


def is_assigned_back(node: ast.BinOp, path: Path) -> bool:
    """Whether an operation stands in `total = total + loss`."""
    module = path.frame.module
    above = module.parents.get(node)
    return (
        isinstance(above, ast.Assign)
        and len(above.targets) == 1
        and module.source(above.targets[0]) == module.source(node.left)
    )


def tell_added(
    engine: Calls,
    path: Path,
    root: Value,
    at: ast.AST,
    added: Value | None,
    target: ast.expr,
    *,
    because: Callable[[Thing, Dtype], tuple[Related, ...]],
    methods: Collection[str] = (),
) -> None:
    """Tell that something was added to the number of `root`, a pair of it and its dtype.

    `methods` are those that a library runs for every batch.
    """
    if not isinstance(root, Pack) or _is_share(added, engine) or _is_short(at, root.items[0], path):
        return
    total, kept = root.items
    if isinstance(total, Thing) and isinstance(kept, Const) and isinstance(kept.value, Dtype):
        module = path.frame.module
        engine.emit(
            HalfAdded(
                at=module.span(at),
                occasional=any(frame.occasional for frame in path.frames),
                tensor=Ref(total.uid, " ".join(module.source(target).split())),
                root=total.uid,
                dtype=kept.value.name,
                because=because(total, kept.value),
                repeated=any(
                    frame.function is not None
                    and frame.function.owner is not None
                    and frame.function.name in methods
                    for frame in path.frames
                ),
            ),
            path,
        )


def _is_share(value: Value | None, engine: Calls) -> bool:
    """Whether what is added was divided first: `loss / steps`."""
    if not isinstance(value, Thing):
        return False
    return (engine.identities.description(value.uid) or ("",))[0] == "Div"


def _is_short(at: ast.AST, root: Value, path: Path) -> bool:
    """Whether the innermost loop around an addition goes through a few things only."""
    module = path.frame.module
    node = module.parents.get(at)
    while node is not None and not isinstance(node, (ast.For, ast.AsyncFor, ast.While)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return False
        node = module.parents.get(node)
    if not isinstance(node, (ast.For, ast.AsyncFor)):
        return False
    over = node.iter
    if isinstance(over, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
        return True
    if not isinstance(over, ast.Call):
        return False
    if isinstance(over.func, ast.Attribute):
        return over.func.attr in _PARTS
    if not isinstance(over.func, ast.Name) or over.func.id != "range":
        return False
    last = over.args[min(1, len(over.args) - 1)] if over.args else None
    if isinstance(last, ast.Constant) and isinstance(last.value, int):
        return last.value <= SHORT
    return isinstance(root, Thing) and root.since != NOWHERE  # micro batches of a step


def share_of(value: Value | None, receiver: Thing, call: Call) -> float | None:
    """The part that `d * e + (1 - d) * p` takes of p."""
    identities = call.engine.identities
    if not isinstance(value, Thing):
        return None
    operation, *terms = identities.description(value.uid) or ("",)
    if operation != "Add":
        return None
    for term in terms:
        if isinstance(term, Thing):
            name, *factors = identities.description(term.uid) or ("",)
            if name == "Mult" and receiver in factors:
                other = factors[0] if factors[1] == receiver else factors[1]
                decay = number(other if isinstance(other, Value) else None, identities)
                return None if decay is None else 1 - decay
    return None
