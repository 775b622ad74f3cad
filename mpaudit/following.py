"""Files followed together: their problems, in groups of files that have to do with each other."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct, field

from mpaudit.config import UNREADABLE
from mpaudit.finding import Problem
from mpaudit.fix import Fix
from mpaudit.source.text.config_file import UnreadableConfigError
from mpaudit.source.text.discovery import concerns
from mpaudit.source.text.document import Document, Script, read
from mpaudit.source.text.module import Module
from mpaudit.source.text.notebook_json import UnreadableNotebookError
from mpaudit.source.text.parsing import UnparsableError
from mpaudit.source.text.project import Project, Trail

Found = tuple[Problem, Fix | None]
MODULE, IMPORTER, NAMED = "module", "importer", "named"
"""What a file is audited as: it concerns a rule; it trains, with what others define; the user named it."""


class Group(Struct):
    """Files that have read a file in common, directly or through others, and so are judged together.

    `names` are those of its audited files, `read` the absolute paths of all files that it has read, its
    own among them, `asked` paths whose existence mattered, `roots` folders of which all scripts
    mattered. `touched` are the absolute paths of those of which more was asked than what their names
    stand for (`mpaudit.execution.Outcome`). `exhausted` are the files that could not be
    followed to their end, with the parts in question; without any, those that were followed in part.
    """

    names: list[str] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)
    problems: list[Found] = field(default_factory=list)
    exhausted: dict[str, list[str]] = field(default_factory=dict)

    def awaited(self) -> Iterable[str]:
        """The paths whose existence mattered."""
        return self.asked


class Turns:
    """Which files of a batch are followed: all, unless some are left to another process."""

    def takes(self, name: str) -> bool:  # noqa: ARG002
        """Whether a file is followed, whose turn has come; also asked once all are through."""
        return True

    def touched(self, files: set[str]) -> None:
        """Be told what following a file has touched."""


ALONE = Turns()


class Batch:
    """Files that are followed by one engine; `widened` says where rules off by default may be on."""

    def __init__(self, project: Project, widened: Callable[[str], bool]) -> None:
        self.project = project
        self.documents: dict[str, Document] = {}
        self._widened = widened
        self._broken: dict[str, list[Problem]] = {}
        self._modules: list[Module] = []

    def anew(self, roles: Iterable[tuple[str, str]]) -> Batch:
        """A batch of some files (names, with what each is audited as), of which nothing was read yet."""
        batch = Batch(self.project.anew(), self._widened)
        for name, role in roles:
            take(batch, name, role)
        return batch

    def add(self, document: Document) -> None:
        """Take a file to be audited, whether it can be read or not."""
        name = document.filename
        self.documents[name] = document.light()
        self._broken[name] = [unparsable(problem) for problem in document.broken]
        module = _unparsed(document)
        self.project.add(Path(name), module)
        if concerns(document.text.encode("utf-8", "replace")):
            self._modules.append(module)
        elif (problem := module.glance(_problem)) is not None:
            self._broken[name].append(unparsable(problem))

    def add_importer(self, document: Document) -> None:
        """Take a file that imports others that concern us; it mentions nothing of ours itself."""
        module = _unparsed(document)
        self.documents[document.filename] = document.light()
        self.project.add(Path(document.filename), module)
        self._modules.append(module)

    def reject(self, name: str, problem: Problem) -> None:
        """Note a file that is no text, or no notebook."""
        self._broken[name] = [problem]

    def follow(self, turns: Turns = ALONE) -> list[Group]:
        """Execute the files abstractly, and look at each: what is wrong, and how it is mended."""
        seen: dict[str, list[Found]] = {
            name: [(problem, None) for problem in found] for name, found in self._broken.items()
        }
        told: dict[str, list[Found]] = {}
        exhausted, touched = dict[str, list[str]](), dict[str, set[str]]()
        if self._modules:
            from mpaudit import execution

            running = execution.Execution(self.project)
            for module in self._modules:
                audited, name = module.filename in seen, module.filename
                if not turns.takes(name):
                    continue
                problem = _problem(module)
                if problem is not None:
                    if audited:
                        seen[name].append((unparsable(problem), None))
                    continue
                running.follow(module)
                if audited:
                    seen[name].extend(execution.looked(module, advice=self._widened(name)))
                running.leave(module)
                turns.touched(running.outcomes[name].touched)
            outcomes = running.outcomes
            exhausted = {
                name: each.exhausted
                for name, each in outcomes.items()
                if each.exhausted or each.narrowed
            }
            touched = {name: each.touched for name, each in outcomes.items()}
            order = [*dict.fromkeys((*filter(turns.takes, seen), *outcomes))]
            for names in self._together(order):
                here = [outcomes[name] for name in names if name in outcomes]
                standing = execution.settle([v for each in here for v in each.verdicts])
                told[names[0]] = list(execution.mended(standing, self.project))
        else:
            order = list(filter(turns.takes, seen))
        groups: list[Group] = []
        for names in self._together(order):  # a repair may have read further files
            read = self._reached(names)
            trails = [trail for each in read if (trail := self._trail(each)) is not None]
            asked = {path for trail in trails for path in trail.asked}
            roots = {path for trail in trails for path in trail.roots}
            problems = [p for name in names for p in (*seen.get(name, ()), *told.get(name, ()))]
            left = {name: exhausted[name] for name in names if name in exhausted}
            more = {path for name in names for path in touched.get(name, {name})}
            stake = {os.path.abspath(path) for path in more}  # noqa: PTH100
            groups.append(Group(names, read, stake, asked, roots, problems, left))
        return groups

    def _together(self, names: Iterable[str]) -> list[list[str]]:
        """Names in groups, in order: two are together if they have reached a file in common."""
        groups: list[tuple[list[str], set[str]]] = []
        owner: dict[str, int] = {}
        for name in names:
            read = self._reached([name])
            old = sorted({owner[path] for path in read if path in owner})
            groups.append(([name], read))
            for number in reversed(old):
                groups[-1][0][:0] = groups[number][0]
                groups[-1][1].update(groups[number][1])
                groups[number] = ([], set())
            for path in groups[-1][1]:
                owner[path] = len(groups) - 1
        return [members for members, _ in groups if members]

    def _reached(self, names: Iterable[str]) -> set[str]:
        """The absolute paths of files, and of all that they have read, directly or through others."""
        waiting = [os.path.abspath(name) for name in names]  # noqa: PTH100 - for each file
        found = set(waiting)
        while waiting:
            trail = self._trail(waiting.pop())
            news = trail.read - found if trail is not None else set()
            found |= news
            waiting += news
        return found

    def _trail(self, path: str) -> Trail | None:
        return self.project.trail.get(path)


def _unparsed(document: Document) -> Module:
    """The module of a file; a script is parsed when its turn comes, and not kept for long."""
    if isinstance(document, Script):
        return Module(document.filename, document.text, encoding=document.encoding)
    return document.module()


def _problem(module: Module) -> UnparsableError | None:
    """What Python says of a module's text if it cannot read it."""
    return module.problem if not module.tree.body else None


def take(batch: Batch, name: str, role: str, data: bytes | None = None) -> None:
    """Give a file to a batch; it is read unless its content is at hand."""
    try:
        document = read(Path(name).read_bytes() if data is None else data, name)
    except UnparsableError as problem:
        if role != IMPORTER:
            batch.reject(name, unparsable(problem))
    except OSError:  # it was there a moment ago
        return
    else:
        if role == IMPORTER:
            batch.add_importer(document)
        else:
            batch.add(document)


def unparsable(problem: UnparsableError) -> Problem:
    """The problem of a file that nobody can read."""
    kind = "a notebook" if isinstance(problem, UnreadableNotebookError) else "Python"
    if isinstance(problem, UnreadableConfigError):
        kind = "a DeepSpeed configuration"
    consequence = ""
    if problem.syntax:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        consequence = (
            f"what cannot be read is not checked; Python {version} read it, which runs mpaudit: newer "
            "syntax needs a newer one"
        )
    message = f"this cannot be read as {kind}: {problem}"
    return Problem(UNREADABLE, problem.span, message, consequence)
