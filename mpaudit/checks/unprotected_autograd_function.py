"""MP205 and MP215 in a file that uses mixed precision itself.

A function that does not meet it there is judged by the engine: where it is applied in a region.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.repair.autograd_function import suggested
from mpaudit.source.trait.autograd_function import beside_amp, functions, problem_of

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the autograd functions that autocast breaks."""
    for function in functions(module):
        found = problem_of(function, module)
        if found is not None and beside_amp(function, module):
            yield found[1], suggested(found[0])
