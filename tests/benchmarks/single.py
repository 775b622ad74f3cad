"""Rows about one file, as pre-commit and editors check it: what counts is how fast mpaudit starts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from .goal import Goal
from .peer import ROOT, Peers
from .timing import in_turns, ratio, seconds
from .tree import packages

ROUNDS = 15
CHANGED = {
    "the article's PyTorch script": ROOT / "fixtures" / "article" / "article_pytorch.py",
    "the article's Keras script": ROOT / "fixtures" / "article" / "article_tensorflow.py",
}
REAL = "yolov5/yolov5/classify/train.py"
"""A file with AMP code of the corpus, in its project, whose files it imports."""
PLAIN = '"""No AMP here."""\n\nimport math\n\n\ndef area(radius):\n    return math.pi * radius**2\n'


def rows(peers: Peers, where: Path) -> Iterator[Goal]:
    """One changed file with AMP code, and one without."""
    for name, path in CHANGED.items():
        copy = where / path.name
        shutil.copy(path, copy)
        yield _changed(peers, where, name, copy)
    yield _changed(peers, where, f"{Path(REAL).name} of {REAL.split('/')[0]}", packages() / REAL)
    yield _plain(peers, where)


def _changed(peers: Peers, where: Path, name: str, path: Path) -> Goal:
    python, mpaudit = peers.program("mpaudit", "python"), peers.program("mpaudit", "mpaudit")
    parse = f"import libcst, click; libcst.parse_module(open({str(path)!r}, 'rb').read())"
    commands = {
        "mpaudit": [mpaudit, "check", "--force-exclude", str(path)],
        "libcst": [python, "-c", parse],
    }
    runs = in_turns(commands, where, ROUNDS)
    lines = len(path.read_bytes().splitlines())
    return Goal(
        f"one changed file: {name} ({lines} lines)",
        "import libcst, click; its parse",
        ratio(runs["mpaudit"], runs["libcst"]),
        1.25,
        rounds=ROUNDS,
        seconds={each: seconds(found) for each, found in runs.items()},
    )


def _plain(peers: Peers, where: Path) -> Goal:
    path = where / "plain.py"
    path.write_text(PLAIN, encoding="utf-8")
    commands = {
        "mpaudit": [peers.program("mpaudit", "mpaudit"), "check", "--force-exclude", str(path)],
        "click": [peers.program("mpaudit", "python"), "-c", "import click"],
    }
    runs = in_turns(commands, where, ROUNDS)
    return Goal(
        "one file without AMP tokens",
        "import click",
        ratio(runs["mpaudit"], runs["click"]),
        1.5,
        rounds=ROUNDS,
        seconds={each: seconds(found) for each, found in runs.items()},
    )
