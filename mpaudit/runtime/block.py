"""Watching a part of a program from within it: `with mpaudit.trace("out.mpa"):`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpaudit.errors import MpauditError
from mpaudit.protocols import machines
from mpaudit.runtime import failure, launch, process
from mpaudit.runtime.frame import is_users
from mpaudit.runtime.probe import Probes
from mpaudit.runtime.tracer import Tracer


@contextmanager
def trace(output: Path | None, device: str | None) -> Iterator[Path]:
    """Watch what happens in the block, see `mpaudit.trace`."""
    if device not in (None, "auto", "cuda", "cpu"):
        raise MpauditError(f"trace: device is 'auto', 'cuda', 'cpu' or None, not {device!r}")
    if (running := Tracer.running()) is not None:
        raise MpauditError(
            f"trace: this process writes {running.path} already, and one trace is taken at a time; "
            "take one block out of the other, or run the script without `mpaudit run`"
        )
    script = getattr(sys.modules["__main__"], "__file__", None)
    name = "notebook" if script is None or not is_users(script) else Path(script).name
    tracer = Tracer(process.trace_path(name, output), machines())
    facts = {"script": script, "module": None, "argv": sys.argv[1:], "source_edited": False}
    for key, value in {**facts, "sources": {}, **process.facts()}.items():
        tracer.note(key, value)
    folder = Path.cwd()
    probes = Probes(tracer, device, launch.note)
    try:
        probes.__enter__()
    except MpauditError:
        tracer.close()
        tracer.path.unlink()
        raise
    error: BaseException | None = None
    try:
        yield tracer.path
    except BaseException as raised:
        error = raised
        raise
    finally:
        probes.__exit__()
        launch.close(tracer, None if error is None else 1, error)
        if tracer.alive:
            launch.say_what_next(tracer, folder, failure.behind(str(error)) if error else None)
