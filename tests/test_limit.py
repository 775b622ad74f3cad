"""`--fail-on`: real runs that break limits, and the exit code that CI sees."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("torch")
from watched import mpaudit

from mpaudit.errors import MpauditError
from mpaudit.limit import limits, told
from mpaudit.verdict import read

SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)
for step in range(20):
    inputs = torch.randn(8, 12, device="cuda")
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
sys.exit(int(sys.argv[1]))
"""
FINE = "import torch\nprint(torch.ones(2).sum().item())\n"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("limit")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    return folder, mpaudit(folder, "run", "--fail-on", "error", "-o", "a.mpa", "train.py", "0")


def test_a_run_that_breaks_a_limit_ends_with_one_and_says_how(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = ran
    row = 1 + SCRIPT.splitlines().index(next(e for e in SCRIPT.splitlines() if "clip" in e))
    assert done.returncode == 1
    at = f"{folder.resolve()}/train.py:{row}"
    assert f"mpaudit: --fail-on error: MP105 clip-before-unscale in {at}\n" in done.stderr


def test_the_script_s_own_code_comes_first(
    ran: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = ran
    done = mpaudit(folder, "run", "--fail-on=error", "-o", str(tmp_path / "b.mpa"), "train.py", "3")
    assert done.returncode == 3
    assert "--fail-on" not in done.stderr


def test_limits_of_a_report_are_those_of_its_numbers(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ran
    report = read(folder / "a.mpa")
    data = json.loads(mpaudit(folder, "report", "a.mpa", "--format", "json").stdout)
    lost, steps = len(data["optimizers"][0]["skipped_steps"]), data["optimizers"][0]["steps"]
    least = min(
        each["forward"]["headroom_bits"]
        for each in data["layers"]
        if each["output_dtypes"] == ["float16"]
    )
    assert lost > 2

    def broken(*words: str) -> list[str]:
        said: list[str] = []
        assert told(report, limits(words), said.append) == bool(said)
        return said

    assert broken(f"skipped={lost}", "warning") == broken("warning")
    assert broken(f"skipped={lost - 1}") == [
        f"--fail-on skipped={lost - 1}: {lost} of {steps} steps of SGD were skipped"
    ]
    share = 100 * lost / steps
    assert not broken(f"skipped={math.ceil(share)}%")
    assert broken(f"skipped={share - 1:.1f}%")
    assert not broken(f"headroom={least - 0.01:.3f}")
    (line,) = broken(f"headroom={least + 0.01:.3f}")
    assert re.search(rf"has {least:.1f} bits left in float16", line)
    assert broken("MP1") == [
        line.replace("clip-before-unscale:", "MP1:") for line in broken("clip-before-unscale")
    ]
    assert not broken("MP104,MP2")


def test_a_report_is_shown_whole_and_ends_with_the_limit(
    ran: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = ran
    fine = mpaudit(folder, "report", "a.mpa", "--fail-on", "MP104")
    done = mpaudit(folder, "report", "a.mpa", "--fail-on", "MP104", "--fail-on", "MP105")
    assert (fine.returncode, done.returncode) == (0, 1)
    assert fine.stdout == done.stdout
    assert fine.stdout.startswith("mpaudit a.mpa\n")


@pytest.mark.parametrize("options", [(), ("--light",)])
def test_what_was_not_seen_is_not_green(tmp_path: Path, options: tuple[str, ...]) -> None:
    text, limit = (SCRIPT, "headroom=1") if options else (FINE, "error")
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    done = mpaudit(tmp_path, "run", *options, "--fail-on", limit, "train.py", "0")
    assert done.returncode == 2
    why = "no layer is looked at with --light" if options else "no training was seen in"
    assert f"mpaudit: --fail-on{' headroom' if options else ''}: {why}" in done.stderr


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("MP15", "there is no rule 'MP15'; did you mean "),
        ("skiped=3", "'skiped=3' is no limit; write error, warning, advice, a rule, skipped=5"),
        ("headroom=2%", "'headroom=2%' is no limit"),
        ("skipped=", "'skipped=' is no limit"),
    ],
)
def test_a_word_that_is_no_limit_is_refused_before_anything_runs(word: str, said: str) -> None:
    with pytest.raises(MpauditError, match=re.escape(f"--fail-on: {said}")):
        limits(["error", word])
