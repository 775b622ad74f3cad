"""`python -m tests.accuracy.labels`: mpaudit on public files that people have labelled.

`labels.tsv` names repository, commit, path, line and rule (or `clean`). A repository is read from a bare
clone below `--repos` (`<owner>+<name>/repo`), or cloned from GitHub into the cache.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from mpaudit.audit import check
from mpaudit.rule import catalogue

from .corpus import cache

LABELS = Path(__file__).with_name("labels.tsv")
NEAR = 3
"""Rows between a label and a finding that still mean the same place."""

MIGRATION = "MP7"


@dataclass(frozen=True)
class Label:
    """One row of the table; `line` is 0 for `clean`, and None in a notebook."""

    path: str
    line: int | None
    rule: str
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of the labels of one checkout: (rule, place, reason) of each."""

    where: str
    hits: tuple[tuple[str, str, str], ...] = ()
    misses: tuple[tuple[str, str, str], ...] = ()
    extras: tuple[tuple[str, str, str], ...] = ()
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
    show(results)
    return 0


def read(table: Path) -> dict[tuple[str, str], list[Label]]:
    """The labels by repository and commit."""
    groups: dict[tuple[str, str], list[Label]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            line = int(row["line"]) if row["line"].isdigit() else None
            groups[row["repo"], row["commit"]].append(
                Label(row["path"], line, row["rule"], f"{row['confidence']}: {row['reason']}")
            )
    return dict(groups)


def compare(repo: str, commit: str, labels: list[Label], repos: Path | None, where: Path) -> Result:
    """Check a checkout and compare with its labels."""
    name = f"{repo}@{commit[:8]}"
    try:
        folder = checkout(repo, commit, repos, where)
    except (subprocess.CalledProcessError, OSError, tarfile.TarError) as problem:
        return Result(name, failure=f"no checkout: {problem}")
    known = catalogue()
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for finding in check([folder]).findings:
        path = Path(finding.span.filename).relative_to(folder).as_posix()
        found[path].append((finding.name, finding.span.start.row))
    hits, misses, extras = [], [], []
    for path in sorted({label.path for label in labels if label.line is not None}):
        wanted = [label for label in labels if label.path == path and label.rule in known]
        for label in wanted:
            near = [
                r for n, r in found[path] if n == label.rule and abs(r - (label.line or 0)) <= NEAR
            ]
            entry = (label.rule, f"{name} {path}:{label.line}", label.reason)
            (hits if near else misses).append(entry)
        for rule, row in found[path]:
            if known[rule].code.startswith(MIGRATION):
                continue  # labelled at the first use only
            same = [each for each in wanted if each.rule == rule]
            if not any(abs(row - (each.line or 0)) <= NEAR for each in same):
                clean = any(each.rule == "clean" and each.path == path for each in labels)
                extras.append((rule, f"{name} {path}:{row}", "in a clean file" if clean else ""))
    return Result(name, tuple(hits), tuple(misses), tuple(extras))


def checkout(repo: str, commit: str, repos: Path | None, where: Path) -> Path:
    """The files of a commit, from a bare clone or from GitHub; kept in the cache."""
    target = where / f"{repo.replace('/', '+')}@{commit[:12]}"
    if target.is_dir():
        return target
    git = next(_clones(repo, repos, where))
    if not git.exists():
        git.parent.mkdir(parents=True, exist_ok=True)
        _git("clone", "--quiet", "--bare", f"https://github.com/{repo}", str(git))
    data = _git("--git-dir", str(git), "archive", "--format=tar", commit, "--", "*.py")
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


def show(results: Sequence[Result]) -> None:
    for result in results:
        if result.failure:
            print(f"{result.where}: {result.failure}")
    for title, field in (("missed", "misses"), ("extra", "extras")):
        print(f"\n{title}:")
        for result in results:
            for rule, place, reason in getattr(result, field):
                print(f"  {rule:28} {place}  {reason}")
    hit = Counter(rule for r in results for rule, _, _ in r.hits)
    missed = Counter(rule for r in results for rule, _, _ in r.misses)
    extra = Counter(rule for r in results for rule, _, _ in r.extras)
    print(f"\n{'rule':32} {'hits':>5} {'missed':>7} {'extra':>6}")
    for rule in sorted({*hit, *missed, *extra}):
        print(f"{rule:32} {hit[rule]:5} {missed[rule]:7} {extra[rule]:6}")
    hits, misses, extras = hit.total(), missed.total(), extra.total()
    print(f"{'all':32} {hits:5} {misses:7} {extras:6}")
    print(
        f"recall {hits / max(1, hits + misses):.1%}, precision {hits / max(1, hits + extras):.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
