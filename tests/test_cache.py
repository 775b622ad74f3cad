"""With the cache and without it a check says the same, whatever happened to the files or to the cache."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli import BAD, REPAIRED

from mpaudit import audit, execution
from mpaudit.cache.store import Store, clean, signature
from mpaudit.cli import main
from mpaudit.config import Selection
from mpaudit.inspection import Asked
from mpaudit.report import Report
from mpaudit.settings import Configuration

FIXTURES = Path(__file__).parents[1] / "fixtures"
CACHE = Path("cache")
HELPER = "def finish(scaler):\n    scaler.update()\n"
IDLE = "def finish(scaler):\n    pass\n"
USER = BAD.replace("import torch\n", "import torch\nfrom helper import finish\n", 1)
USER += "    finish(scaler)\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tree"
    (root / ".git").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MPAUDIT_NO_CACHE", "MPAUDIT_CACHE_DIR", "MPAUDIT_OUTPUT_FORMAT"):
        monkeypatch.delenv(name, raising=False)
    return root


def write(name: str | Path, text: str) -> None:
    """Write a file; folders are made."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are executed, as they are."""
    names: list[str] = []
    follow = execution.Execution.follow

    def spy(running, module):
        names.append(module.filename)
        follow(running, module)

    monkeypatch.setattr(execution.Execution, "follow", spy)
    return names


def said(report: Report) -> object:
    """All that a report says."""
    texts = {each.span.filename: report.text(each.span) for each in report.findings}
    return report.findings, report.warnings, report.checked, report.files, texts


def same(asked: Asked = None, *paths: Path) -> Report:
    """Check with the cache and without it; both say the same."""
    whole = paths or (Path(),)
    cached = audit.check(whole, asked, cache=CACHE)
    plain = audit.check(whole, asked)
    assert said(cached) == said(plain)
    again = audit.check(whole, asked, cache=CACHE)
    assert said(again) == said(plain)
    return cached


def rules(report: Report) -> list[tuple[str, str]]:
    return [(each.span.filename, each.code) for each in report.findings]


def test_what_has_not_changed_is_not_executed_again(here: Path, audited: list[str]) -> None:
    write("a.py", BAD)
    write("b.py", REPAIRED)
    assert rules(same()) == [("a.py", "MP104")]
    assert audited == ["a.py", "b.py"] * 2  # once with the cache, once without, then not at all
    audited.clear()
    write("b.py", BAD)
    assert rules(audit.check([Path()], cache=CACHE)) == [("a.py", "MP104"), ("b.py", "MP104")]
    assert audited == ["b.py"]


def test_a_name_that_is_no_text_costs_the_others_nothing(here: Path, audited: list[str]) -> None:
    strange = os.fsdecode(b"b\xff.py")
    write("a.py", BAD)
    write(strange, BAD)
    assert rules(same()) == [("a.py", "MP104"), (strange, "MP104")]
    assert audited == ["a.py", strange, "a.py", strange, strange]


def test_a_change_in_a_helper_is_seen_in_its_users(here: Path, audited: list[str]) -> None:
    write("helper.py", HELPER)
    write("main.py", USER)
    write("alone.py", REPAIRED)
    assert rules(same()) == []
    write("helper.py", IDLE)
    audited.clear()
    assert rules(audit.check([Path()], cache=CACHE)) == [("main.py", "MP104")]
    assert audited == ["main.py"]  # helper.py mentions nothing of ours, alone.py is another matter
    same()
    write("helper.py", HELPER)
    assert rules(same()) == []


def _step(text: str) -> str:
    return text.replace("    scaler.step(optimizer)", "    finish(scaler, optimizer)")


CHANGES: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {
    "a helper behind a helper": (
        {
            "helper.py": "from deep import done\ndef finish(scaler):\n    done(scaler)\n",
            "deep.py": "def done(scaler):\n    scaler.update()\n",
            "main.py": USER,
        },
        {"deep.py": "def done(scaler):\n    pass\n"},
    ),
    "a helper appears": ({"main.py": USER}, {"helper.py": IDLE}),
    "a helper is gone": ({"main.py": USER, "helper.py": IDLE}, {"helper.py": None}),
    "a package takes a module's place": (
        {"main.py": USER, "helper/__init__.py": IDLE},
        {"helper.py": HELPER},
    ),
    "a nearer helper": (
        {"sub/main.py": USER, "helper.py": HELPER},
        {"sub/helper.py": IDLE},
    ),
    "a helper below src": ({"main.py": USER}, {"src/helper.py": IDLE}),
    "a helper that was broken": (
        {"main.py": USER, "helper.py": "def finish(scaler:\n"},
        {"helper.py": IDLE},
    ),
    "a caller appears": (
        {"lib.py": _step(BAD).replace("for inputs", "from helper import finish\nfor inputs")},
        {"helper.py": "def finish(scaler, optimizer):\n    scaler.step(optimizer)\n"},
    ),
    "a trainer that imports": (
        {"parts.py": "import torch\nscaler = torch.amp.GradScaler('cuda')\n"},
        {
            "train.py": "import torch\nfrom parts import scaler\nopt = torch.optim.SGD([])\n"
            "for x in []:\n    scaler.scale(x).backward()\n    scaler.step(opt)\n"
        },
    ),
    "somebody updates, elsewhere": (
        {
            "engine.py": "class Engine:\n    def __init__(self, scaler, opt):\n"
            "        self.scaler, self.opt = scaler, opt\n    def step(self, loss):\n"
            "        self.scaler.scale(loss).backward()\n        self.scaler.step(self.opt)\n",
        },
        {
            "loop.py": "from engine import Engine\n\ndef train(engine, losses):\n"
            "    for loss in losses:\n        engine.step(loss)\n        engine.scaler.update()\n",
        },
    ),
    "a repository ends nearer": (
        {"sub/main.py": USER, "helper.py": IDLE},
        {"sub/pyproject.toml": ""},
    ),
    "the required torch": (
        {
            "a.py": "import torch\nwith torch.cuda.amp.autocast():\n    pass\n",
            "requirements.txt": "torch>=2.4\n",
        },
        {"requirements.txt": "torch>=1.6,<1.9\n"},
    ),
    "the target of a folder": (
        {
            "sub/a.py": "import torch\nwith torch.cuda.amp.autocast():\n    pass\n",
            "sub/mpaudit.toml": "",
        },
        {"sub/mpaudit.toml": 'target-torch = "1.6"\n'},
    ),
    "advice is selected": (
        {"a.py": REPAIRED, "mpaudit.toml": ""},
        {"mpaudit.toml": 'select = ["ALL"]'},
    ),
    "a comment": ({"a.py": BAD}, {"a.py": "# mpaudit: file-ignore[MP104]\n" + BAD}),
    "a comment elsewhere": ({"a.py": BAD, "b.py": "x = 1\n"}, {"b.py": "x = 1  # noqa: MP104\n"}),
    "it breaks": ({"a.py": BAD}, {"a.py": BAD + "x = (\n"}),
    "it was broken": ({"a.py": BAD + "x = (\n"}, {"a.py": BAD}),
    "it is no text": ({"a.py": BAD}, {"a.py": "# -*- coding: nonsense -*-\n" + BAD}),
    "it is gone": ({"a.py": BAD, "b.py": BAD}, {"a.py": None}),
    "a notebook": (
        {"n.ipynb": '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'},
        {"n.ipynb": "autocast {"},
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_changes_are_seen(here: Path, case: str) -> None:
    before, after = CHANGES[case]
    for name, text in before.items():
        write(name, text)
    first = same(Configuration())
    for name, changed in after.items():
        if changed is None:
            Path(name).unlink()
        else:
            write(name, changed)
    second = same(Configuration())
    assert rules(first) != rules(second), case
    for name in after:  # and back
        if name in before:
            write(name, before[name])
        else:
            Path(name).unlink()
    assert rules(same(Configuration())) == rules(first)


def test_a_change_that_shows_in_no_size_and_no_time(here: Path) -> None:
    text = BAD + "    pass  # updated\n"
    write("a.py", text)
    old = time.time() - 100
    os.utime("a.py", (old, old))
    assert rules(same()) == [("a.py", "MP104")]
    changed = (BAD + "    scaler.update()").ljust(len(text) - 1) + "\n"
    assert len(changed) == len(text)
    write("a.py", changed)
    os.utime("a.py", (old, old))
    assert rules(same()) == []


def test_times_are_trusted_only_when_they_have_settled(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stamp() -> tuple[int, ...]:
        glances = Store(CACHE).load().glances
        return next(each.stamp for path, each in glances.items() if path.endswith("a.py"))

    write("a.py", BAD)
    same()
    assert stamp() == ()  # a change in the same tick of the clock would not show
    monkeypatch.setattr("mpaudit.cache.glance.SETTLED", 0)
    write("b.py", BAD)
    same()
    assert stamp() != ()
    old = Path("a.py").stat()
    write("a.py", BAD.replace("scaler.step", "scaler_step"))
    os.utime("a.py", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert rules(same()) == [("b.py", "MP104")]  # nobody can set back the time of that change


def test_other_questions(here: Path) -> None:
    """What is on, and under which name a file goes, is no part of what is kept, or makes it another."""
    write("pkg/a.py", BAD)
    write("pkg/b.py", "import torch\nwith torch.cuda.amp.autocast():\n    pass\n")
    for asked in (None, Selection(("MP1",)), Selection(("ALL",)), Selection(ignore=("MP104",))):
        same(asked)
    same(None, Path("pkg"))
    same(None, Path("pkg"), Path("pkg/a.py"))
    same(None, Path("pkg").absolute())
    same()
    assert rules(same(None, Path("pkg/../pkg"))) == [
        ("pkg/../pkg/a.py", "MP104"),
        ("pkg/../pkg/b.py", "MP701"),
    ]


def test_fixing_and_silencing_with_a_cache(here: Path) -> None:
    write("a.py", BAD)
    write("helper.py", HELPER)
    write("main.py", USER)
    audit.check([Path()], cache=CACHE)
    report, _ = audit.fix([Path()], unsafe=False, write=True, cache=CACHE)
    assert (report.repaired, report.findings) == (1, ())
    assert Path("a.py").read_text() == REPAIRED
    write("helper.py", IDLE)
    _, silenced = audit.add_ignore([Path()], reason="", cache=CACHE)
    assert silenced == 1
    assert rules(same()) == []


# --- what may happen to the cache


def damaged(file: Path) -> Iterator[Callable[[], object]]:
    data = file.read_bytes()
    yield file.unlink
    yield lambda: shutil.rmtree(file.parent)
    yield lambda: file.write_bytes(b"")
    yield lambda: file.write_bytes(data[: len(data) // 2])
    yield lambda: file.write_bytes(data.replace(b"MP", b"NP", 1).replace(b"missing", b"massing"))
    yield lambda: file.write_bytes(b"\x00" * len(data))
    head, _, body = data.partition(b"\n")
    yield lambda: file.write_bytes(b"other " + head + b"\n" + body)
    yield lambda: (file.unlink(), file.mkdir())
    for at in (40, 80, len(data) // 3, len(data) - 3):
        yield lambda at=at: file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_a_damaged_cache_is_taken_for_none(here: Path) -> None:
    write("a.py", BAD)
    write("helper.py", IDLE)
    write("main.py", USER)
    expected = said(same())
    for number in range(sum(1 for _ in damaged(Store(CACHE).file))):
        shutil.rmtree(CACHE)
        same()
        damage = list(damaged(Store(CACHE).file))[number]
        damage()
        assert said(audit.check([Path()], cache=CACHE)) == expected
        assert said(audit.check([Path()], cache=CACHE)) == expected


def test_well_formed_nonsense_is_taken_for_none(here: Path) -> None:
    from mpaudit.cache.glance import digest

    write("a.py", BAD)
    expected = said(same())
    for body in (
        b"[]",
        b"{}",
        b'{"glances": {"a": 1}, "records": []}',
        b'{"glances": {}, "records": [1]}',
    ):
        Store(CACHE).file.write_bytes(f"{signature()} {digest(body)}\n".encode() + body)
        assert said(audit.check([Path()], cache=CACHE)) == expected


def test_where_a_file_is_in_the_way(here: Path) -> None:
    write("a.py", BAD)
    CACHE.write_text("")
    assert rules(same()) == [("a.py", "MP104")]
    assert CACHE.read_text() == ""


def test_another_mpaudit_does_not_believe_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.py", BAD)
    same()
    assert Store(CACHE).load().records
    monkeypatch.setattr("mpaudit.cache.store.signature", lambda: "another")
    assert not Store(CACHE).load().records


def test_runs_side_by_side(here: Path) -> None:
    """Four at a time, while files change and the cache is deleted: none fails, none says anything wrong."""
    for number in range(6):
        write(f"m{number}/helper.py", HELPER)
        write(f"m{number}/main.py", USER)
    command = [sys.executable, "-m", "mpaudit", "check", "--output-format", "concise", "."]
    environment = {**os.environ, "PYTHONPATH": str(FIXTURES.parent)}
    for text, expected in ((HELPER, 0), (IDLE, 6), (HELPER, 0)):
        for number in range(6):
            write(f"m{number}/helper.py", text)
        runs = [
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
            )
            for _ in range(4)
        ]
        shutil.rmtree(".mpaudit_cache", ignore_errors=True)
        for run in runs:
            out, err = run.communicate()
            assert (out.count(b"MP104"), err) == (expected, b"")
    assert not list(Path(".mpaudit_cache").glob("*.tmp"))


# --- the command line


def test_the_command_line(here: Path) -> None:
    write("a.py", BAD)
    write("sub/a.py", BAD)
    run = CliRunner().invoke
    assert run(main, ["check", "--no-cache"]).exit_code == 1
    assert run(main, ["check", "a.py"]).exit_code == 1  # for one file there is nothing to gain
    assert not Path(".mpaudit_cache").exists()
    assert run(main, ["check", "--cache-dir", "elsewhere"]).exit_code == 1
    assert not Path(".mpaudit_cache").exists()
    assert {".gitignore", "CACHEDIR.TAG"} < {each.name for each in Path("elsewhere").iterdir()}
    write("mpaudit.toml", 'cache-dir = "named"\n')
    assert run(main, ["check"]).exit_code == 1
    assert Path("named").is_dir()
    Path("mpaudit.toml").unlink()
    for _ in range(2):
        assert run(main, ["check"]).stdout.count("MP104") == 2
    assert Path(".mpaudit_cache").is_dir()
    shutil.copytree(".mpaudit_cache", "sub/.mpaudit_cache")
    result = run(main, ["clean"])
    assert result.exit_code == 0
    assert sorted(result.stderr.splitlines()) == [
        "Removing cache at: .mpaudit_cache",
        "Removing cache at: sub/.mpaudit_cache",
    ]
    assert not Path(".mpaudit_cache").exists()
    assert list(clean(Path())) == []


# --- at random


def test_projects_of_the_fixtures(here: Path) -> None:
    """All of them side by side: each is judged as if it were alone, cached or not."""
    shutil.copytree(FIXTURES / "projects", "all")
    found = rules(same(None, Path("all")))
    alone: list[tuple[str, str]] = []
    for project in sorted(Path("all").iterdir()):
        if project.is_dir() and any(project.rglob("*.py")):
            alone += rules(audit.check([project]))
    assert sorted(found) == sorted(alone)


@pytest.mark.parametrize("seed", range(3))
def test_edits_at_random(here: Path, seed: int) -> None:
    """Files of fixtures are exchanged, moved, broken and removed; the cache never tells."""
    chance = random.Random(seed)
    projects = sorted(each for each in (FIXTURES / "projects").iterdir() if each.is_dir())
    for project in chance.sample(projects, 6):
        shutil.copytree(project, here / project.name)
    pool = [p.read_text(encoding="utf-8") for p in sorted(here.rglob("*.py"))]
    pool += [p.read_text() for p in chance.sample(sorted((FIXTURES / "scripts").glob("*.py")), 6)]
    for _ in range(10):
        same()
        for _ in range(chance.randint(1, 3)):
            files = sorted(here.rglob("*.py"))
            victim = chance.choice(files)
            match chance.randrange(6):
                case 0:
                    victim.write_text(chance.choice(pool))
                case 1:
                    lines = victim.read_text().splitlines(keepends=True)
                    if lines:
                        del lines[chance.randrange(len(lines))]
                    victim.write_text("".join(lines))
                case 2 if len(files) > 3:
                    victim.unlink()
                case 3:
                    copy = victim.with_name(f"copy{chance.randrange(3)}.py")
                    copy.write_bytes(victim.read_bytes())
                case 4:
                    victim.rename(chance.choice(files).parent / victim.name)
                case _:
                    victim.write_text("# shifted\n" + victim.read_text())
    same()
