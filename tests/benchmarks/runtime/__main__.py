"""`python -m tests.benchmarks.runtime`: what watching costs, counted and timed, with the goals beside it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
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

PARTS = ("counted", "timed", "stand-in", "keras")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.runtime", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of turns for each watcher")
    given = parser.parse_args(arguments)
    goals: list[Goal] = []
    notes: dict[str, Any] = {}
    for shape in SHAPES:
        if given.only in (None, "counted"):
            print(f"counting: {shape}", file=sys.stderr, flush=True)
            goals += cost.rows(shape, given.device)
        if given.only in (None, "timed"):
            print(f"timing: {shape}", file=sys.stderr, flush=True)
            found, notes[shape] = time.rows(shape, given.device, given.rounds)
            goals += found
    if given.device == "cpu" and given.only in (None, "stand-in"):
        for shape in SHAPES:
            print(f"timing: the CPU in a GPU's place, {shape}", file=sys.stderr, flush=True)
            goals.append(stand_in.row(shape, given.rounds))
    if given.device == "cpu" and given.only in (None, "keras"):
        print("timing: Keras", file=sys.stderr, flush=True)
        goals += fit.rows(given.rounds)
    if given.device == "cpu" and given.only in (None, "timed"):
        goals += time.on_a_gpu()
    print(table(goals))
    for shape, said in notes.items():
        print(f"{SHAPES[shape]}: {time.truth(said)}")
    if given.only is None:
        results = Path(__file__).parent.with_name(f"runtime_results{SUFFIX[given.device]}.json")
        results.write_text(json.dumps(facts(given.device, goals, notes), indent=1) + "\n")
    return 0


KERAS = ("keras", "tensorflow")
"""Modules: the distribution may be called tensorflow-cpu."""
SUFFIX = {"cpu": "", "cuda": "_cuda"}


def facts(device: str, goals: Sequence[Goal], notes: dict[str, Any]) -> dict[str, Any]:
    """What was measured, and with what."""
    return {
        "date": date.today().isoformat(),
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
        "goals": [goal.plain() for goal in goals],
        "overhead": notes,
    }


if __name__ == "__main__":
    sys.exit(main())
