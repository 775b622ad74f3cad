"""MP405: the logarithm of a softmax or sigmoid, of which log_softmax and logsigmoid are the safe form.

What comes from another function or a model is seen by the protocol of the same rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.checks.log_of_softmax_repair import repair
from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix
from mpaudit.source.trait.logarithm import (
    CONSEQUENCES,
    Activation,
    activation_in,
    logarithm_of,
    only_greatest,
    said,
)

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_MENTIONED = re.compile(r"softmax|sigmoid|expit", re.IGNORECASE)


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the logarithms of activations."""
    if "log(" not in module.text or not _MENTIONED.search(module.text):
        return
    for node in module.every(ast.Call):
        given = logarithm_of(node, module)
        found = activation_in(given, module) if given is not None else None
        if given is not None and found is not None and not only_greatest(node, module):
            yield _problem(module, node, found), repair(module, node, given, found)


def _problem(module: Module, node: ast.Call, found: Activation) -> Problem:
    apart = found.node.lineno != node.lineno
    related = (
        (Related(module.span(found.node), f"{found.nature} is applied here"),) if apart else ()
    )
    return Problem(
        "log-of-softmax", module.span(node), said(found.text), CONSEQUENCES[found.text], related
    )
