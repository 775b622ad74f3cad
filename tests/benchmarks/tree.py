"""Rows about whole trees: timm, and the corpus."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpaudit.cores import cores
from mpaudit.source.text.discovery import concerns
from tests.accuracy import corpus

from .goal import Goal
from .peer import Peers
from .timing import FailedError, Run, in_turns, ratio, run, seconds

PARSER = Path(__file__).with_name("parse.py")
TIMM = "timm"
SLOW = {
    "TorchFix": ("torchfix", "torchfix", ()),
    "torch-preflight": ("torch-preflight", "torch-preflight", ("check",)),
}
"""Peers that take minutes: the environment, the program, its first arguments."""
ROUNDS = 7
PEAK = 400


def packages() -> Path:
    """The folder of the corpus, downloaded if need be."""
    where = corpus.cache()
    for pin in corpus.tomllib.loads(corpus.PINS.read_text(encoding="utf-8"))["package"]:
        corpus.fetch(pin, where)
    return where / "src"


def commands(peers: Peers, target: Path) -> dict[str, Sequence[str]]:
    """mpaudit and ruff on a folder, neither with a cache."""
    mpaudit, ruff = peers.program("mpaudit", "mpaudit"), peers.program("mpaudit", "ruff")
    return {
        "mpaudit": [mpaudit, "check", "--isolated", "--no-cache", str(target)],
        "ruff": [ruff, "check", "--isolated", "--no-cache", "--quiet", str(target)],
    }


def timm(peers: Peers, where: Path, *, slow: bool) -> Iterator[Goal]:
    """timm's wheel, cold."""
    target = packages() / TIMM
    runs = in_turns(commands(peers, target), where, ROUNDS)
    ours = runs["mpaudit"]
    times = {name: seconds(each) for name, each in runs.items()}
    yield Goal("timm, cold", "ruff", ratio(ours, runs["ruff"]), 2.5, rounds=ROUNDS, seconds=times)
    for name, (environment, program, first) in SLOW.items():
        reason = peers.missing.get(environment, "" if slow else "left out")
        if not reason:
            command = [peers.program(environment, program), *first, str(target)]
            try:
                theirs = [run(command, where)]
            except FailedError as problem:
                reason = str(problem)
        if reason:
            yield Goal("timm, cold", name, None, 80, least=True, note=reason)
            continue
        times = {"mpaudit": seconds(ours), name: seconds(theirs)}
        figure = seconds(theirs) / seconds(ours)
        yield Goal("timm, cold", name, figure, 80, "x faster", least=True, seconds=times)


def whole(peers: Peers, where: Path) -> Iterator[Goal]:
    """The corpus, cold and warm."""
    target, cache = packages(), where / "cache"
    scripts = sorted(target.rglob("*.py"))
    files = f"the corpus ({len(scripts):,} files)"
    ruff = commands(peers, target)["ruff"]
    ours = [peers.program("mpaudit", "mpaudit"), "check", "--isolated"]
    ours += ["--cache-dir", str(cache), str(target)]
    gated = [path for path in scripts if concerns(path.read_bytes())]
    parse = _parser(peers, gated, where)
    fast = [run(ruff, where) for _ in range(2)][1:]  # the first brings the files into memory
    shutil.rmtree(cache, ignore_errors=True)
    print(f"{files}, cold", file=sys.stderr, flush=True)
    cold = [run(ours, where)]
    fast.append(run(ruff, where))
    bare = [run(parse, where)]
    times = {"mpaudit": seconds(cold), "ruff": seconds(fast)}
    yield Goal(f"{files}, cold", "ruff", ratio(cold, fast), 6, rounds=1, seconds=times)
    times = {"mpaudit": seconds(cold), "libcst": seconds(bare)}
    name = f"libcst's parse of the {len(gated):,} files that pass the gate"
    yield Goal(f"{files}, cold", name, ratio(cold, bare), 1.6, seconds=times)
    turns = in_turns({"mpaudit": ours, "ruff": ruff}, where, 3)
    times = {each: seconds(runs) for each, runs in turns.items()}
    figure = ratio(turns["mpaudit"], turns["ruff"])
    yield Goal(f"{files}, warm", "ruff, cold", figure, 1, rounds=3, seconds=times)
    yield _peak(files, cold)


def _parser(peers: Peers, gated: Sequence[Path], where: Path) -> Sequence[str]:
    names = where / "gated.txt"
    names.write_text("\n".join(map(str, gated)), encoding="utf-8")
    return [peers.program("mpaudit", "python"), str(PARSER), str(cores()), str(names)]


def _peak(files: str, cold: Sequence[Run]) -> Goal:
    peak = max(each.peak for each in cold)
    return Goal(f"{files}, cold", "largest process", peak, PEAK, "MiB")
