"""Watching a part of a program from within it: `with mpaudit.trace("out.mpa"):`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpaudit.errors import MpauditError
from mpaudit.runtime import launch, offspring
from mpaudit.runtime.frame import is_users
from mpaudit.runtime.recording import Recording
from mpaudit.runtime.sampling import Sampling
from mpaudit.runtime.tracer import Tracer


@contextmanager
def trace(
    output: Path | None, device: str | None, every: int | None = None, light: bool = False
) -> Iterator[Path]:
    """Watch what happens in the block, see `mpaudit.trace`."""
    if device not in (None, "auto", "cuda", "cpu"):
        raise MpauditError(f"trace: device is 'auto', 'cuda', 'cpu' or None, not {device!r}")
    if every is not None and (not isinstance(every, int) or every < 1):
        raise MpauditError(f"trace: every is a number of steps, 1 or more, not {every!r}")
    if (running := Tracer.running()) is not None:
        raise MpauditError(
            f"trace: this process writes {running.path} already, and one trace is taken at a time; "
            "take one block out of the other, or run the script without `mpaudit run`"
        )
    script = getattr(sys.modules["__main__"], "__file__", None)
    name = "notebook" if script is None or not is_users(script) else Path(script).name
    argv = {"argv": sys.argv[1:], "source_edited": False}
    facts = {"script": script, "module": None, **argv, "sources": {}}
    family, sampling = offspring.Family.alone(name, facts, output), Sampling(every, light)
    recording = Recording(family, device, launch.note, sampling=sampling)
    error: BaseException | None = None
    begun = False
    try:
        with recording.watching():
            begun = True
            yield recording.tracer.path
    except BaseException as raised:
        error = raised
        if not begun:  # what was asked for cannot be had here
            recording.discard()
        raise
    finally:
        recording.close(None if error is None else 1, error)
        if begun and recording.tracer.alive:
            launch.say_what_next(recording, recording.kept(), error)
