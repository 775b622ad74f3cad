"""Running a script as `python script args` would, watched, with a trace at the end."""

from __future__ import annotations

import shlex
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.protocols import machines
from mpaudit.rule import Rule
from mpaudit.runtime import failure, process, target
from mpaudit.runtime.divergence import Comparison
from mpaudit.runtime.probe import Probes
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.tracer import Tracer


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
) -> int:
    """Run what is called `name` (a script; a module or a text, as `how` says), and trace it.

    Returns the exit code that `python` would have ended with. `argv` are the program's arguments.
    `device` is "auto", "cuda" or "cpu". `source` is a corrected text to run in place of the file's.
    `static` gives the static pass's findings; it is asked only when the script dies of a mistake that
    a rule explains. `compared` is how it came out when the script was compared with float32;
    `rehearsal` makes this run one of those that are compared. Raises MpauditError, before anything is
    written, if there is nothing to run.
    """
    program = find(name, source, how)
    tracer = Tracer(process.trace_path(program.name, output), machines())
    _note_run(tracer, program, argv, corrected=source is not None)
    if compared is not None:
        tracer.note("reference", compared.facts())
        for problem in compared.problems:
            tracer.problem(problem)
    began_in = Path.cwd()
    probes = Probes(tracer, device, note, rehearsal)
    code, error = 1, None
    try:
        with _interpreter(program, argv), probes:
            code, error = _execute(program)
    except MpauditError:  # what was asked for cannot be had here: there is nothing to keep
        tracer.close()
        tracer.path.unlink()
        raise
    finally:
        close(tracer, code, error)
    if error is not None:
        sys.stdout.flush()
        failure.show(error, corrected=source is not None)
        for line in failure.explain(error, static):
            _say(line)
    if failure.lacks_framework(error):
        tracer.path.unlink(missing_ok=True)  # nothing ran that could have been watched
    elif tracer.alive:
        say_what_next(tracer, began_in, None if error is None else failure.behind(str(error)))
    return code


def close(tracer: Tracer, code: int | None, error: BaseException | None) -> None:
    """Finish a trace; where that cannot be written any more, say so."""
    try:
        tracer.close(code, None if error is None else _last_line(error))
    except sqlite3.Error as problem:  # a full disk is no reason to lose the script's own end
        note(f"the trace could not be finished ({problem}); it holds what was written before")


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
        for thread in threading.enumerate():  # as the interpreter does at its end
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
    return 0, None


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


def _note_run(
    tracer: Tracer, program: target.Target, argv: Sequence[str], *, corrected: bool
) -> None:
    facts = {
        "script": program.filename,
        "module": program.name if program.spec is not None else None,
        "argv": list(argv),
        "source_edited": corrected,
        "sources": {program.filename: program.text},
        **process.facts(),
    }
    for key, value in facts.items():
        tracer.note(key, value)
    tracer.flush()


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(type(error), error)[-1].strip()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def note(line: str) -> None:
    """Tell the user something, on stderr: stdout is the script's."""
    _say(f"mpaudit: {line}")


def say_what_next(tracer: Tracer, folder: Path, died_of: Rule | None = None) -> None:
    """Tell where the trace is, for a shell in `folder`, and what can be done with it."""
    inside = tracer.path.is_relative_to(folder)
    path = shlex.quote(str(tracer.path.relative_to(folder) if inside else tracer.path))
    rules = [] if died_of is None else [died_of.name]
    rules += [problem.rule for problem in tracer.problems()]
    if tracer.fact("framework") is None:
        note("the script imported neither torch nor keras: there was nothing to watch")
    for problem in tracer.fact("probe_errors"):
        note(f"a probe failed, the run did not: {problem}")
    if not tracer.path.exists():
        return note(f"the trace was removed while the script ran: {path}")
    note(f"the trace is {path}; look at it with")
    _say(f"  mpaudit report {path}")
    _say(f"  mpaudit report {path} --format json")
    _say(f"  mpaudit explain {rules[0] if rules else 'no-mixed-precision'}")
    return None
