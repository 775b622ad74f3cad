"""The process that has a framework loaded and forks for every script that it is given on stdin."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.executed import SECONDS, Arithmetic

Enter = Callable[[], AbstractContextManager[Callable[[], list[list[float]]]]]
"""Prepares a framework for a script that runs inside; what it gives tells of the parameters."""


def serve(framework: str, arithmetic: Arithmetic) -> None:
    """Answer each line of stdin, a script's text and path as JSON, with a line of JSON."""
    script = importlib.import_module(
        f"tests.executed.{'keras' if framework == 'keras' else 'torch'}_script"
    )
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    script.load()
    nothing = [f"no end in {SECONDS} s, or it died", []] + [[]] * (framework == "watched")
    for line in sys.stdin:
        text, path = json.loads(line)
        folder = tempfile.mkdtemp(prefix="executed-")
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.close(read)
            try:
                place = _enter(folder, text, Path(path))
                ended = (
                    _watch(place)
                    if framework == "watched"
                    else _run(text, place, lambda: script.prepared(arithmetic))
                )
                os.write(write, json.dumps(ended).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read().decode()
        os.waitpid(child, 0)
        shutil.rmtree(folder, ignore_errors=True)
        print(data or json.dumps(nothing), file=answers, flush=True)


def _enter(folder: str, text: str, path: Path) -> str:
    """Put a script into its folder, and this process there; returns the script's path."""
    os.chdir(folder)
    place = Path(folder, path.name)
    place.write_text(text, encoding="utf-8")  # autograph reads the source of what it compiles
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    signal.alarm(SECONDS)
    random.seed(0)
    sys.path.insert(0, str(path.parent))
    if "init_process_group" in text or "deepspeed" in text:  # as torchrun starts one process
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        group = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in group.items()})
        os.environ["MASTER_ADDR"] = "localhost"
    return str(place)


def _watch(path: str) -> list[Any]:
    from mpaudit.runtime.launch import run
    from mpaudit.runtime.trace import Reader

    code = run(path, [], device="cpu")
    for trace in Path.cwd().glob("*.mpa"):
        with Reader(trace) as reader:
            error = reader.meta["exception"] or (f"SystemExit: {code}" if code else "")
            found = [
                [each.rule, each.span.filename, each.span.start.row, each.message]
                for each in reader.problems()
            ]
            return [error, reader.meta["probe_errors"], found]
    return ["a framework is missing", [], []]


def _run(text: str, path: str, prepared: Enter) -> list[Any]:
    sys.argv = [path]
    sys.path.insert(0, str(Path.cwd()))
    module = types.ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    error = ""
    with prepared() as parameters:
        try:
            exec(compile(text, path, "exec", dont_inherit=True), vars(module))
        except SystemExit as leaving:
            error = f"SystemExit: {leaving.code}" if leaving.code else ""
        except BaseException as problem:
            error = f"{type(problem).__name__}: {problem}"
    return [error, parameters()]


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])  # type: ignore[arg-type]
