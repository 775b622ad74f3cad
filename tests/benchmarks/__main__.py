"""`python -m tests.benchmarks`: speed against other tools, in the same run, with the goals beside it."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from mpaudit import __version__
from mpaudit.cores import cores

from . import curve, single, tree
from .goal import Goal, table
from .peer import PINNED, Peers, cache, install

RESULTS = Path(__file__).with_name("check_results.json")
PARTS = ("single", "timm", "curves", "corpus")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--cache", type=Path, default=cache(), help="where the peers are installed")
    parser.add_argument("--only", default="", help=f"parts, separated by commas: {PARTS}")
    parser.add_argument(
        "--no-slow", action="store_true", help="leave out the peers that take minutes"
    )
    given = parser.parse_args(arguments)
    wanted = [each for each in given.only.split(",") if each] or list(PARTS)
    peers = install(given.cache)
    with tempfile.TemporaryDirectory() as folder:
        goals, curves = measured(peers, Path(folder), wanted, slow=not given.no_slow)
    if goals:
        print(table(goals))
    for name, found in curves.items():
        powers = ", ".join(f"{work} {power}" for work, power in found["exponents"].items())
        print(f"work over {name}: grows with this power of it (1 is linear): {powers}")
    if wanted == list(PARTS) and not given.no_slow:
        RESULTS.write_text(json.dumps(facts(peers, goals, curves), indent=1) + "\n")
    return 0


def measured(
    peers: Peers, where: Path, wanted: Sequence[str], *, slow: bool
) -> tuple[list[Goal], dict[str, Any]]:
    """All figures; each is said when it is there."""
    goals: list[Goal] = []
    curves: dict[str, Any] = {}
    for part in wanted:
        print(f"measuring: {part}", file=sys.stderr, flush=True)
        if part == "single":
            goals += single.rows(peers, where)
        elif part == "timm":
            goals += tree.timm(peers, where, slow=slow)
        elif part == "curves":
            curves["the number of files"] = curve.files(peers, where)
            curves["the length of a file"] = curve.length(peers, where)
        elif part == "corpus":
            goals += tree.whole(peers, where)
        else:
            raise SystemExit(f"there is no part {part!r}; take {', '.join(PARTS)}")
    return goals, curves


def facts(peers: Peers, goals: Sequence[Goal], curves: dict[str, Any]) -> dict[str, Any]:
    """What was measured, without a word about whose machine it was."""
    return {
        "date": date.today().isoformat(),
        "mpaudit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "peers": sorted({each for name in peers.folders for each in PINNED[name]}),
        "goals": [goal.plain() for goal in goals],
        "curves": curves,
    }


if __name__ == "__main__":
    sys.exit(main())
