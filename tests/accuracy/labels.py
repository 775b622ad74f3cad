"""`python -m tests.accuracy.labels`: mpaudit on public files that people have labelled.

`labels.tsv` names repository, commit, path, line and rule (or `clean`). A label that mpaudit does not meet
carries what was decided when its file was read: `verdict` is `silence right`, or `limit` where mpaudit
cannot see what is there, and `decision` says why. A repository is read from a bare clone below `--repos`
(`<owner>+<name>/repo`), or cloned from GitHub into the cache.

`--labels tests/accuracy/bugs.tsv` are mistakes that people made, most of them mended since: collected from
the history of repositories, and labelled, before mpaudit was run on any of them. Other mistakes in the same
files are not labelled there. `held_out.tsv` is a later one of the same kind, from other repositories, and
`held_out_mended.tsv` the places where these mistakes were mended (`mended_from` is the commit that has the
mistake): such a label is met where its rule says nothing.

Exits 1 if a miss is undecided, a finding stands beside the labels, or a repository cannot be had.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

from mpaudit.audit import check
from mpaudit.rule import catalogue

from .corpus import cache

LABELS = Path(__file__).with_name("labels.tsv")
BUGS = LABELS.with_name("bugs.tsv")
HELD_OUT = LABELS.with_name("held_out.tsv")
MENDED = LABELS.with_name("held_out_mended.tsv")
NEAR = 3
"""Rows between a label and a finding that still mean the same place."""

MIGRATION = "MP7"


RIGHT, LIMIT = "silence right", "limit"
"""The verdicts on a label that is not met."""

Entry = tuple[str, str, str]
"""Rule, place, reason."""
Place = tuple[int | None, int]
"""Cell of a notebook (from 1, None elsewhere) and row."""
Found = tuple[str, tuple[Place, ...]]
"""The rule of a finding, the place that it shows and those that it mentions."""


@dataclass(frozen=True)
class Label:
    """One row of the table; the row of `clean` is 0. Where a mistake was `mended`, silence is wanted."""

    path: str
    place: Place
    rule: str
    reason: str
    verdict: str = ""
    decision: str = ""
    mended: bool = False


@dataclass(frozen=True)
class Result:
    """What became of the labels of one checkout."""

    where: str
    hits: tuple[Entry, ...] = ()
    right: tuple[Entry, ...] = ()
    limits: tuple[Entry, ...] = ()
    undecided: tuple[Entry, ...] = ()
    stale: tuple[Entry, ...] = ()
    extras: tuple[Entry, ...] = ()
    failure: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy.labels", description=__doc__)
    parser.add_argument("--repos", type=Path, help="a folder of bare clones, <owner>+<name>/repo")
    parser.add_argument("--cache", type=Path, default=cache() / "labels", help="for checkouts")
    parser.add_argument("--labels", type=Path, default=LABELS, help="another table of labels")
    parser.add_argument("--only", default="", help="repositories whose name contains this")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    given = parser.parse_args(arguments)
    groups = read(given.labels)
    chosen = {key: labels for key, labels in groups.items() if given.only in key[0]}
    with ProcessPoolExecutor(given.jobs) as pool:
        waiting = [
            pool.submit(compare, repo, commit, labels, given.repos, given.cache)
            for (repo, commit), labels in chosen.items()
        ]
        results = [each.result() for each in waiting]
    figures = summarise(results)
    show(results, figures)
    if given.labels.resolve() in (LABELS, BUGS, HELD_OUT, MENDED) and not given.only:
        _results(given.labels).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if figures["undecided"] or figures["beside"] or figures["failures"] else 0


def last_figures() -> dict[str, Any]:
    """The figures of the last run over the labels; {} if there was none."""
    results = _results(LABELS)
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}


def _results(table: Path) -> Path:
    return table.with_name(f"{table.stem}_results.json")


def read(table: Path) -> dict[tuple[str, str], list[Label]]:
    """The labels by repository and commit."""
    groups: dict[tuple[str, str], list[Label]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            reason = ": ".join(filter(None, (row.get("confidence"), row["reason"])))
            verdict, decision = row.get("verdict") or "", row.get("decision") or ""
            place, mended = _place(row["line"]), bool(row.get("mended_from"))
            groups[row["repo"], row["commit"]].append(
                Label(row["path"], place, row["rule"], reason, verdict, decision, mended)
            )
    return dict(groups)


def _place(line: str) -> Place:
    """`12`, or `c3:12` for a row of the fourth cell of a notebook."""
    if not line.startswith("c"):
        return None, int(line)
    cell, _, row = line[1:].partition(":")
    return int(cell) + 1, int(row)


def compare(repo: str, commit: str, labels: list[Label], repos: Path | None, where: Path) -> Result:
    """Check a checkout and compare with its labels."""
    name = f"{repo}@{commit[:8]}"
    try:
        folder = checkout(repo, commit, labels, repos, where)
    except (subprocess.CalledProcessError, OSError, tarfile.TarError) as problem:
        return Result(name, failure=f"no checkout: {problem}")
    found: dict[str, list[Found]] = defaultdict(list)
    mentioned: dict[str, list[Found]] = defaultdict(list)
    for finding in check([folder]).findings:
        spans = [finding.span, *(related.span for related in finding.related)]
        for filename in dict.fromkeys(span.filename for span in spans):
            places = tuple((s.cell, s.start.row) for s in spans if s.filename == filename)
            path = Path(filename).relative_to(folder).as_posix()
            shown = found if filename == finding.span.filename else mentioned
            shown[path].append((finding.name, places))
    return judge(name, labels, found, mentioned)


def judge(
    name: str,
    labels: list[Label],
    found: Mapping[str, list[Found]],
    mentioned: Mapping[str, list[Found]],
) -> Result:
    """What became of the labels, given what was found by path.

    `mentioned` are the places in other files that findings speak of: the loss that an output goes into.
    """
    known = catalogue()
    groups: dict[str, list[Entry]] = defaultdict(list)
    for label in labels:
        if label.rule not in known:
            continue
        at = _shown(name, label.path, label.place)
        near = any(
            rule == label.rule and _near(places, label.place)
            for rule, places in (*found.get(label.path, ()), *mentioned.get(label.path, ()))
        )
        if label.mended:
            groups["extras" if near else "hits"].append((label.rule, at, label.reason))
        elif near:
            groups["hits"].append((label.rule, at, label.reason))
            if label.verdict:
                groups["stale"].append((label.rule, at, label.decision))
        else:
            kind = {RIGHT: "right", LIMIT: "limits"}.get(label.verdict if label.decision else "")
            groups[kind or "undecided"].append((label.rule, at, label.decision or label.reason))
    for path in dict.fromkeys(label.path for label in labels):
        wanted = [label for label in labels if label.path == path]
        clean = any(label.rule == "clean" for label in wanted)
        for rule, places in found.get(path, ()):
            if known[rule].code.startswith(MIGRATION):
                continue  # labelled at the first use only
            if not any(each.rule == rule and _near(places, each.place) for each in wanted):
                at = _shown(name, path, places[0])
                groups["extras"].append((rule, at, "in a clean file" if clean else ""))
    return Result(name, **{kind: tuple(entries) for kind, entries in groups.items()})


def _near(places: tuple[Place, ...], wanted: Place) -> bool:
    """Whether a finding shows a place or mentions it: the output, and the loss that it goes into."""
    cell, row = wanted
    return any(place[0] == cell and abs(place[1] - row) <= NEAR for place in places)


def _shown(name: str, path: str, place: Place) -> str:
    cell, row = place
    return f"{name} {path}:{row if cell is None else f'cell {cell}:{row}'}"


def checkout(
    repo: str, commit: str, labels: Sequence[Label], repos: Path | None, where: Path
) -> Path:
    """The scripts of a commit and the labelled notebooks, from a bare clone or from GitHub.

    They are kept in the cache.
    """
    target = where / f"{repo.replace('/', '+')}@{commit[:12]}"
    if target.is_dir():
        return target
    git = next(_clones(repo, repos, where))
    if not git.exists():
        git.parent.mkdir(parents=True, exist_ok=True)
        _git("clone", "--quiet", "--bare", f"https://github.com/{repo}", str(git))
    wanted = {"*.py" if label.path.endswith(".py") else label.path for label in labels}
    data = _git("--git-dir", str(git), "archive", "--format=tar", commit, "--", *sorted(wanted))
    part = target.with_name(target.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=BytesIO(data)) as opened:
        opened.extractall(part, filter="data")
    part.rename(target)
    return target


def _clones(repo: str, repos: Path | None, where: Path) -> Iterator[Path]:
    name = repo.replace("/", "+")
    if repos is not None and (repos / name / "repo").exists():
        yield repos / name / "repo"
    yield where / "clones" / name


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """The figures of a run, for all rules and for each."""
    kinds = {"met": "hits", "silence right": "right", "limits": "limits"}
    kinds |= {"undecided": "undecided", "beside": "extras"}
    counts = {
        name: Counter(rule for result in results for rule, _, _ in getattr(result, field))
        for name, field in kinds.items()
    }
    rules = sorted(set().union(*counts.values()))
    totals = {name: count.total() for name, count in counts.items()}
    return {
        "date": date.today().isoformat(),
        "labels": sum(total for name, total in totals.items() if name != "beside"),
        **totals,
        "failures": sum(bool(result.failure) for result in results),
        "rules": {rule: {name: count[rule] for name, count in counts.items()} for rule in rules},
    }


def show(results: Sequence[Result], figures: Mapping[str, Any]) -> None:
    for result in results:
        if result.failure:
            print(f"{result.where}: {result.failure}")
    titles = {
        "silence right": "right",
        "limits": "limits",
        "decided, but met by now": "stale",
        "missed, and nobody has decided": "undecided",
        "beside the labels": "extras",
    }
    for title, field in titles.items():
        entries = [entry for result in results for entry in getattr(result, field)]
        if entries:
            print(f"\n{title}:")
        for rule, place, reason in entries:
            print(f"  {rule:28} {place}  {reason}")
    names = [name for name in figures if isinstance(figures[name], int) and name != "labels"]
    names.remove("failures")
    print("\n" + f"{'rule':32}" + "".join(f"{name:>15}" for name in names))
    for rule, counts in (*figures["rules"].items(), ("all", figures)):
        print(f"{rule:32}" + "".join(f"{counts[name]:15}" for name in names))


if __name__ == "__main__":
    sys.exit(main())
