"""Running a script under mpaudit, against the same script under plain `python`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpaudit.errors import MpauditError
from mpaudit.finding import Finding, Position, Span
from mpaudit.fix import Fix, Safety
from mpaudit.rule import rule
from mpaudit.runtime import failure
from mpaudit.runtime.launch import run
from mpaudit.runtime.target import script
from mpaudit.runtime.trace import Reader

LAUNCH = (
    "import sys; from mpaudit.runtime.launch import run; sys.exit(run(sys.argv[1], sys.argv[2:]))"
)
MODULE = LAUNCH.replace("argv[2:])", "argv[2:], how='module')")
ROOT = Path(__file__).parents[1]


def start(*arguments: str, cwd: Path, code: str = LAUNCH) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def plain(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def trace_of(folder: Path) -> Path:
    (path,) = folder.glob("*.mpa")
    return path


FACTS = """
import inspect, pickle, sys
import neighbour

class Thing:
    pass

def main():
    main_module = sys.modules["__main__"]
    print(sys.argv, __name__, __file__, __spec__ and __spec__.name, __package__)
    print(sys.path[0], neighbour.WORD, main_module.Thing is Thing, __annotations__)
    print(type(pickle.loads(pickle.dumps(Thing()))) is Thing, len(inspect.getsource(main)))

if __name__ == "__main__":
    main()
"""


def test_a_script_sees_what_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "facts.py").write_text(FACTS)
    (tmp_path / "pkg" / "neighbour.py").write_text("WORD = 'here'")
    arguments = ("pkg/facts.py", "--lr", "0.1", "-m", "x")
    ours, pythons = start(*arguments, cwd=tmp_path), plain(*arguments, cwd=tmp_path)
    assert ours.stdout == pythons.stdout
    assert "here" in ours.stdout
    assert ours.returncode == pythons.returncode == 0


def test_a_module_runs_as_with_dash_m(tmp_path: Path) -> None:
    package = tmp_path / "pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text(FACTS.replace("import neighbour", "from . import neighbour"))
    (package / "neighbour.py").write_text("WORD = 'relative'")
    (package / "__main__.py").write_text("import sys; print(__name__, __package__, sys.argv)")
    for name in ("pkg.train", "pkg"):
        ours = start(name, "a", "b", cwd=tmp_path, code=MODULE)
        assert ours.stdout == plain("-m", name, "a", "b", cwd=tmp_path).stdout
        assert ours.returncode == 0


def test_a_text_runs_as_with_dash_c(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("WORD = 'here'")
    text = (
        "import sys, neighbour\nx: int = 1\n"
        "print(sys.argv, __name__, __spec__, '__file__' in globals(), __package__, sys.path[0])\n"
        "print(__loader__, neighbour.WORD, __annotations__)\n1 / 0\n"
    )
    command = ("-m", "mpaudit", "run", "-o", "run.mpa", "-c", text, "-m", "--lr=1")
    ours, pythons = (plain(*args, cwd=tmp_path) for args in (command, ("-c", text, "-m", "--lr=1")))
    assert (ours.stdout, ours.returncode) == (pythons.stdout, 1)
    assert "here" in ours.stdout
    assert ours.stderr.startswith(pythons.stderr)
    with Reader(tmp_path / "run.mpa") as trace:
        assert trace.meta["sources"] == {"<string>": text}
        assert trace.meta["argv"] == ["-m", "--lr=1"]


def test_the_rank_is_in_the_name_and_in_the_trace(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "1", "WORLD_SIZE": "2"}
    for options in ((), ("-o", "out.mpa")):
        command = [sys.executable, "-m", "mpaudit", "run", *options, "train.py"]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    named, given = sorted(tmp_path.glob("*.mpa"))
    assert named.name.endswith(".r1.mpa")
    assert given.name == "out.r1.mpa"
    for path in (named, given):
        with Reader(path) as trace:
            assert (trace.meta["rank"], trace.meta["world_size"]) == (1, 2)


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        "sys.exit(7)",
        "sys.exit('a reason')",
        "raise KeyError('lost')",
        "raise SystemExit(True)",
        "f()",
        "assert False, 'never'",
    ],
)
def test_a_script_ends_as_under_python(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "end.py"
    script.write_text(
        f"import sys\ndef f():\n    try:\n        1 / 0\n    finally:\n        g()\n{ending}\n"
    )
    ours, pythons = start("end.py", cwd=tmp_path), plain("end.py", cwd=tmp_path)
    assert ours.returncode == pythons.returncode
    assert ours.stdout == pythons.stdout == ""
    own = ours.stderr.index("mpaudit:")
    assert ours.stderr[:own] == pythons.stderr


def test_an_interrupt_is_130(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, "wait.py"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell in the background ignores it, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "KeyboardInterrupt" in errors
    assert "launch.py" not in errors
    with Reader(trace_of(tmp_path)) as trace:
        assert trace.meta["exception"] == "KeyboardInterrupt"
        assert trace.meta["exit_code"] == 130


def test_the_trace_and_what_to_do_with_it_are_told_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("print('hello')")
    done = start("hello.py", "x", cwd=tmp_path)
    path = trace_of(tmp_path)
    assert path.name.startswith("mpaudit-hello.py.")
    assert done.stdout == "hello\n"
    for command in ("report", f"report {path.name} --format json"):
        assert f"  mpaudit {command}" in done.stderr
    assert "mpaudit explain" not in done.stderr  # nothing was found that could be explained
    with Reader(path) as trace:
        meta = trace.meta
    assert meta["script"] == str(tmp_path / "hello.py")
    assert (meta["argv"], meta["exit_code"], meta["complete"]) == (["x"], 0, True)
    assert meta["framework"] is None


def test_a_script_that_is_killed_leaves_a_trace(tmp_path: Path) -> None:
    (tmp_path / "die.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert start("die.py", cwd=tmp_path).returncode == -signal.SIGKILL
    with Reader(trace_of(tmp_path)) as trace:
        assert trace.meta["complete"] is False
        assert trace.meta["script"].endswith("die.py")


def test_corrected_text_runs_under_the_files_name(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('the original ran')\n")
    corrected = "import sys\nprint(__file__)\n\nraise RuntimeError(sys.argv[1])  # corrected\n"
    code = (
        "import sys; from mpaudit.runtime.launch import run\n"
        f"sys.exit(run('train.py', ['why'], source={corrected!r}))"
    )
    done = start(cwd=tmp_path, code=code)
    assert done.stdout == f"{script}\n"
    assert f'File "{script}", line 4, in <module>' in done.stderr
    assert "raise RuntimeError(sys.argv[1])  # corrected" in done.stderr
    assert script.read_text() == "raise SystemExit('the original ran')\n"
    with Reader(trace_of(tmp_path)) as trace:
        assert trace.meta["source_edited"] is True


def test_what_cannot_run_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.py").write_text("x = 1\nif x\n")
    (tmp_path / "binary.py").write_bytes(b"\x7fELF\0\1\2")
    (tmp_path / "latin.py").write_bytes("s = 'é'".encode("latin-1"))
    expected = {
        "absent.py": "there is no such script",
        "folder": "is a directory",
        "broken.py": "broken.py:2: not valid Python",
        "binary.py": "not",
        "latin.py": "not",
    }
    before = sorted(tmp_path.iterdir())
    for name, reason in expected.items():
        with pytest.raises(MpauditError, match=reason) as caught:
            run(name, [])
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
    for name in ("no_such_module", "sys", "folder.absent"):
        with pytest.raises(MpauditError, match=f"-m {name}"):
            run(name, [], how="module")
    assert sorted(tmp_path.iterdir()) == before


def test_a_program_of_this_environment_is_found_though_nobody_activated_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Path(sys.executable).with_name("pytest")  # this test needs it anyway
    other = tmp_path / "pytest"
    other.write_text("#!/usr/bin/python3\n")
    other.chmod(0o755)
    for path in ("", str(tmp_path)):
        monkeypatch.setenv("PATH", path)
        assert Path(script("pytest").filename) == beside


def test_a_missing_framework_is_named_with_its_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    (tmp_path / "train.py").write_text("import torch\n")
    done = start("train.py", cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr
    assert "pip install 'mpaudit[torch]'" in done.stderr


def test_nothing_heavy_is_imported_for_a_script_that_does_not() -> None:
    code = (
        "import sys, pathlib, tempfile, os; os.chdir(tempfile.mkdtemp())\n"
        "pathlib.Path('s.py').write_text('x = 1')\n"
        "from mpaudit.runtime.launch import run; run('s.py', [])\n"
        "print({'torch', 'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    assert start(cwd=ROOT, code=code).stdout == "set()\n"


def test_the_rule_behind_an_exception_is_named_with_line_and_fix() -> None:
    text = "step() has already been called since the last update()."
    assert (found := failure.behind(text)) is not None
    assert found.name == "missing-scaler-update"
    assert failure.behind("some other error") is None
    page = rule("missing-scaler-update")
    finding = Finding(
        page.code,
        page.name,
        page.severity,
        "`policy.step()` has no update()",
        Span(str(Path.cwd() / "train.py"), Position(25, 9), Position(25, 30)),
        fix=Fix("add `policy.update()`", (), Safety.SAFE),
    )
    lines = failure.explain(RuntimeError(text), lambda: [finding])
    assert lines[0].startswith("mpaudit: MP104 missing-scaler-update explains this: ")
    assert "train.py:25: `policy.step()` has no update()" in lines[1]
    assert "add `policy.update()`" in lines[2]


def test_threads_that_still_run_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start()\n"
    )
    began = time.monotonic()
    assert start("late.py", cwd=tmp_path).stdout == "late\n"
    assert time.monotonic() - began > 0.3


def test_a_pool_of_threads_that_is_left_open_does_not_keep_the_run_from_ending(
    tmp_path: Path,
) -> None:
    (tmp_path / "pool.py").write_text(
        "import concurrent.futures, time\n"
        "pool = concurrent.futures.ThreadPoolExecutor()\n"
        "pool.submit(print, 'done').result()\n"
        "pool.submit(lambda: (time.sleep(0.3), print('late')))\n"
    )
    assert start("pool.py", cwd=tmp_path).stdout == "done\nlate\n"


def test_a_missing_framework_is_named_and_nothing_is_written(tmp_path):
    (tmp_path / "train.py").write_text("import torch\n", encoding="utf-8")
    blocked = "import sys; sys.modules['torch'] = None; from mpaudit.cli import main; main()"
    # an entry of None in sys.modules makes the import fail as if torch were not installed
    ran = subprocess.run(
        [sys.executable, "-c", blocked, "run", "train.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "pip install 'mpaudit[torch]'" in ran.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]
