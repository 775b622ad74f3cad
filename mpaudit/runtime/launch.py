"""Running a script as `python script args` would, watched, with a trace at the end."""

from __future__ import annotations

import os
import shlex
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import mpaudit
from mpaudit.errors import MpauditError
from mpaudit.finding import Finding
from mpaudit.protocols import machines
from mpaudit.rule import Rule
from mpaudit.runtime import failure, target
from mpaudit.runtime.arrival import Arrival
from mpaudit.runtime.divergence import Comparison
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.tracer import Tracer

Uninstall = Callable[[], None]


def run(
    name: str,
    argv: Sequence[str],
    *,
    module: bool = False,
    device: str = "auto",
    output: Path | None = None,
    source: str | None = None,
    static: Callable[[], Sequence[Finding]] | None = None,
    compared: Comparison | None = None,
    rehearsal: Plan | None = None,
) -> int:
    """Run the script (or, with `module`, the module) called `name` with `argv`, and trace it.

    Returns the exit code that `python` would have ended with. `device` is "auto", "cuda" or "cpu".
    `source` is a corrected text to run in place of the file's. `static` gives the static pass's
    findings; it is asked only when the script dies of a mistake that a rule explains. `compared` is
    how it came out when the script was compared with float32; `rehearsal` makes this run one of
    those that are compared. Raises MpauditError, before anything is written, if there is nothing to
    run.
    """
    program = find(name, source, module=module)
    tracer = Tracer(output or Path(_trace_name(program.name)), machines())
    _note_run(tracer, program, argv, corrected=source is not None)
    if compared is not None:
        tracer.note("reference", compared.facts())
        for problem in compared.problems:
            tracer.problem(problem)
    probes = _Probes(tracer, device, rehearsal)
    code, error = 1, None
    try:
        with _interpreter(program, argv), probes:
            code, error = _execute(program)
    except MpauditError:  # what was asked for cannot be had here: there is nothing to keep
        tracer.close()
        tracer.path.unlink()
        raise
    finally:
        _close(tracer, code, error)
    if error is not None:
        sys.stdout.flush()
        failure.show(error, corrected=source is not None)
        for line in failure.explain(error, static):
            _say(line)
    if failure.lacks_framework(error):
        tracer.path.unlink(missing_ok=True)  # nothing ran that could have been watched
    elif tracer.alive:
        _say_what_next(tracer, None if error is None else failure.behind(str(error)))
    return code


def _close(tracer: Tracer, code: int, error: BaseException | None) -> None:
    try:
        tracer.close(code, None if error is None else _last_line(error))
    except sqlite3.Error as problem:  # a full disk is no reason to lose the script's own end
        _note(f"the trace could not be finished ({problem}); it holds what was written before")


def find(name: str, source: str | None = None, *, module: bool = False) -> target.Target:
    """The script or module called `name`, with `source` in place of its text where one is given."""
    with _path(None if not module else str(Path.cwd())):
        return (target.module if module else target.script)(name, source)


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


class _Probes:
    """The probes of the frameworks, each installed when the script has imported its framework."""

    def __init__(self, tracer: Tracer, device: str, rehearsal: Plan | None) -> None:
        self._tracer = tracer
        self._rehearsal = rehearsal
        self._device = device
        self._installed: list[Uninstall] = []
        watched = {"torch": self._torch, "keras": self._keras, "tf_keras": self._keras}
        self._arrival = Arrival(watched)

    def __enter__(self) -> None:
        self._arrival.install()

    def __exit__(self, *_: object) -> None:
        self._arrival.remove()
        try:
            self._tracer.flush()
        except sqlite3.Error as problem:
            self._tracer.failed("writing the trace", problem)
        while self._installed:
            try:
                self._installed.pop()()
            except Exception as problem:
                self._tracer.failed("uninstalling a probe", problem)

    def _torch(self) -> None:
        self._install("mpaudit.runtime.torch_probe", "torch")

    def _keras(self) -> None:
        self._install("mpaudit.runtime.keras_probe", "keras")

    def _install(self, module: str, framework: str) -> None:
        from importlib import import_module

        try:
            probe = import_module(module)
            if framework == "torch":
                self._installed.append(
                    probe.install(self._tracer, self._device, _note, self._rehearsal)
                )
            else:
                self._installed.append(probe.install(self._tracer))
        except MpauditError:
            raise
        except Exception as problem:
            self._tracer.failed(f"the {framework} probe", problem)
            _note(f"the {framework} probe failed ({problem}); the run goes on unwatched")


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


def _trace_name(program: str) -> str:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = f".r{os.environ.get('RANK', '0')}" if ranks > 1 else ""
    return f"mpaudit-{program}.{os.getpid()}{rank}.mpa"


def _note_run(
    tracer: Tracer, program: target.Target, argv: Sequence[str], *, corrected: bool
) -> None:
    facts = {
        "script": program.filename,
        "module": program.name if program.spec is not None else None,
        "argv": list(argv),
        "framework": None,
        "versions": {"python": sys.version.split()[0], "mpaudit": mpaudit.__version__},
        "device": None,
        "emulated": False,
        "started": datetime.now(timezone.utc).isoformat(),
        "pid": os.getpid(),
        "rank": int(os.environ.get("RANK", "0")),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "source_edited": corrected,
        "sources": {program.filename: program.text},
    }
    for key, value in facts.items():
        tracer.note(key, value)
    tracer.flush()


def _last_line(error: BaseException) -> str:
    return traceback.format_exception_only(type(error), error)[-1].strip()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _note(line: str) -> None:
    _say(f"mpaudit: {line}")


def _say_what_next(tracer: Tracer, died_of: Rule | None) -> None:
    path = shlex.quote(str(tracer.path))
    rules = [] if died_of is None else [died_of.name]
    rules += [problem.rule for problem in tracer.problems()]
    if tracer.fact("framework") is None:
        _note("the script imported neither torch nor keras: there was nothing to watch")
    for problem in tracer.fact("probe_errors"):
        _note(f"a probe failed, the run did not: {problem}")
    _note(f"the trace is {path}; look at it with")
    _say(f"  mpaudit report {path}")
    _say(f"  mpaudit report {path} --format json")
    _say(f"  mpaudit explain {rules[0] if rules else 'no-mixed-precision'}")
