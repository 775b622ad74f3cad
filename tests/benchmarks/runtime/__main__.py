"""`python -m tests.benchmarks.runtime`: what watching costs, counted and timed, with the goals beside it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers

from mpaudit import __version__
from mpaudit.cores import cores

from ..goal import Goal, table
from . import cost, fit, stand_in, time
from .loop import SHAPES

PARTS = ("counted", "timed", "alone", "stand-in", "keras", "keras-timed")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.runtime", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=PARTS, help="one of the parts; the others' rows are kept")
    parser.add_argument("--cycles", type=int, default=24, help="steps for each way of mpaudit")
    parser.add_argument(
        "--rounds", type=int, default=3, help="pairs of turns for each other watcher"
    )
    given = parser.parse_args(arguments)
    if given.cycles < LEAST:
        parser.error(
            f"--cycles {given.cycles}: take {LEAST} or more; in fewer no step goes unwatched"
        )
    results = Path(__file__).parent.with_name(f"runtime_results{SUFFIX[given.device]}.json")
    keep = given.only is not None and results.exists()
    known: dict[str, Any] = json.loads(results.read_text()) if keep else {}
    goals: list[Goal] = []
    for found, overhead in _parts(given):  # written as it comes: all of it takes a while
        goals += found
        known = joined(known, facts(given.device, found, overhead))
        results.write_text(json.dumps(known, indent=1) + "\n")
        for shape, said in overhead.items():
            print(f"{SHAPES[shape]}: {time.truth(said)}")
    print(table(goals))
    return 0


def _parts(given: argparse.Namespace) -> Iterator[tuple[list[Goal], dict[str, Any]]]:
    """What was asked for, measured part by part; and what mpaudit says of its own cost, by shape."""

    def asked(part: str, what: str) -> bool:
        wanted = given.only in (None, part)
        if wanted:
            print(f"{part}: {what}", file=sys.stderr, flush=True)
        return wanted

    for shape, name in SHAPES.items():
        if asked("counted", name):
            yield list(cost.rows(shape, given.device)), {}
        if asked("timed", name):
            found, overhead = time.rows(shape, given.device, given.cycles, given.rounds)
            yield found, {shape: overhead}
        if given.device == "cpu" and asked("alone", name):
            yield [time.by_itself(shape)], {}
    if given.device == "cuda":
        return
    for shape, name in SHAPES.items():
        if asked("stand-in", name):
            yield [stand_in.row(shape, given.rounds)], {}
    for shape, name in fit.SHAPES.items():
        if asked("keras", name):
            yield list(fit.rows(shape)), {}
        if asked("keras-timed", name):
            yield [fit.timed_row(shape, given.rounds)], {}
    if asked("timed", "what has no GPU"):
        yield list(time.on_a_gpu()), {}


def joined(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What was measured now, and before that what was not measured again."""
    known = [{"date": before["date"], **row} for row in before.get("goals", ())]
    rows = {row["work"]: row for row in (*known, *now["goals"])}
    overhead = {**before.get("overhead", {}), **now["overhead"]}
    return {**now, "goals": list(rows.values()), "overhead": overhead}


KERAS = ("keras", "tensorflow")
"""Modules: the distribution may be called tensorflow-cpu."""
LEAST = 12
"""Cycles: the first ten steps are all looked at."""
SUFFIX = {"cpu": "", "cuda": "_cuda"}


def facts(device: str, goals: Sequence[Goal], notes: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and with what."""
    today = date.today().isoformat()
    return {
        "date": today,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": cores(),
        "versions": {
            "mpaudit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **{name: import_module(name).__version__ for name in KERAS if device == "cpu"},
        },
        "system": f"{platform.system()} {platform.machine()}",
        "goals": [{**goal.plain(), "date": today} for goal in goals],
        "overhead": notes,
    }


if __name__ == "__main__":
    sys.exit(main())
