"""`python counted.py OUT ARGUMENTS...`: mpaudit, in one process, and what it does, counted.

Counts do not depend on the machine. Written to OUT as JSON: how many scripts were opened, bytes of
these, how often a script was parsed, how many modules were imported, mpaudit's own among them, the
evaluations that the engine's budget counts, and the functions called, those of the interpreter among them.
"""

import contextlib
import cProfile
import json
import os
import sys


def main() -> None:
    out, arguments = sys.argv[1], sys.argv[2:]
    opened: list[str] = []
    parsed: list[str] = []

    def watch(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[0].endswith(".py"):
            opened.append(arguments[0])
        elif event == "compile" and arguments[1] is not None:
            parsed.append(os.fsdecode(arguments[1]))

    sys.addaudithook(watch)
    from mpaudit.cli import main as program
    from mpaudit.source.engine.call import Calls

    spend, spent = Calls.spend, 0

    def noted(engine: Calls, amount: int = 1) -> None:
        nonlocal spent
        spent += amount
        spend(engine, amount)

    Calls.spend = noted
    sys.argv = ["mpaudit", *arguments]
    profile = cProfile.Profile()
    with contextlib.suppress(SystemExit):
        profile.runcall(program)
    own = os.path.dirname(os.path.abspath(sys.modules["mpaudit"].__file__))  # noqa: PTH100, PTH120
    scripts = [name for name in opened if not name.startswith((own, sys.prefix, sys.base_prefix))]
    counts = {
        "files opened": len(scripts),
        "bytes opened": sum(map(os.path.getsize, scripts)),
        "files parsed": len([name for name in parsed if name.endswith(".py")]),
        "modules imported": len(sys.modules),
        "modules of mpaudit": sum(name.startswith("mpaudit") for name in sys.modules),
        "evaluations": spent,
        "functions called": sum(each.callcount for each in profile.getstats()),
    }
    with open(out, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(counts, file)


if __name__ == "__main__":
    main()
