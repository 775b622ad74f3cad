"""Modules to problems, by the engine, the protocols and the checks; loaded only where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpaudit import protocols
from mpaudit.checks import ADVICE, CHECKS
from mpaudit.extension import registry
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.protocols import protocol
from mpaudit.protocols.protocol import Noted, Verdict
from mpaudit.source.analysis import Engine
from mpaudit.source.module import Module
from mpaudit.source.names import Names
from mpaudit.source.project import Project

__all__ = ["Found", "Verdict", "executed", "looked", "mended", "settle"]

Found = tuple[Problem, Fix | None]


def executed(
    project: Project, modules: Sequence[Module]
) -> tuple[dict[str, list[Verdict]], dict[str, list[str]]]:
    """The verdicts on modules, by file, and the parts of files that could not be followed."""
    protocols.add(each for plugin in registry.loaded() for each in plugin.protocols)
    engine = Engine(project)
    verdicts: dict[str, list[Verdict]] = {}
    exhausted: dict[str, list[str]] = {}
    for module in modules:
        with registry.blaming():
            verdicts[module.filename] = engine.audit(module)
        if engine.exhausted:
            exhausted[module.filename] = list(engine.exhausted)
        if engine.identities.overgrown:
            noted = (v.fact for each in verdicts.values() for v in each if isinstance(v, Noted))
            engine.identities.sweep(noted)
    return verdicts, exhausted


def looked(module: Module, *, advice: bool) -> Iterator[Found]:
    """What the checks see in a module, which then keeps nothing but its tree."""
    for look in (*CHECKS, *(ADVICE if advice else ())):
        yield from look(module)
    for plugin in registry.loaded():
        for look in plugin.checks:
            with registry.blaming():
                found = list(look(module))
            registry.described(problem.rule for problem, _ in found)
            yield from found
    module.forget()
    Names.forget(module)


def settle(verdicts: list[Verdict]) -> list[Problem]:
    """The problems that stand once the verdicts of all paths are in."""
    with registry.blaming():
        problems = protocol.settle(verdicts)
    registry.described(problem.rule for problem in problems)
    return problems


def mended(problems: Sequence[Problem], project: Project) -> Iterator[Found]:
    """The problems in files that the user asked for, with their fixes."""
    if not problems:
        return
    from mpaudit.source.repair import Context, repair

    for problem in problems:
        there = project.checked(problem.span.filename)
        if there is not None:
            here = [p for p in problems if p.span.filename == problem.span.filename]
            yield problem, repair(Context(problem, there, here))
