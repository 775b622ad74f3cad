"""The checks that need no order of events: each looks at a module and yields problems and fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mpaudit.checks import deprecated_torch_amp
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.module import Module

Check = Callable[[Module], Iterator[tuple[Problem, Fix | None]]]

CHECKS: tuple[Check, ...] = (deprecated_torch_amp.check,)
