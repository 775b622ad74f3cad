"""Files that cannot be read or written: what is said, with which code, and that nothing is half done."""

from __future__ import annotations

import codecs
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import BAD, CLEAN, REPAIRED, call, python

from mpaudit import audit
from mpaudit.output_format import CHECK_FORMATS

NOBODY = 65534


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def nobody(here: Path) -> Iterator[None]:
    """Rights that root has not: as somebody who owns nothing. What is loaded lazily is loaded before."""
    call("check", "-n", "--fix", write("warm/a.py", BAD))
    write("warm/a.py", BAD)
    call("check", "-n", "--write-baseline", "--baseline", "warm/b.json", "warm/a.py")
    if os.geteuid() != 0:
        yield
        return
    for parent in here.parents:
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def write(name: str, data: str | bytes) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def found(*args: str) -> list[tuple[str, str, str]]:
    """What a check finds: file, code, message."""
    result = call("check", "-n", "--output-format", "json", *args)
    assert result.exit_code in (0, 1), result.stderr
    shown = json.loads(result.stdout)
    assert result.exit_code == bool(shown)
    return [(os.path.relpath(f["filename"]), f["code"], f["message"]) for f in shown]


def names(folder: str = ".") -> list[str]:
    return sorted(each.name for each in Path(folder).iterdir())


# --- what cannot be read


def test_files_and_folders_without_rights(here: Path, request: pytest.FixtureRequest) -> None:
    write("secret.py", BAD).chmod(0)
    write("closed/a.py", BAD)
    write("open/a.py", BAD)
    Path("closed").chmod(0)
    request.getfixturevalue("nobody")
    try:
        assert found("secret.py", "closed", "open") == [
            ("closed", "MP001", "the folder cannot be read: Permission denied"),
            ("open/a.py", "MP104", "`scaler.step()` is never followed by `scaler.update()`"),
            ("secret.py", "MP001", "the file cannot be read: Permission denied"),
        ]
        assert [name for name, *_ in found()] == ["closed", "open/a.py", "secret.py", "warm/a.py"]
        result = call("check", "-n", "closed/a.py")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "mpaudit: Permission denied: closed/a.py\n"
        if os.geteuid() == NOBODY:
            os.seteuid(0)
    finally:
        Path("closed").chmod(0o755)


def test_a_home_that_cannot_be_entered(
    here: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    write("home/mpaudit/mpaudit.toml", 'select = ["MP2"]\n')
    write("a.py", BAD)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "home"))
    assert found("a.py") == []
    Path("home").chmod(0)
    request.getfixturevalue("nobody")
    assert [code for _, code, _ in found("a.py")] == ["MP104"]


def test_templates_are_left_out_unless_they_are_named(here: Path) -> None:
    inside = "src/{{cookiecutter.name}}/train.py"
    for name in (inside, "src/train_{{ name }}.py"):
        write(name, "{% if amp %}\n" + BAD)
    write("src/a.py", BAD)
    assert [code for _, code, _ in found("src")] == ["MP104"]
    assert [code for _, code, _ in found(inside)] == ["MP001"]


def test_links_that_lead_nowhere_and_in_circles(here: Path) -> None:
    write("src/a.py", BAD)
    Path("src/self").symlink_to(".", target_is_directory=True)
    Path("src/up").symlink_to("..", target_is_directory=True)
    Path("src/dead.py").symlink_to("gone.py")
    Path("src/circle.py").symlink_to("circle.py")
    Path("src/.#a.py").symlink_to("somebody@host.4711")  # how Emacs locks a file that is edited
    assert [(name, code) for name, code, _ in found("src")] == [
        ("src/a.py", "MP104"),
        ("src/circle.py", "MP001"),
        ("src/dead.py", "MP001"),
    ]
    for name in ("src/circle.py", "src/dead.py"):
        result = call("check", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"mpaudit: {name}: no such file or folder\n"
    assert [code for _, code, _ in found("src/self/up/src/a.py")] == ["MP104"]


@pytest.mark.parametrize("args", [[], ["--fix"], ["--add-ignore"], ["--diff"], ["--fix-only"]])
def test_a_pipe_is_not_waited_for(here: Path, args: list[str]) -> None:
    write("src/a.py", CLEAN + "import torch.amp\n")
    write("src/setup.py", CLEAN)
    os.mkfifo("src/pipe.py")
    result = python("check", "-n", "src", *args, timeout=60)
    assert result.returncode == 1
    assert "src/pipe.py" in result.stdout + result.stderr
    assert "it is no regular file" in result.stdout + result.stderr


def test_a_pipe_that_is_named_is_read(here: Path) -> None:
    os.mkfifo("pipe.py")
    write("a.py", BAD)
    with subprocess.Popen(["cp", "a.py", "pipe.py"]) as copying:
        result = python("check", "-n", "pipe.py", timeout=60)
    assert copying.returncode == 0
    assert "--> pipe.py:11:5" in result.stdout


def test_files_that_vanish_and_change_while_they_are_checked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each file that is opened another one goes, or becomes something else."""
    names = [f"m{number:02}.py" for number in range(30)]
    for name in names:
        write(name, BAD)
    opened: list[str] = []
    read_bytes = Path.read_bytes

    def reading(path: Path) -> bytes:
        if path.suffix == ".py":
            opened.append(path.name)
            for name in names[len(opened) :: 7]:
                Path(name).unlink(missing_ok=True)
            for name in names[len(opened) + 3 :: 11]:
                Path(name).write_text("x = (\n")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    for args in ([], ["--fix"], ["--output-format", "sarif"]):
        result = call("check", "-n", ".", *args)
        assert result.exit_code in (0, 1), result.stderr
        assert "internal error" not in result.stderr
    assert opened


# --- what cannot be written


def test_a_tree_that_is_read_only(here: Path, request: pytest.FixtureRequest) -> None:
    write("src/a.py", BAD)
    Path("src").chmod(0o555)
    request.getfixturevalue("nobody")
    assert [code for _, code, _ in found("src")] == ["MP104"]
    assert call("check", "src").exit_code == 1  # without a cache, for there can be none
    for args, word in (
        (["--fix", "src"], "cannot write the repaired src/a.py: Permission denied"),
        (["--add-ignore", "src"], "cannot write the repaired src/a.py: Permission denied"),
        (["-o", "src/out.txt", "src"], "src/out.txt: the report cannot be written"),
        (["--baseline", "src/b.json", "--write-baseline", "src"], "the baseline cannot be written"),
    ):
        result = call("check", "-n", *args)
        assert (result.exit_code, result.stdout) == (2, ""), args
        assert len(result.stderr.splitlines()) == 1
        assert word in result.stderr
    assert names("src") == ["a.py"]
    assert Path("src/a.py").read_text() == BAD


def full(*args: str, size: int = 300) -> subprocess.CompletedProcess[str]:
    """A check on a disk where no file can get longer than `size` bytes."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-m", "mpaudit", "check", *args]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--fix"], "cannot write the repaired a.py: File too large; the file is unchanged"),
        (["--add-ignore"], "cannot write the repaired a.py: File too large; the file is unchanged"),
        (["-o", "out.txt"], "out.txt: the report cannot be written (File too large)"),
        (["--baseline", "b.json", "--write-baseline"], "the baseline cannot be written"),
    ],
)
def test_a_disk_that_is_full_while_writing(here: Path, args: list[str], word: str) -> None:
    write("a.py", BAD)
    write("out.txt", "old\n")
    before = names()
    result = full("-n", *args, "a.py", size=100)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert word in result.stderr
    assert names() == before
    assert Path("a.py").read_text() == BAD
    assert Path("out.txt").read_text() == "old\n"


def test_a_disk_that_is_full_keeps_no_cache(here: Path) -> None:
    write("a.py", BAD)
    result = full(".")
    assert (result.returncode, result.stderr) == (1, "")
    assert "MP104" in result.stdout
    assert list(Path(".mpaudit_cache").glob("*.json")) == []
    assert list(Path(".mpaudit_cache").glob("*.tmp")) == []


def test_a_file_that_fits_is_repaired_and_the_other_one_named(here: Path) -> None:
    write("a.py", BAD)
    write("b.py", BAD + f"# {'x' * 1000}\n")
    result = full("-n", "--fix", "a.py", "b.py", size=800)
    assert result.returncode == 2
    assert "cannot write the repaired b.py: File too large; the file is unchanged" in result.stderr
    assert "(1 other file repaired before it)" in result.stderr
    assert Path("a.py").read_text() == REPAIRED
    assert Path("b.py").read_text().startswith(BAD)


def test_a_standard_output_that_is_full(here: Path) -> None:
    write("a.py", BAD)
    with Path("/dev/full").open("w") as out:
        command = [sys.executable, "-m", "mpaudit", "check", "a.py"]
        result = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert (result.returncode, result.stderr) == (2, "mpaudit: No space left on device\n")


def test_a_report_goes_through_links_and_to_devices(here: Path) -> None:
    write("a.py", BAD)
    write("real.txt", "old\n").chmod(0o640)
    Path("link.txt").symlink_to("real.txt")
    call("check", "-n", "-o", "link.txt", "a.py")
    assert Path("link.txt").is_symlink()
    assert "MP104" in Path("real.txt").read_text()
    assert Path("real.txt").stat().st_mode & 0o777 == 0o640
    result = python("check", "-n", "-o", "/dev/stdout", "a.py")
    assert "MP104" in result.stdout


# --- encodings


ACCENT = BAD.replace("import torch\n", "import torch\n# é\n", 1)
READ = {
    "utf-8 with a mark": codecs.BOM_UTF8 + ACCENT.encode(),
    "latin-1": b"# -*- coding: latin-1 -*-\n" + ACCENT.encode("latin-1"),
    "cp1252": b"# vim: set fileencoding=cp1252 :\n" + ACCENT.encode("cp1252"),
    "gbk": b"# coding: gbk\n" + ACCENT.replace("é", "混合").encode("gbk"),
    "shift_jis": b"# coding: shift_jis\n" + ACCENT.replace("é", "混合").encode("shift_jis"),
    "returns": ACCENT.replace("\n", "\r").encode(),
    "form feeds": ACCENT.replace("for inputs", "\x0cfor inputs").encode(),
}
UNREAD = {
    "latin-1 that is not declared": ACCENT.encode("latin-1"),
    "utf-16": ACCENT.encode("utf-16"),
    "utf-16 without a mark": ACCENT.encode("utf-16-le"),
    "utf-32": ACCENT.encode("utf-32"),
    "an encoding that is none": b"# coding: klingon\n" + BAD.encode(),
    "a codec of bytes": b"# coding: hex\n" + BAD.encode(),
    "a codec of nothing": b"# coding: undefined\n" + BAD.encode(),
    "a mark that says otherwise": codecs.BOM_UTF8 + b"# coding: latin-1\n" + ACCENT.encode(),
    "zeros": BAD.replace("\n", "\0\n", 1).encode(),
    "surrogates": BAD.encode() + b"x = '\xed\xa0\x80'\n",
    "a control character": BAD.encode() + b"\x1a",
}


@pytest.mark.parametrize("case", READ)
def test_what_python_reads_is_read_and_written_as_it_was(here: Path, case: str) -> None:
    write("a.py", READ[case])
    assert [code for _, code, _ in found("a.py")] == ["MP104"]
    assert call("check", "-n", "--fix", "a.py").exit_code == 0
    after = Path("a.py").read_bytes()
    newline = b"\r" if case == "returns" else b"\n"
    assert after.replace(b"    scaler.update()" + newline, b"") == READ[case]
    compile(after, "a.py", "exec")


@pytest.mark.parametrize("case", UNREAD)
def test_what_python_cannot_read_is_said(here: Path, case: str) -> None:
    write("a.py", UNREAD[case])
    assert [code for _, code, _ in found("a.py")] == ["MP001"]
    assert call("check", "-n", "--fix", "a.py").exit_code == 1
    assert Path("a.py").read_bytes() == UNREAD[case]


@pytest.mark.parametrize("name", ["unicode_escape", "utf-7"])
def test_what_would_come_back_as_other_bytes_is_left_as_it_is(here: Path, name: str) -> None:
    data = f"# coding: {name}\n{BAD}".encode()
    write("a.py", data)
    assert [code for _, code, _ in found("a.py")] == ["MP104"]
    result = call("check", "-n", "--fix", "a.py")
    if Path("a.py").read_bytes() != data:  # it does come back
        assert result.exit_code == 0
        assert Path("a.py").read_bytes().startswith(data)
        return
    assert result.exit_code == 1
    assert f"warning: a.py: it is left as it is: written anew in {name}" in result.stderr
    refusal = call("check", "-n", "--add-ignore", "a.py")
    assert (refusal.exit_code, Path("a.py").read_bytes()) == (2, data)


@pytest.mark.parametrize("name", CHECK_FORMATS)
@pytest.mark.parametrize(
    "file", [b"bad\xff.py", "混合 é.py".encode(), b"new\nline.py", b"a%20b,c].py"]
)
def test_names_of_any_bytes_are_shown_in_every_format(here: Path, name: str, file: bytes) -> None:
    Path(os.fsdecode(file)).write_text(BAD)
    for more in ([], ["-o", "out.txt"]):
        result = call("check", "-n", "--output-format", name, *more, ".")
        assert result.exit_code == 1, result.stderr
        assert "internal error" not in result.stderr
    assert "MP104" in Path("out.txt").read_text()
    assert call("check", ".").exit_code == 1  # with a cache


# --- size


def test_too_much_code_is_said_and_not_parsed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpaudit.source.text.parsing.MAX_CHARACTERS", 1000)
    monkeypatch.setattr("mpaudit.source.text.notebook.MAX_CHARACTERS", 1000)
    write("a.py", BAD + "#" * 1000)
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "source": BAD}
    whole = {"cells": [cell] * 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    write("b.ipynb", json.dumps(whole))
    (_, one, said), (_, two, told) = found("a.py", "b.ipynb")
    assert (one, two) == ("MP001", "MP001")
    assert "characters of code are too many" in said
    assert "characters of code are too many" in told


@pytest.mark.slow
@pytest.mark.parametrize("where", ["outputs", "cells", "code"])
def test_a_notebook_of_100_megabytes(here: Path, where: str) -> None:
    def cell(source: str, output: str = "") -> dict[str, object]:
        shown = {"output_type": "display_data", "data": {"image/png": output}, "metadata": {}}
        return {"cell_type": "code", "metadata": {}, "outputs": [shown], "source": source}

    cells = {
        "outputs": [cell(BAD, "A" * 100_000_000)],
        "cells": [cell(BAD), *(cell(f"x{i} = {i}", "B" * 50_000) for i in range(2000))],
        "code": [cell(BAD), *[cell("x = 1\n" * 10_000)] * 1700],
    }
    whole = {"cells": cells[where], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = write("a.ipynb", json.dumps(whole))
    assert path.stat().st_size > 100_000_000
    began = time.monotonic()
    result = python("check", "-n", "--output-format", "concise", "a.ipynb", timeout=300)
    assert time.monotonic() - began < 120
    assert result.returncode == 1
    said = "too many" if where == "code" else "cell 1:11:5: error[MP104]"
    assert said in result.stdout


def test_many_cells_cost_what_they_are_worth(here: Path) -> None:
    """Twice the cells take about twice the time, not four times."""

    def cost(count: int) -> float:
        source = "\n".join(f"value_{i} = {i}" for i in range(20))
        cell = {"cell_type": "code", "metadata": {}, "outputs": [], "source": source}
        whole = {"cells": [cell] * count, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        began = time.process_time()
        audit.check_text(json.dumps(whole), "a.ipynb")
        return time.process_time() - began

    cost(10)
    assert cost(2000) < 12 * cost(400)
