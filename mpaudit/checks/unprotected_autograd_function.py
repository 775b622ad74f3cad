"""MP205 and MP215 in a file that uses mixed precision itself.

A file that says nothing of it is judged by the engine: where its function is applied in a region.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.autograd_function import functions, problem_of, speaks_of_amp
from mpaudit.source.repair.autograd_function import suggested

if TYPE_CHECKING:
    from mpaudit.source.module import Module


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the autograd functions that autocast breaks."""
    if "Function" not in module.text or not speaks_of_amp(module):
        return
    for function in functions(module):
        found = problem_of(function, module)
        if found is not None:
            yield found[1], suggested(found[0])
