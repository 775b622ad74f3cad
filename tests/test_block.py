"""`with mpaudit.trace(...)`: a part of a program, watched from within."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mpaudit
from mpaudit.errors import MpauditError
from mpaudit.render import run_text
from mpaudit.runtime.summary import summarise
from mpaudit.runtime.trace import Reader

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from watched import batches, model  # noqa: E402

torch.set_num_threads(1)
OWNERS = (
    *(torch, torch.Tensor, torch.autograd, torch.amp.GradScaler, torch.amp.autocast_mode.autocast),
    *(torch.optim.Optimizer, nn.Module, nn.utils, nn.functional, nn.modules.module, torch.cuda),
    torch._C._nn,
)


def belongings() -> dict[tuple[int, str], object]:
    """Everything that a probe could replace, by its owner and name."""
    return {
        (n, name): value for n, owner in enumerate(OWNERS) for name, value in vars(owner).items()
    }


def train(
    network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> None:
    """By submodules, as Lightning calls them: the model itself is never called."""
    for samples, labels in batches():
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(network.head(network.body(samples)), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        whole = model()
        self.body, self.head = whole[:2], whole[2]


def made() -> tuple[Parts, torch.optim.Optimizer, torch.amp.GradScaler]:
    network = Parts()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, optimizer, torch.amp.GradScaler("cpu", init_scale=256.0)


def test_what_was_built_before_is_watched_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, ours = made(), made()
    train(*plain)
    before, finders = belongings(), list(sys.meta_path)
    with mpaudit.trace("out.mpa") as path:
        os.chdir("/")
        train(*ours)
    train(*ours)  # is not watched any more
    train(*plain)
    for one, other in zip(plain[0].parameters(), ours[0].parameters(), strict=True):
        assert torch.equal(one, other)
    now = belongings()
    assert {key for key in now if now[key] is not before.get(key)} <= {
        key for key in now if key not in before and key[1] == "__annotations__"
    }
    assert sys.meta_path == finders
    assert not nn.modules.module._global_forward_hooks
    assert path == tmp_path / "out.mpa"
    assert "mpaudit report out.mpa" in capsys.readouterr().err
    with Reader(path) as trace:
        assert {each.path: each.calls for each in trace.layers()} == {
            "body": 6,
            "body.0": 6,
            "body.1": 6,
            "head": 6,
        }
        assert [each.last + 1 for each in trace.attempts()] == [6]
        assert trace.problems() == []
        assert (trace.meta["complete"], trace.meta["probe_errors"]) == (True, [])
        assert trace.meta["emulated"] is False
        said = run_text.render(summarise(trace, [], {}))
        assert " s, a part of the script\n" in said


def test_it_looks_as_closely_as_the_command_does_with_such_options(tmp_path: Path) -> None:
    plain = made()
    for _ in range(4):
        train(*plain)
    steps = 4 * 6
    for name, options in (
        ("each", {"every": 1}),
        ("some", {"every": 7}),
        ("light", {"light": True}),
    ):
        ours = made()
        with mpaudit.trace(tmp_path / f"{name}.mpa", **options):
            for _ in range(4):
                train(*ours)
        for one, other in zip(plain[0].parameters(), ours[0].parameters(), strict=True):
            assert torch.equal(one, other)
        with Reader(tmp_path / f"{name}.mpa") as trace:
            assert [each.last + 1 for each in trace.attempts()] == [steps]
            rows = {(each.layer, each.phase): each.calls for each in trace.statistics()}
            sampling, layers = trace.meta["sampling"], {each.path for each in trace.layers()}
        if name == "light":  # weights and biases, in the first ten steps and in 16
            assert rows == {(layer, "update"): 2 * 11 for layer in ("body.0", "head")}
            assert (layers, sampling["light"]) == ({"body.0", "head"}, True)
        else:
            assert sampling["every"] == options["every"]
            looked = steps if name == "each" else 10 + len({14, 16, 21})
            assert rows["head", "backward"] == looked
            assert rows["head", "forward"] == steps


def test_one_trace_is_taken_at_a_time(tmp_path: Path) -> None:
    with mpaudit.trace(tmp_path / "outer.mpa"):
        with pytest.raises(MpauditError, match=r"outer\.mpa already"):
            mpaudit.trace(tmp_path / "inner.mpa").__enter__()
        model()(torch.randn(2, 12))
    assert not (tmp_path / "inner.mpa").exists()
    with mpaudit.trace(tmp_path / "next.mpa"):
        model()(torch.randn(2, 12))
    for name in ("outer", "next"):
        with Reader(tmp_path / f"{name}.mpa") as trace:
            assert trace.meta["complete"] is True
            assert len(trace.layers()) == 4


def test_a_block_in_a_script_that_is_watched_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import mpaudit\nwith mpaudit.trace('own.mpa'):\n    print(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", "-o", "run.mpa", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"mpaudit: trace: this process writes {tmp_path / 'run.mpa'} already"
    )
    assert list(tmp_path.glob("*.mpa")) == []


def test_an_exception_goes_through_and_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lost"), mpaudit.trace(tmp_path / "out.mpa"):
        raise ValueError("lost")
    with Reader(tmp_path / "out.mpa") as trace:
        assert trace.meta["exception"] == "ValueError: lost"
        assert trace.meta["complete"] is False
    with pytest.raises(MpauditError, match="cannot be written"):
        mpaudit.trace(tmp_path / "absent" / "out.mpa").__enter__()
    with pytest.raises(MpauditError, match="not 'gpu'"):
        mpaudit.trace(tmp_path / "out.mpa", device="gpu").__enter__()
    for every in (0, -3, 2.5):
        with pytest.raises(MpauditError, match=rf"1 or more, not {every}"):
            mpaudit.trace(tmp_path / "out.mpa", every=every).__enter__()


def test_cuda_calls_go_where_the_script_sends_them(tmp_path: Path) -> None:
    with mpaudit.trace(tmp_path / "own.mpa"):
        inside = torch.cuda.is_available()
    assert inside is torch.cuda.is_available()
    with mpaudit.trace(tmp_path / "cpu.mpa", device="cpu"):
        assert torch.zeros(2).cuda().sum().item() == 0.0
        assert torch.cuda.is_available()
    with Reader(tmp_path / "cpu.mpa") as trace:
        assert "float16" in trace.meta["emulated"]


def test_the_block_imports_no_framework_and_sees_one_that_comes_later(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import sys\nimport mpaudit\nassert 'torch' not in sys.modules\n"
        "with mpaudit.trace():\n"
        "    assert 'torch' not in sys.modules\n"
        "    import torch\n"
        "    torch.nn.Linear(2, 2)(torch.ones(1, 2))\n"
    )
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("mpaudit-train.py.*.mpa")
    with Reader(path) as trace:
        assert [each.type for each in trace.layers()] == ["Linear"]
        assert trace.meta["script"] == str(tmp_path / "train.py")
