"""Scripts that die, fill the disk, fork, patch: the result is theirs, the trace keeps what it had."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
ROOT = Path(__file__).parents[1]
HEAD = """
import os, signal, sys, time
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

def step():
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 12)), torch.randint(4, (8,)))
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()

def keep():
    state = torch.cat([each.detach().flatten() for each in model.parameters()])
    name = os.environ["RESULT"]
    with open(name + ".part", "wb") as file:
        file.write(state.numpy().tobytes() + torch.get_rng_state().numpy().tobytes())
    os.replace(name + ".part", name)

"""


def start(
    folder: Path, *before: str, result: str, limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """`python [before] train.py` in `folder`, with files of at most `limit` bytes."""

    def limited() -> None:
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RESULT": str(folder / result)}
    return subprocess.run(
        [sys.executable, *before, "train.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        preexec_fn=limited,
        check=False,
    )


def both(
    folder: Path, body: str, limit: int | None = None
) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
    """The script alone and watched: the same exit code, stdout, parameters and random state."""
    (folder / "train.py").write_text(HEAD + body, encoding="utf-8")
    alone = start(folder, result="alone")
    watched = start(folder, "-m", "mpaudit", "run", "-o", "run.mpa", result="watched", limit=limit)
    assert (watched.returncode, watched.stdout) == (alone.returncode, alone.stdout)
    assert (folder / "watched").read_bytes() == (folder / "alone").read_bytes()
    assert "mpaudit/runtime" not in watched.stderr
    return alone, watched


def report(folder: Path, name: str = "run.mpa") -> tuple[dict, str]:
    """The trace as JSON and as text."""
    from mpaudit import verdict
    from mpaudit.render import run_json, run_text

    read = verdict.read(folder / name)
    return json.loads(run_json.render(read)), run_text.render(read)


ENDINGS = {
    "raises": "for _ in range(4): step()\nkeep()\nraise ValueError('lost')\n",
    "exits": "for _ in range(4): step()\nkeep()\nsys.exit(7)\n",
    "leaves": "for _ in range(4): step()\nkeep()\ntime.sleep(1.1); step()\nos._exit(5)\n",
    "killed": "for _ in range(4): step()\nkeep()\ntime.sleep(1.1); step()\n"
    "os.kill(os.getpid(), signal.SIGKILL)\n",
    "terminated": "for _ in range(4): step()\nkeep()\ntime.sleep(1.1); step()\n"
    "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)\n",
    "terminated and ready for it": "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
    "for _ in range(4): step()\nkeep()\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(9)\n",
}


@pytest.mark.parametrize(
    "ending",
    [each if each == "killed" else pytest.param(each, marks=pytest.mark.slow) for each in ENDINGS],
)
def test_a_script_that_ends_badly(tmp_path: Path, ending: str) -> None:
    alone, watched = both(tmp_path, ENDINGS[ending])
    data, text = report(tmp_path)
    sudden = "time.sleep(1.1)" in ENDINGS[ending]  # the forward pass of step 4 flushes
    assert data["optimizers"][0]["steps"] == 4
    assert data["meta"]["complete"] is (ending in ("exits", "terminated and ready for it"))
    assert data["meta"]["exit_code"] == (None if sudden else alone.returncode)
    if sudden:
        assert "died without a word" in text
        with sqlite3.connect(tmp_path / "run.mpa") as trace:
            (flushed,) = trace.execute("SELECT value FROM meta WHERE key = 'flushed'").fetchone()
        assert json.loads(flushed)[:19].replace("T", " ") in text
    if ending == "raises":
        assert watched.stderr.startswith(alone.stderr)
        assert data["meta"]["exception"] == "ValueError: lost"
        assert "ValueError: lost" in text


def test_a_full_disk_costs_the_trace_and_nothing_else(tmp_path: Path) -> None:
    """The first flushes fit; then the layers do not any more."""
    body = """
step()
time.sleep(1.1)
step()
more = nn.Sequential(*(nn.Linear(12, 12) for _ in range(1500)))
more(torch.randn(2, 12)).sum().backward()
for _ in range(3):
    time.sleep(1.1)
    step()
keep()
print("done")
"""
    _, watched = both(tmp_path, body, limit=300_000)
    assert watched.stdout == "done\n"
    assert "could not be finished" in watched.stderr
    data, text = report(tmp_path)
    assert data["optimizers"][0]["steps"] == 1
    assert data["meta"]["complete"] is False
    assert "died without a word" in text


def test_a_script_that_closes_all_files_writes_its_own(tmp_path: Path) -> None:
    """A file that it opens next has the number of one of the trace's: it stays the script's alone."""
    body = """
step()
os.closerange(3, 100)
mine = [open(f"mine{number}", "w+b") for number in range(5)]
for number, file in enumerate(mine):
    file.write(b"abc" * number)
    file.flush()
for _ in range(2):
    time.sleep(1.1)
    step()
keep()
print([open(f"mine{number}", "rb").read() for number in range(5)])
"""
    _, watched = both(tmp_path, body)
    assert "b'abcabc'" in watched.stdout
    assert "the trace could not be finished (the script has closed its files)" in watched.stderr
    data, _ = report(tmp_path)
    assert data["meta"]["complete"] is False


PATCHES = """
linear, before = nn.functional.linear, torch.Tensor.backward
def doubled(*args, **kwargs):
    return linear(*args, **kwargs) * 2
nn.functional.linear = doubled
torch.nn.modules.linear.F.linear = doubled
calls = []
def backward(self, *args, **kwargs):
    calls.append("backward")
    return before(self, *args, **kwargs)
torch.Tensor.backward = backward
hook = model[0].register_forward_hook(lambda module, args, output: output + 1)
model[2].register_full_backward_hook(lambda module, grads, outer: (grads[0] * 3,))
model.register_forward_pre_hook(lambda module, args: (args[0].clone(),))
for parameter in model.parameters():
    parameter.register_hook(lambda grad: grad.clamp(-100, 100))
everywhere = nn.modules.module.register_module_forward_hook(
    lambda module, args, output: calls.append(type(module).__name__)
)
for _ in range(3):
    step()
hook.remove()
everywhere.remove()
torch.Tensor.backward = before
model[1] = nn.Tanh()
del model[1]
step()
keep()
print(calls, torch.Tensor.backward is before)
"""
CHANGES = """
os.mkdir("elsewhere")
os.chdir("elsewhere")
for name in [name for name in sys.modules if name.startswith("mpaudit.render")]:
    del sys.modules[name]
step()
child = os.fork()
if child == 0:
    step()
    sys.exit(0)
print(os.waitpid(child, 0)[1])
second = os.fork()
if second == 0:
    time.sleep(2)
    os._exit(0)
step()
for name in [name for name in sys.modules if name.partition(".")[0] in ("mpaudit", "sqlite3", "json")]:
    del sys.modules[name]
step()
keep()
print(os.listdir("."))
os.chdir("..")
os.rmdir("elsewhere")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "steps"), [(PATCHES, 4), (CHANGES, 3)], ids=["patches", "changes"]
)
def test_a_script_that_changes_things_under_the_tracer(
    tmp_path: Path, body: str, steps: int
) -> None:
    _, watched = both(tmp_path, body)
    assert watched.returncode == 0, watched.stderr
    assert "the trace is run.mpa;" in watched.stderr
    data, _ = report(tmp_path)
    assert (data["optimizers"][0]["steps"], data["meta"]["complete"]) == (steps, True)
    with sqlite3.connect(tmp_path / "run.mpa") as trace:
        assert trace.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (errors,) = trace.execute("SELECT value FROM meta WHERE key = 'probe_errors'").fetchone()
    assert json.loads(errors) == []


OVERRIDES = """
from torch.overrides import TorchFunctionMode
called = []
class Own(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        called.append(getattr(function, "__name__", str(function)))
        return super().__torch_function__(function, types, args, kwargs or {})
class Seeing(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        called.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))
def own_step(samples):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(samples).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
for _ in range(3):
    own_step(torch.randn(8, 12).as_subclass(Own))
with Seeing():
    own_step(torch.randn(8, 12))
keep()
print(called)
"""


def test_classes_and_modes_that_override_functions_see_the_scripts_own(tmp_path: Path) -> None:
    both(tmp_path, OVERRIDES)
    data, _ = report(tmp_path)
    assert data["optimizers"][0]["steps"] == 4
    assert all(layer["forward"]["amax"] for layer in data["layers"])


@pytest.mark.slow
def test_a_trace_that_is_removed_is_missed(tmp_path: Path) -> None:
    body = (
        "step()\nfor name in os.listdir('.'):\n    name.startswith('run.mpa') and os.remove(name)\n"
    )
    _, watched = both(tmp_path, body + "step()\nkeep()\n")
    assert watched.returncode == 0
    assert "the trace was removed while the script ran: run.mpa" in watched.stderr


MANY = """
small = nn.Linear(4, 1)
inner = torch.optim.SGD(small.parameters(), lr=0.01)
for number in range({steps}):
    inner.zero_grad()
    small(torch.randn(2, 4)).sum().backward()
    inner.step()
for number in range(4):
    step()
keep()
"""


@pytest.mark.slow
def test_rows_do_not_grow_with_the_steps(tmp_path: Path) -> None:
    """Ten times the steps: no more rows, and as many bytes as numbers have digits more."""
    rows, sizes = [], []
    for steps in (100, 1000):
        folder = tmp_path / str(steps)
        folder.mkdir()
        both(folder, MANY.format(steps=steps))
        with sqlite3.connect(folder / "run.mpa") as trace:
            tables = [name for (name,) in trace.execute("SELECT name FROM sqlite_master")]
            tables = [each for each in tables if not each.startswith("sqlite_")]
            rows.append(
                {each: trace.execute(f"SELECT count(*) FROM {each}").fetchone() for each in tables}
            )
        sizes.append((folder / "run.mpa").stat().st_size)
        assert sorted(each["steps"] for each in report(folder)[0]["optimizers"]) == [4, steps]
    assert rows[1].keys() == rows[0].keys()
    assert all(rows[1][table] <= rows[0][table] for table in rows[0]), rows
    assert sizes[1] <= sizes[0] + 4096  # a page
