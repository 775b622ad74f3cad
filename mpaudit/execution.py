"""Modules to problems, by the engine, the protocols and the checks; loaded only where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpaudit.checks import ADVICE, CHECKS
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.protocols.protocol import Verdict, settle
from mpaudit.source.analysis import Engine
from mpaudit.source.module import Module
from mpaudit.source.project import Project
from mpaudit.source.repair import Context, repair

__all__ = ["Found", "Verdict", "executed", "looked", "mended", "settle"]

Found = tuple[Problem, Fix | None]


def executed(
    project: Project, modules: Sequence[Module]
) -> tuple[dict[str, list[Verdict]], dict[str, list[str]]]:
    """The verdicts on modules, by file, and the parts of files that could not be followed."""
    engine = Engine(project)
    verdicts: dict[str, list[Verdict]] = {}
    exhausted: dict[str, list[str]] = {}
    for module in modules:
        verdicts[module.filename] = engine.audit(module)
        if engine.exhausted:
            exhausted[module.filename] = list(engine.exhausted)
    return verdicts, exhausted


def looked(module: Module, *, advice: bool) -> Iterator[Found]:
    """What the checks see in a module."""
    for look in (*CHECKS, *(ADVICE if advice else ())):
        yield from look(module)


def mended(problems: Sequence[Problem], project: Project) -> Iterator[Found]:
    """The problems in files that the user asked for, with their fixes."""
    for problem in problems:
        there = project.checked(problem.span.filename)
        if there is not None:
            here = [p for p in problems if p.span.filename == problem.span.filename]
            yield problem, repair(Context(problem, there, here))
