"""`python -m tests.accuracy.corpus`: the check on pinned packages, compared with verdicts read by hand.

`corpus.toml` pins the packages, `verdicts.toml` says of every finding whether it is true, and why. The
code itself is downloaded, never committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
PINS = HERE / "corpus.toml"
VERDICTS = HERE / "verdicts.toml"
RESULTS = HERE / "corpus_results.json"
SECONDS = 900
"""The most processor time that one package may take."""

TOO_LARGE = "too large to be followed to the end"
"""How mpaudit says that it gave up on a file."""

APART = ("MP7",)
"""Families that are counted by themselves: migration rules find what nobody doubts."""


@dataclass(frozen=True, order=True)
class Place:
    """A finding as the verdicts name it: by the line's text, so that it survives shifts."""

    package: str
    path: str
    rule: str
    line: str
    count: int = 1


@dataclass(frozen=True)
class Found:
    """One finding of the run."""

    place: Place
    row: int
    code: str
    severity: str
    message: str


def cache() -> Path:
    """The user's cache folder of the corpus."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mpaudit-corpus"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy.corpus", description=__doc__)
    parser.add_argument("--cache", type=Path, default=cache(), help="where the packages are kept")
    parser.add_argument("--only", default="", help="packages, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="packages at once (default 2)")
    parser.add_argument(
        "--again",
        action="store_true",
        help="compare the last answers with the verdicts, check nothing",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(_check(given.one)))
        return 0
    pins = tomllib.loads(PINS.read_text(encoding="utf-8"))["package"]
    wanted = {name for name in given.only.split(",") if name}
    pins = [pin for pin in pins if not wanted or pin["name"] in wanted]
    for pin in pins:
        fetch(pin, given.cache)

    def answer(pin: dict[str, str]) -> dict[str, Any]:
        kept = given.cache / "answers" / f"{pin['name']}.json"
        if given.again and kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        run = examine(folder(pin, given.cache))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(run), encoding="utf-8")
        print(f"{pin['name']}: {run.get('failure') or run['seconds']}", file=sys.stderr, flush=True)
        return run

    with ThreadPoolExecutor(given.jobs) as pool:
        runs = dict(zip((pin["name"] for pin in pins), pool.map(answer, pins), strict=True))
    found = list(findings(runs))
    verdicts = read_verdicts()
    figures = summarise(runs, found, verdicts)
    unjudged = show(runs, found, verdicts, figures, wanted)
    if not wanted:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if unjudged or figures["internal errors"] else 0


def last_figures() -> dict[str, Any]:
    """The figures of the last run, without the findings; {} if there was none."""
    if not RESULTS.exists():
        return {}
    return json.loads(RESULTS.read_text(encoding="utf-8"))


# Downloading


def archive(pin: dict[str, str], where: Path) -> Path:
    return where / "dl" / pin["file"]


def folder(pin: dict[str, str], where: Path) -> Path:
    return where / "src" / pin["name"]


def fetch(pin: dict[str, str], where: Path) -> None:
    """Download and unpack a package unless that is done; its checksum must be the pinned one."""
    path = archive(pin, where)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        kind = "--no-binary" if path.name.endswith(".tar.gz") else "--only-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += [f"{kind}=:all:", "--dest", str(path.parent)]
        if kind == "--only-binary":
            command += [word for option in pin.get("options", ()) for word in option.split("=", 1)]
        subprocess.run([*command, f"{pin['name']}=={pin['version']}"], check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != pin["sha256"]:
        raise SystemExit(f"{path.name}: the checksum is {digest}, pinned is {pin['sha256']}")
    target = folder(pin, where)
    if target.exists():
        return
    print(f"unpacking {path.name}", file=sys.stderr)
    unpacking = target.with_name(f"{target.name}.part")
    unpacking.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as opened:
            names = [name for name in opened.namelist() if name.endswith(".py")]
            opened.extractall(unpacking, names)
    else:
        with tarfile.open(path) as opened:
            members = [
                member for member in opened if member.isfile() and member.name.endswith(".py")
            ]
            opened.extractall(unpacking, members, filter="data")
    unpacking.rename(target)


# Checking


def examine(where: Path) -> dict[str, Any]:
    """Check one package in a process of its own, in bounded time."""
    command = [sys.executable, "-m", "tests.accuracy.corpus", "--one", str(where)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1])
    if -done.returncode == signal.SIGXCPU:
        return {
            "failure": f"no answer within {SECONDS} s of processor time",
            "files": 0,
            "findings": [],
        }
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failure": last, "files": 0, "findings": [], "traceback": done.stderr}
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return {**answer, "seconds": round(time.perf_counter() - began, 1)}


def _check(where: Path) -> dict[str, Any]:
    """What mpaudit says of one package, as plain data."""
    from mpaudit.audit import check

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    report = check([where])
    rows = []
    for finding in report.findings:
        path = Path(finding.span.filename)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        row = finding.span.start.row
        rows.append(
            {
                "path": path.relative_to(where).as_posix(),
                "row": row,
                "rule": finding.name,
                "code": finding.code,
                "severity": finding.severity.value,
                "line": lines[row - 1].strip() if row <= len(lines) else "",
                "message": finding.message,
            }
        )
    return {
        "files": report.checked,
        "findings": rows,
        "warnings": [line.replace(f"{where}/", "") for line in report.warnings],
    }


def findings(runs: dict[str, dict[str, Any]]) -> Iterator[Found]:
    """Every finding; those with the same rule and text in the same file are counted."""
    for package, run in runs.items():
        counts: Counter[Place] = Counter()
        for row in sorted(run["findings"], key=lambda r: (r["path"], r["row"])):
            place = Place(package, row["path"], row["rule"], row["line"])
            counts[place] += 1
            place = replace(place, count=counts[place])
            yield Found(place, row["row"], row["code"], row["severity"], row["message"])


# Verdicts


def read_verdicts() -> dict[Place, tuple[bool, str]]:
    """The verdicts; one with `count = n` speaks of all n findings of the same text in its file."""
    if not VERDICTS.exists():
        return {}
    data = tomllib.loads(VERDICTS.read_text(encoding="utf-8"))
    known = {}
    for entry in data.get("finding", ()):
        for number in range(1, entry.get("count", 1) + 1):
            place = Place(entry["package"], entry["path"], entry["rule"], entry["line"], number)
            known[place] = (entry["verdict"], entry["reason"])
    return known


def summarise(
    runs: dict[str, dict[str, Any]], found: list[Found], verdicts: dict[Place, tuple[bool, str]]
) -> dict[str, Any]:
    files = sum(run["files"] for run in runs.values())
    said = [line for run in runs.values() for line in run.get("warnings", ())]
    weighty = [f for f in found if f.severity != "advice" and not f.code.startswith(APART)]
    apart = [f for f in found if f.code.startswith(APART)]
    return {
        "date": date.today().isoformat(),
        "packages": len(runs),
        "files": files,
        "findings": len(weighty),
        "precision": precision(weighty, verdicts),
        "findings per 100 files": round(100 * len(weighty) / max(1, files), 2),
        "migration findings": len(apart),
        "migration precision": precision(apart, verdicts),
        "internal errors": sum("failure" in run for run in runs.values()),
        "files not followed to the end": sum(TOO_LARGE in line for line in said),
        "other warnings": sum(TOO_LARGE not in line for line in said),
        "rules": _grouped(found, verdicts, lambda f: f.place.rule),
        "families": _grouped(found, verdicts, lambda f: f"{f.code[:3]}xx"),
        "seconds": round(sum(run.get("seconds", 0) for run in runs.values()), 1),
    }


def precision(found: Sequence[Found], verdicts: dict[Place, tuple[bool, str]]) -> float | None:
    """The share of true findings among the judged ones, None if none is judged."""
    judged = [verdicts[f.place][0] for f in found if f.place in verdicts]
    return round(sum(judged) / len(judged), 4) if judged else None


def _grouped(
    found: Sequence[Found], verdicts: dict[Place, tuple[bool, str]], key: Any
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Found]] = {}
    for each in found:
        groups.setdefault(key(each), []).append(each)
    return {
        name: {
            "findings": len(group),
            "true": sum(verdicts[f.place][0] for f in group if f.place in verdicts),
            "false": sum(not verdicts[f.place][0] for f in group if f.place in verdicts),
            "precision": precision(group, verdicts),
        }
        for name, group in sorted(groups.items())
    }


def show(
    runs: dict[str, dict[str, Any]],
    found: list[Found],
    verdicts: dict[Place, tuple[bool, str]],
    figures: dict[str, Any],
    wanted: set[str],
) -> int:
    """Print the figures and the differences to the verdicts; how many findings nobody has judged."""
    for package, run in runs.items():
        state = run.get("failure") or f"{run['seconds']:6.1f} s"
        print(f"{package:28} {run['files']:6} files {len(run['findings']):4} findings  {state}")
        for line in run.get("warnings", ()):
            print(f"    {line}")
    print()
    print(f"{'rule':36} {'findings':>8} {'true':>5} {'false':>6}")
    for name, group in (*figures["rules"].items(), *figures["families"].items()):
        print(f"{name:36} {group['findings']:8} {group['true']:5} {group['false']:6}")
    print()
    for name, value in figures.items():
        if name not in ("rules", "families"):
            print(f"{name}: {value}")
    new = [each for each in found if each.place not in verdicts]
    seen = {each.place for each in found}
    gone = [
        place for place in verdicts if place not in seen and (not wanted or place.package in wanted)
    ]
    for each in new:
        place = each.place
        print(
            f"+ {place.package} {place.path}:{each.row} {place.rule} | {place.line} | {each.message}"
        )
    for place in gone:
        word = "true" if verdicts[place][0] else "false"
        print(f"- {place.package} {place.path} {place.rule} | {place.line} | was judged {word}")
    return len(new)


if __name__ == "__main__":
    sys.exit(main())
