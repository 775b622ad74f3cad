"""MP513: a test that sets the global policy of Keras and leaves it on for the tests behind it.

A file that sets a policy back anywhere, or may do so (a fixture, `tearDown`, a `finally`, a base class of
tests), is left alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from mpaudit.checks.prefer_bfloat16 import SETTERS
from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix, Safety
from mpaudit.source.text.names import Names

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_TEST = re.compile(r"test_.*\.py|.*_test\.py")
_RESETS = re.compile(
    r"tearDown|addCleanup|yield|finally|clear_session|TestCase|usefixtures|autouse"
)
MIXED = ("mixed_float16", "mixed_bfloat16")


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the first policy that a test of the file sets, where nothing sets it back."""
    text = module.text
    if "mixed_" not in text or not _TEST.fullmatch(PurePath(module.filename).name):
        return
    if _RESETS.search(text):
        return
    names = Names.of(module)
    calls = [call for call in module.every(ast.Call) if names.resolve(call.func) in SETTERS]
    mixed = [call for call in calls if _mixed(call) and _test_around(call, module)]
    if not mixed or len(mixed) != len(calls):
        return
    mixed.sort(key=lambda call: (call.lineno, call.col_offset))
    others = tuple(Related(module.span(call), "and here") for call in mixed[1:9])
    yield (
        Problem(
            "misplaced-policy",
            module.span(mixed[0]),
            "a test sets the global policy, and nothing sets it back",
            "the policy holds for the whole process: the tests behind this one build their models under it",
            others,
        ),
        Fix(
            'Set it back where the test ends, `keras.mixed_precision.set_global_policy("float32")`, or give '
            "the policy to the layers, `dtype=`",
            (),
            Safety.SUGGESTION,
        ),
    )


def _mixed(call: ast.Call) -> bool:
    first = call.args[0] if call.args else None
    return isinstance(first, ast.Constant) and first.value in MIXED


def _test_around(node: ast.AST, module: Module) -> bool:
    while node in module.parents:
        node = module.parents[node]
        if isinstance(node, ast.FunctionDef):
            return node.name.startswith("test")
    return False
