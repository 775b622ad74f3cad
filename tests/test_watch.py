"""`--watch`, as a process of its own: what makes it check again, and how it ends."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import BAD, CLEAN, REPAIRED, call
from test_plugin import MODULE, PAGE

WAIT = 30  # seconds until a watch that says nothing has failed
HELPER = "def after(scaler):\n    scaler.update()\n"
USER = BAD + "    after(scaler)\n"


class Process:
    """`mpaudit check --watch` with its lines, as they come."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mpaudit", "check", "--watch", *args],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # not so behind &
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def until(self, end: str) -> list[str]:
        """The lines up to one that holds `end`."""
        found: list[str] = []
        deadline = time.monotonic() + WAIT
        while not found or end not in found[-1]:
            try:
                found.append(self.lines.get(timeout=max(deadline - time.monotonic(), 0)))
            except queue.Empty:
                raise AssertionError(f"no {end!r} in {found}") from None
        return found

    def silent(self, seconds: float) -> None:
        """Nothing is said for some time."""
        time.sleep(seconds)
        assert self.lines.empty()

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Process]]:
    running: list[Process] = []
    yield running
    for each in running:
        each.process.kill()
        each.process.wait()


def test_a_change_is_checked_and_ctrl_c_ends_it(tmp_path: Path, started: list[Process]) -> None:
    path = tmp_path / "a.py"
    path.write_text(BAD)
    started.append(watch := Process(tmp_path, "--output-format", "concise"))
    first = watch.until("fixable")
    assert first[0].endswith("Watching; Ctrl-C ends it.")
    assert any("MP104" in line for line in first)
    assert list((tmp_path / ".mpaudit_cache").glob("*.json"))
    watch.silent(1)  # what the cache writes is no change
    path.write_text(REPAIRED)
    assert watch.until("All checks passed!")[0].endswith("A file has changed.")
    (tmp_path / "new.py").write_text(BAD)
    assert any("new.py" in line for line in watch.until("Found 1 error"))
    (tmp_path / "new.py").unlink()
    watch.until("All checks passed!")
    assert watch.interrupt() == 130
    assert watch.lines.empty()  # no traceback


def test_what_a_file_imports_and_its_settings_are_watched(
    tmp_path: Path, started: list[Process]
) -> None:
    (tmp_path / "a.py").write_text("from steps import after\n" + USER)
    (tmp_path / "steps.py").write_text(HELPER)
    started.append(watch := Process(tmp_path, "a.py"))
    watch.until("All checks passed!")
    (tmp_path / "steps.py").write_text("def after(scaler):\n    print(scaler)\n")
    watch.until("Found 1 error")
    (tmp_path / "mpaudit.toml").write_text('ignore = ["MP104"]\n')
    watch.until("All checks passed!")
    (tmp_path / "mpaudit.toml").write_text('ignroe = ["MP104"]\n')
    watch.until("mpaudit.toml:1: there is no key 'ignroe'; did you mean 'ignore'?")
    (tmp_path / "mpaudit.toml").unlink()
    watch.until("Found 1 error")
    assert watch.interrupt() == 130


def test_a_plugin_is_watched(tmp_path: Path, started: list[Process]) -> None:
    (tmp_path / "mpaudit.toml").write_text('plugins = ["house"]\n')
    (tmp_path / "house.md").write_text(PAGE)
    (tmp_path / "house.py").write_text(MODULE)
    (tmp_path / "a.py").write_text("from x import y\n")
    started.append(watch := Process(tmp_path, "a.py", "--output-format", "concise"))
    assert any(line.endswith("said") for line in watch.until("Found 1 error"))
    (tmp_path / "house.py").write_text(MODULE.replace("said", "told"))
    assert any(line.endswith("told") for line in watch.until("Found 1 error"))
    (tmp_path / "house.py").write_text("1 / 0\n")
    watch.until("mpaudit.toml:1: plugins: house cannot be imported: ZeroDivisionError")
    (tmp_path / "house.py").write_text(MODULE)
    assert any(line.endswith("said") for line in watch.until("Found 1 error"))
    assert watch.interrupt() == 130


def test_what_it_repairs_is_no_change(tmp_path: Path, started: list[Process]) -> None:
    path = tmp_path / "a.py"
    path.write_text(BAD)
    started.append(watch := Process(tmp_path, "--fix"))
    watch.until("Found 1 error (1 fixed, 0 remaining).")
    assert path.read_text() == REPAIRED
    watch.silent(1)
    path.write_text(BAD)
    watch.until("Found 1 error (1 fixed, 0 remaining).")
    assert path.read_text() == REPAIRED
    assert watch.interrupt() == 130


def test_a_folder_that_goes_and_comes_back(tmp_path: Path, started: list[Process]) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / "a.py").write_text(CLEAN)
    started.append(watch := Process(tmp_path, "src"))
    watch.until("All checks passed!")
    folder.rename(tmp_path / "gone")
    watch.until("mpaudit: src: no such file or folder")
    (tmp_path / "gone" / "a.py").write_text(BAD)
    (tmp_path / "gone").rename(folder)
    watch.until("MP104")
    assert watch.interrupt() == 130


def test_what_is_wrong_at_the_start_ends_it(tmp_path: Path, started: list[Process]) -> None:
    started.append(watch := Process(tmp_path, "gone.py"))
    watch.until("mpaudit: gone.py: no such file or folder")
    assert watch.process.wait(WAIT) == 2


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--add-ignore"], "--add-ignore"),
        (["--write-baseline"], "--write-baseline"),
        (["--show-files"], "--show-files"),
        (["--show-settings"], "--show-settings"),
        (["-"], "standard input"),
    ],
)
def test_what_is_done_once_is_not_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call("check", "--watch", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"mpaudit: check: --watch cannot be combined with {word}\n"
