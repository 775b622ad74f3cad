"""Modules to problems, by the engine, the protocols and the checks; loaded only where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from mpaudit import protocols
from mpaudit.checks import ADVICE, CHECKS
from mpaudit.extension import registry
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.protocols import protocol
from mpaudit.protocols.protocol import Noted, Verdict
from mpaudit.source.analysis import Engine
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.project import Project

__all__ = ["Execution", "Found", "Outcome", "Verdict", "looked", "mended", "settle"]

Found = tuple[Problem, Fix | None]
FALLEN = 500_000
"""Descriptions hold nodes of trees that were dropped: those of so many characters of text are swept out."""


class Outcome(Struct):
    """What came of executing a file.

    `exhausted` are the parts of it that could not be followed to their end; `narrowed` says that some was
    followed for what handles gradients alone. `touched` are the files of
    which more was asked than what their names stand for, itself among them: a function of theirs was
    followed, they make what a protocol watches, or a verdict speaks of them.
    """

    verdicts: list[Verdict]
    exhausted: list[str]
    touched: set[str]
    narrowed: bool = False


class Execution:
    """The modules of a project, executed one after the other by one engine."""

    def __init__(self, project: Project) -> None:
        protocols.add(each for plugin in registry.loaded() for each in plugin.protocols)
        self._engine = Engine(project)
        self.outcomes: dict[str, Outcome] = {}

    def follow(self, module: Module) -> None:
        """Execute a module."""
        engine = self._engine
        with registry.blaming():
            verdicts = engine.audit(module)
        spoken = {place.filename for each in verdicts for place in protocol.places(each)}
        outcome = Outcome(
            verdicts, list(engine.exhausted), engine.touched | spoken, engine.narrowed
        )
        self.outcomes[module.filename] = outcome

    def leave(self, module: Module) -> None:
        """Have done with a module that was followed and looked at: its tree takes much memory."""
        engine = self._engine
        engine.leave(module)
        if engine.identities.overgrown or engine.fallen > FALLEN:
            every = (v for each in self.outcomes.values() for v in each.verdicts)
            engine.identities.sweep(v.fact for v in every if isinstance(v, Noted))
            engine.forget()


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
