"""The processes that a watched script starts: those that train get traces of their own.

Programs, such as the ranks that torchrun, accelerate and deepspeed start, find `child/sitecustomize.py`
on their path. What multiprocessing starts is marked here, before it starts: a process whose target is
the user's, or torch's `spawn`. Workers of a DataLoader are not; one that was forked has every hook
taken away again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins
from msgspec.structs import replace

import mpaudit
from mpaudit.errors import MpauditError
from mpaudit.runtime import process
from mpaudit.runtime.child.sitecustomize import CHILD, FAMILY, SPAWN
from mpaudit.runtime.frame import is_users
from mpaudit.runtime.trace import Reader

_FOLDER = str(Path(__file__).parent / "child")


class Family(Struct, frozen=True):
    """One run and the processes that it starts.

    `run` tells it from others, `folder` is where it was started, `output` what -o said, `options` are
    those of `mpaudit run` for its children. `facts` say what runs, as in a trace (script, module,
    argv), `name` as in the name of a trace. `prefix` and `origin` are Python's and mpaudit's places:
    a child that has others is left alone. `child`: this process was started by another of the run.
    """

    run: str
    folder: str
    output: str | None
    options: Sequence[str]
    name: str
    facts: Mapping[str, Any]
    prefix: str = sys.prefix
    origin: str = str(mpaudit.__file__)
    child: bool = False

    @classmethod
    def alone(
        cls,
        name: str,
        facts: Mapping[str, Any],
        output: Path | None,
        options: Sequence[str] = (),
    ) -> Family:
        """A run that begins here."""
        given = None if output is None else str(output)
        return cls(process.run_name(), str(Path.cwd()), given, options, name, facts)


def family(
    name: str, facts: Mapping[str, Any], output: Path | None, options: Sequence[str]
) -> Family:
    """The family of this process: that of the run which started it, else a new one."""
    found = _inherited()
    if found is None:
        return Family.alone(name, facts, output, options)
    if "<string>" not in facts["sources"]:
        return replace(found, name=name, facts=facts, child=True)
    return replace(
        found, child=True
    )  # multiprocessing's own text: what runs is the parent's script


def _inherited() -> Family | None:
    if json.loads(os.environ.get(CHILD, "{}")).get("pid") != os.getpid():
        return None
    return Family(**json.loads(os.environ[FAMILY]))


@contextmanager
def or_plain() -> Iterator[None]:
    """A block without which a child cannot be traced: if it fails, the child goes on as it was begun."""
    try:
        yield
    except MpauditError:
        if _inherited() is not None:
            argv = json.loads(os.environ[CHILD])["argv"]
            os.execv(sys.executable, [sys.executable, *argv[1:]])
        raise


@contextmanager
def followed(family: Family) -> Iterator[None]:
    """Have the processes that are started in the block found by their sitecustomize."""
    before = {name: os.environ.get(name) for name in (FAMILY, "PYTHONPATH")}
    facts = {**family.facts, "sources": {}}  # an environment variable holds no more than 128 KiB
    os.environ[FAMILY] = json.dumps(to_builtins(replace(family, facts=facts, child=False)))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_FOLDER, before["PYTHONPATH"])))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def traces(family: Family, since: float) -> list[Path]:
    """The traces that children have written, by name; `since` is when the run began (time.time)."""
    output = (
        Path(family.output) if family.output is not None else Path(family.folder, "mpaudit-.mpa")
    )
    found = []
    for path in sorted(Path(family.folder, output).parent.glob(f"{output.stem}*{output.suffix}")):
        with suppress(OSError, MpauditError):
            if path.stat().st_mtime >= since - 1:
                with Reader(path) as trace:
                    meta = trace.meta
                if meta.get("run") == family.run and meta.get("pid") != os.getpid():
                    found.append(path)
    return found


class Births:
    """Marks the processes of multiprocessing that train, and has the forked ones watched anew.

    `renew` is called in a forked child that trains and gives back what ends its trace with the exit
    code; `leave` is called in every other forked child, to take the hooks away. `mine` says whether
    this process is the one that is traced.
    """

    def __init__(
        self,
        renew: Callable[[], Callable[[int], None]],
        leave: Callable[[], None],
        mine: Callable[[], bool],
    ) -> None:
        self._renew = renew
        self._leave = leave
        self._mine = mine

    def install(self) -> Callable[[], None]:
        """Begin; what comes back undoes it. `multiprocessing.process` must have been imported."""
        births, born_as = self, sys.modules["multiprocessing.process"].BaseProcess
        start, bootstrap = born_as.start, born_as._bootstrap

        @wraps(start)
        def marked(self: Any) -> None:
            trains = _trains(self)
            if trains:
                os.environ[SPAWN] = str(os.getpid())
            try:
                start(self)
            finally:
                if trains:
                    os.environ.pop(SPAWN, None)

        @wraps(bootstrap)
        def born(self: Any, *args: Any, **kwargs: Any) -> Any:
            return births._born(lambda: bootstrap(self, *args, **kwargs))

        born_as.start, born_as._bootstrap = marked, born

        def undo() -> None:
            born_as.start, born_as._bootstrap = start, bootstrap

        return undo

    def _born(self, live: Callable[[], int]) -> int:
        if self._mine():  # spawned, and watched from its start
            return live()
        end: Callable[[int], None] | None = None
        with suppress(Exception):
            if os.environ.pop(SPAWN, None) is not None:
                end = self._renew()
            else:
                self._leave()
        code = live()
        if end is not None:
            with suppress(Exception):
                end(code)
        return code


def _trains(process: Any) -> bool:
    """Whether a process of multiprocessing runs the user's code, or torch's wrapper around it."""
    target = getattr(process, "_target", None)
    if target is None:
        target = type(process).run
    target = getattr(target, "func", target)  # functools.partial
    if getattr(target, "__module__", None) == "torch.multiprocessing.spawn":
        return True
    code = getattr(target, "__code__", None)
    return code is not None and is_users(code.co_filename)
