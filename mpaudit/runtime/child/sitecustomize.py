"""What Python runs first in every process that a watched script starts: those that train are watched.

`mpaudit.runtime.offspring` puts this folder on their PYTHONPATH. A process that runs a script or a
module of the user's becomes `mpaudit run` of the same; so does one that multiprocessing spawns, where
the parent has marked it. Every other one, a worker of a DataLoader, a compiler's, goes on after a few
comparisons, and nothing of mpaudit is imported in it.
"""

from __future__ import annotations

import os
import sys

FAMILY, CHILD, SPAWN = "MPAUDIT_FAMILY", "MPAUDIT_CHILD", "MPAUDIT_SPAWN"
_NEVER = ("accelerate", "deepspeed", "mpaudit", "pip", "torch")
_FOREIGN = (os.path.dirname(os.__file__), "site-packages", "dist-packages")  # noqa: PTH120 - no pathlib


def split(argv: list[str]) -> tuple[list[str], str, list[str]]:
    """A command line of Python: its own options, "c", "m", or "" for a script, and the program.

    The program is the code, module or script with its arguments; empty where there is none.
    """
    at = 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-":
        if argv[at].startswith("--"):
            at += 2 if argv[at] == "--check-hash-based-pycs" else 1
            continue
        for position, letter in enumerate(argv[at][1:], 1):
            rest = argv[at][position + 1 :]
            if letter in "cm":
                own = [f"-{argv[at][1:position]}"] if position > 1 else []
                program = [rest, *argv[at + 1 :]] if rest else argv[at + 1 :]
                return [*argv[1:at], *own], letter, program
            if letter in "WX":
                at += not rest
                break
        at += 1
    return argv[1:at], "", argv[at:]


def trains(kind: str, program: list[str]) -> bool:
    """Whether a process that runs this may train: it runs the user's code, or is marked."""
    if not program or program[0] == "-":
        return False
    if kind == "c":
        return "--multiprocessing-fork" in program and os.environ.pop(SPAWN, None) is not None
    if kind == "m":
        package = program[0].partition(".")[0]
        return package not in _NEVER and package not in sys.stdlib_module_names
    script = os.path.abspath(program[0])  # noqa: PTH100
    tool = os.path.dirname(script) == os.path.dirname(sys.executable)  # noqa: PTH120
    return not tool and not any(part in script for part in _FOREIGN)


def follow() -> None:
    """Become `mpaudit run` of the same program, with the options of the run that began it all."""
    if os.name != "posix" or sys.version_info < (3, 10):
        return
    own, kind, program = split(argv := sys.orig_argv)
    if not trains(kind, program):
        return
    import json  # only now: those that do not train need not wait for it
    from importlib.util import find_spec

    family = json.loads(os.environ[FAMILY])
    if family["prefix"] != sys.prefix:
        return
    if json.loads(os.environ.get(CHILD, "{}")).get("pid") == os.getpid():
        return  # that has happened already
    ours = find_spec("mpaudit")
    if ours is None or ours.origin != family["origin"]:
        return
    os.environ[CHILD] = json.dumps({"pid": os.getpid(), "argv": argv})
    named = [f"-{kind}"] if kind else []
    run = ["-m", "mpaudit", "run", *family["options"], *named, *program]
    os.execv(sys.executable, [sys.executable, *own, *run])


def step_aside() -> None:
    """Leave sys.path as the user knows it, and run the sitecustomize that this one hides."""
    here = os.path.dirname(__file__)  # noqa: PTH120
    sys.path[:] = [path for path in sys.path if path != here]
    found = (finder.find_spec("sitecustomize", None) for finder in sys.meta_path)
    hidden = next(filter(None, found), None)
    if hidden is not None and hidden.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(hidden)
        sys.modules["sitecustomize"] = module
        hidden.loader.exec_module(module)


if __name__ == "sitecustomize":
    try:
        if FAMILY in os.environ:
            follow()
    except (OSError, ValueError, KeyError):  # the process goes on, unwatched
        os.environ.pop(CHILD, None)
    step_aside()
