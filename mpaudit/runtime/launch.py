"""Running a script as `python script args` would, watched, with a trace at the end."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.runtime import failure, offspring, process, target
from mpaudit.runtime.divergence import Comparison
from mpaudit.runtime.imported import Imports
from mpaudit.runtime.recording import Recording
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.sampling import EVERYTHING, Sampling

_POOLS = (
    ("concurrent.futures.thread", "_threads_queues"),
    ("concurrent.futures.process", "_threads_wakeups"),
)
"""Modules, and the tables of their threads which end only with the interpreter."""


def run(
    name: str,
    argv: Sequence[str],
    *,
    how: target.How = "script",
    device: str = "auto",
    output: Path | None = None,
    source: str | None = None,
    static: Callable[[], Sequence[Finding]] | None = None,
    compared: Comparison | None = None,
    rehearsal: Plan | None = None,
    children: Sequence[str] | None = None,
    applied: Mapping[str, Any] | None = None,
    sampling: Sampling = EVERYTHING,
    kept: Callable[[list[Path]], None] | None = None,
) -> int:
    """Run what is called `name` (a script; a module or a text, as `how` says), and trace it.

    Returns the exit code that `python` would have ended with. `argv` are the program's arguments.
    `device` is "auto", "cuda" or "cpu". `source` is a corrected text to run in place of the file's.
    `static` gives the static pass's findings; it is asked only when the script dies of a mistake that
    a rule explains. `compared` is how it came out when the script was compared with float32;
    `rehearsal` makes this run one of those that are compared. `children` are the options of
    `mpaudit run` for the processes that the script starts; None leaves them alone. `applied` is the
    fact of that name: its "advice" is put into effect. `sampling` says how closely the run is looked
    at. `kept` is told which traces there are at the end. Raises MpauditError, before anything is
    written, if there is nothing to run.
    """
    with offspring.or_plain():
        program = find(name, source, how)
        facts = _facts(program, argv, corrected=source is not None)
        family = offspring.family(program.name, facts, output, children or ())
        recording = Recording(family, device, note, rehearsal, applied, sampling)
    tracer = recording.tracer
    if compared is not None:
        tracer.note("reference", compared.facts())
        for problem in compared.problems:
            tracer.problem(problem)
    code, error = 1, None
    imports = Imports()
    try:
        with _interpreter(program, argv), recording.watching(children is not None):
            code, error = _execute(program)
    except MpauditError:  # what was asked for cannot be had here
        if tracer.empty:
            recording.discard()
        raise
    finally:
        tracer.note("modules", imports.files())
        recording.close(code, error)
    if error is not None:
        sys.stdout.flush()
        failure.show(error, corrected=source is not None)
        for line in failure.explain(error, static):
            _say(line)
    if failure.lacks_framework(error):
        recording.discard()  # nothing ran that could have been watched
    elif tracer.alive:
        found = recording.kept()
        if kept is not None:
            kept(found)
        if applied is not None and any(path != tracer.path for path in found):
            note("what was applied was applied in this process only, not in those that it started")
        if not family.child and process.rank() == 0:  # the others need not repeat it
            say_what_next(recording, found, error)
    return code


def find(name: str, source: str | None = None, how: target.How = "script") -> target.Target:
    """What `python` would run, with `source` in place of its text where one is given."""
    if how == "code":
        return target.code(name if source is None else source)
    with _path(None if how == "script" else str(Path.cwd())):
        return (target.module if how == "module" else target.script)(name, source)


def _execute(program: target.Target) -> tuple[int, BaseException | None]:
    """Run the code; returns the exit code, and the exception to show if one ended it."""
    try:
        exec(program.code, vars(sys.modules["__main__"]))
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return leaving.code or 0, None
        sys.stdout.flush()
        print(leaving.code, file=sys.stderr)
        return 1, None
    except KeyboardInterrupt as interrupt:
        return 130, interrupt
    except MpauditError:
        raise
    except BaseException as error:
        return 1, error
    finally:
        _wait_for_threads()
    return 0, None


def _wait_for_threads() -> None:
    """Wait as the interpreter does at its end, for all that are no daemons.

    Those of pools that the script left open go on until the interpreter itself tells them that it is
    over: nothing ends them before.
    """
    for thread in threading.enumerate():
        pooled = any(thread in _pooled(*each) for each in _POOLS)
        if thread is not threading.current_thread() and not thread.daemon and not pooled:
            thread.join()


def _pooled(module: str, table: str) -> Container[threading.Thread]:
    found: Container[threading.Thread] = getattr(sys.modules.get(module), table, ())
    return found


@contextmanager
def _path(first: str | None) -> Iterator[None]:
    """`sys.path` as the program will see it, so that its modules are found."""
    before = list(sys.path)
    if first is not None and not getattr(sys.flags, "safe_path", False):
        sys.path[0:1] = [first]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _interpreter(program: target.Target, argv: Sequence[str]) -> Iterator[None]:
    """The interpreter's state as the program expects it: argv, path, `__main__`; and back."""
    before = sys.argv, sys.modules["__main__"]
    sys.argv = [program.argument, *argv]
    sys.modules["__main__"] = program.module()
    program.remember()
    with _path(program.folder):
        try:
            yield
        finally:
            sys.argv, sys.modules["__main__"] = before


def _facts(program: target.Target, argv: Sequence[str], *, corrected: bool) -> dict[str, Any]:
    return {
        "script": program.filename,
        "module": program.name if program.spec is not None else None,
        "argv": list(argv),
        "source_edited": corrected,
        "sources": {program.filename: program.text},
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def note(line: str) -> None:
    """Tell the user something, on stderr: stdout is the script's."""
    _say(f"mpaudit: {line}")


def say_what_next(
    recording: Recording, found: Sequence[Path], error: BaseException | None = None
) -> None:
    """Tell which traces there are, and what can be done with them; `error` ended the script."""
    tracer = recording.tracer
    died_of = None if error is None else failure.cause_of(error).rule
    rules = [] if died_of is None else [died_of.name]
    rules += [problem.rule for problem in tracer.problems()]
    paths = shlex.join(recording.shown(path) for path in found)
    if not found:
        path = recording.shown(tracer.path)
        return note(f"the trace was removed while the script ran: {path}")
    if len(found) == 1 and tracer.fact("framework") is None and tracer.path in found:
        note("the script imported neither torch nor keras: there was nothing to watch")
    for problem in tracer.fact("probe_errors"):
        note(f"a probe failed, the run did not: {problem}")
    if len(found) == 1 and process.world_size() > 1:
        folder = shlex.quote(str(Path(recording.shown(found[0])).parent))
        note(f"each rank leaves a trace, this one {paths}; look at all of them with")
        paths = folder
    elif len(found) == 1:
        note(f"the trace is {paths}; look at it with")
    else:
        note(f"{len(found)} processes left traces; look at them together with")
    _say(f"  mpaudit report {paths}")
    _say(f"  mpaudit report {paths} --format json")
    if rules:
        _say(f"  mpaudit explain {rules[0]}")
    return None
