"""`python -m tests.accuracy`: how many mistakes mpaudit sees, and how often it is wrong.

Mutants: one mistake is put into a correct program, and the finding must have the right rule and place.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from platform import python_version
from typing import Any

import mpaudit
from mpaudit.rule import catalogue

from . import corpus, real
from .bench import Original, Outcome, Result, examine, originals, shapes

RESULTS = Path(__file__).with_name("results.json")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument("--only", default="", help="rules or operators, separated by commas")
    parser.add_argument("--script", default="", help="only originals whose name contains this")
    parser.add_argument(
        "--misses", action="store_true", help="list every mutant that was not caught"
    )
    parser.add_argument("--keep", type=Path, help="write the missed mutants into this folder")
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        help="folders of unpacked packages, for their training files (default: the corpus, if it is there)",
    )
    parser.add_argument(
        "--files", type=int, default=real.FILES, help="training files of each package (default 3)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--no-write", action="store_true", help="leave results.json as it is")
    given = parser.parse_args(arguments)
    folders = given.real if given.real is not None else [corpus.cache() / "src"]
    files = real.training_files(folders, given.files)
    chosen = [*originals(), *(Original(name, path, True, around) for name, path, around in files)]
    chosen = [each for each in chosen if given.script in each.name]
    words = {word for word in given.only.split(",") if word}
    results = list(run(chosen, words, given.jobs))
    summary = summarise(results)
    show(summary, results, misses=given.misses)
    if given.keep:
        keep(results, given.keep)
    if not (given.no_write or given.only or given.script):
        RESULTS.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 1 if summary["clean"]["with findings"] or not all(summary["shapes"].values()) else 0


def run(chosen: Iterable[Original], words: set[str], jobs: int) -> Iterable[Result]:
    chosen = list(chosen)
    with ProcessPoolExecutor(jobs) as pool:
        for result in pool.map(examine, chosen, [words] * len(chosen)):
            if result.seconds > 30:
                caught = sum(o.became == "caught" for o in result.outcomes)
                said = f"{caught} of {len(result.outcomes)} mutants, {result.seconds:.0f} s"
                print(f"{result.name}: {said}", file=sys.stderr, flush=True)
            yield result


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """The figures as plain data."""
    ours = [o for r in results if not r.real for o in r.outcomes]
    theirs = [o for r in results if r.real for o in r.outcomes]
    clean = [r for r in results if not r.real]
    return {
        "date": date.today().isoformat(),
        "versions": {"mpaudit": mpaudit.__version__, "python": python_version()},
        "mutants": {
            "all": share([*ours, *theirs]),
            "fixtures": share(ours),
            "real files": share(theirs),
            "without migration": share(
                [o for o in [*ours, *theirs] if o.rule != "deprecated-torch-amp"]
            ),
            "families": by(results, lambda o: family(o.rule)),
            "rules": by(results, lambda o: o.rule),
            "operators": by(results, lambda o: f"{o.rule}: {o.operator}"),
            "missed": sorted(
                f"{o.rule}: {o.operator}: {o.place}: {o.became}"
                for o in [*ours, *theirs]
                if o.became != "caught"
            ),
        },
        "clean": {
            "originals": len(clean),
            "with findings": sum(bool(r.findings) for r in clean),
        },
        "real": {
            "training files": sum(r.real for r in results),
            "silent": sum(r.real and bool(r.outcomes) for r in results),
        },
        "shapes": shapes(),
        "corpus": corpus.last_figures(),
    }


def family(rule: str) -> str:
    """The hundred that a rule's code belongs to: "MP1xx"."""
    return f"{catalogue()[rule].code[:3]}xx"


def share(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    caught = sum(o.became == "caught" for o in outcomes)
    total = len(outcomes)
    return {
        "made": total,
        "caught": caught,
        "share": round(caught / total, 4) if total else None,
    }


def by(results: Sequence[Result], key: Any) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Outcome]] = {}
    for result in results:
        for outcome in result.outcomes:
            groups.setdefault(key(outcome), []).append(outcome)
    return {name: share(groups[name]) for name in sorted(groups)}


def show(summary: dict[str, Any], results: Sequence[Result], *, misses: bool) -> None:
    mutants = summary["mutants"]
    print(f"{'rule':40} {'mutants':>8} {'caught':>8}")
    for name, figures in mutants["rules"].items():
        _row(name, figures)
        for operator, own in mutants["operators"].items():
            if operator.startswith(f"{name}: "):
                _row(f"  {operator.removeprefix(name + ': ')}", own)
    for name, figures in mutants["families"].items():
        _row(f"= {name}", figures)
    for name in ("fixtures", "real files", "without migration", "all"):
        _row(f"= {name}", mutants[name])
    clean = summary["clean"]
    print(f"\nclean originals: {clean['originals']}, with findings: {clean['with findings']}")
    for result in results:
        if result.findings and not result.real:
            print(f"  {result.name}: {' '.join(result.findings)}")
        if result.failure:
            print(f"  {result.name}: {result.failure}")
    real = summary["real"]
    print(f"training files of packages: {real['training files']}, with mutants: {real['silent']}")
    print("\nthe five shapes:")
    for name, right in summary["shapes"].items():
        print(f"  {'right' if right else 'WRONG'}  {name}")
    if summary["corpus"]:
        print("\ncorpus (last `make corpus`):")
        for name, value in summary["corpus"].items():
            print(f"  {name}: {value}")
    if misses:
        print()
        for outcome in sorted((o for r in results for o in r.outcomes), key=_order):
            if outcome.became != "caught":
                print(
                    f"{outcome.rule} {outcome.operator} {outcome.place} expected at {list(outcome.rows)}: "
                    f"{outcome.became} {' '.join(outcome.saw)}"
                )
    print("\ncaught kinds:", dict(Counter(o.became for r in results for o in r.outcomes)))


def _order(outcome: Outcome) -> tuple[str, str, str]:
    return outcome.rule, outcome.operator, outcome.place


def _row(name: str, figures: dict[str, Any]) -> None:
    shown = f"{figures['share']:.1%}" if figures["made"] else "-"
    print(f"{name:40} {figures['made']:8} {figures['caught']:8} {shown:>8}")


def keep(results: Sequence[Result], folder: Path) -> None:
    """Write the missed mutants into a folder, for reading."""
    folder.mkdir(parents=True, exist_ok=True)
    for outcome in (o for r in results for o in r.outcomes):
        if outcome.became != "caught":
            name = outcome.place.replace("/", "+").replace(":", "_")
            (folder / f"{outcome.operator}__{name}.py").write_text(outcome.text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
