"""Runs beside their float32 reference: real loops, and the verdict on series written out here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpaudit.runtime.divergence import compare
from mpaudit.runtime.rehearsal import Loss, Plan, Record, Step
from mpaudit.runtime.trace import Reader

ROOT = Path(__file__).parents[1]
PLACE = ["train.py", 9, 1, 9, 10]
LOOP = """
import random, sys
import torch
from torch import nn

{seed}
x = torch.randn(512, 16{device})
y = x[:, :4].argmax(dim=1)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4)){to}
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
loss_fn = nn.CrossEntropyLoss()
{before}
for epoch in range(6):
    for samples, targets in zip(x.split(64), y.split(64)):
        optimizer.zero_grad()
        with torch.autocast("{kind}", dtype=torch.float16):
            loss = loss_fn(model(samples), targets)
        {step}
"""
PLAIN = {"seed": "torch.manual_seed(0)", "device": "", "to": "", "kind": "cpu"}
SCALED = (
    "scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()",
    'scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)',
)


def loop(step: str, before: str = "", **changes: str) -> str:
    return LOOP.format(step=step, before=before, **{**PLAIN, **changes})


def run(folder: Path, code: str, *options: str) -> tuple[subprocess.CompletedProcess[str], Reader]:
    script, trace = folder / "train.py", folder / "train.mpa"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mpaudit", "run", *options, "-o", str(trace), str(script)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, Reader(trace)


def rules(reader: Reader) -> list[str]:
    return [each.rule for each in reader.problems()]


@pytest.mark.slow
def test_gradients_that_float16_loses_are_told_from_float32s(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    step = (
        "(1e-6 * loss / 64).backward(); "
        "[each.grad.mul_(64e6) for each in model.parameters()]; optimizer.step()"
    )
    body = loop(step).replace("loss = loss_fn", "loss = 1e-4 * loss_fn").replace("64e6", "64e10")
    done, reader = run(tmp_path, body, "--reference", "40")
    assert done.returncode == 0, done.stderr
    (found,) = [each for each in reader.problems() if each.rule == "diverges-from-float32"]
    line = body.splitlines()[found.span.start.row - 1]
    assert "backward()" in line
    assert found.moment is not None
    assert reader.meta["reference"] == {"steps": 40, "diverges": True, "refused": None}


@pytest.mark.slow
def test_ordinary_float16_is_left_alone_though_steps_are_skipped(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done, reader = run(tmp_path, loop(*SCALED), "--reference", "40")
    assert done.returncode == 0, done.stderr
    assert any(each.applied is False for each in reader.attempts())  # the scale was too high
    assert reader.meta["reference"] == {"steps": 40, "diverges": False, "refused": None}
    assert "40 steps do not leave float32" in done.stderr


@pytest.mark.slow
def test_what_is_drawn_in_float16_on_an_emulated_gpu_is_drawn_alike(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    gpu = {"device": ', device="cuda"', "to": ".cuda()", "kind": "cuda"}
    body = loop(SCALED[0], "scaler = torch.amp.GradScaler()", **gpu).replace(
        "model(samples)", "noisy(model(samples))"
    )
    body = body.replace("loss_fn =", "noisy = lambda z: z + torch.randn_like(z)\nloss_fn =")
    done, reader = run(tmp_path, body, "--reference", "40", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert reader.meta["reference"] == {"steps": 40, "diverges": False, "refused": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "order", "why"),
    [
        ("", "x.split(64)", "other parameters"),
        ("torch.manual_seed(0)", "(b + random.random() for b in x.split(64))", "other inputs"),
    ],
)
def test_a_script_without_a_seed_is_not_accused(
    tmp_path: Path, seed: str, order: str, why: str
) -> None:
    pytest.importorskip("torch")
    body = loop(*SCALED, seed=seed).replace("zip(x.split(64)", f"zip({order}")
    done, reader = run(tmp_path, body, "--reference", "20")
    assert done.returncode == 0, done.stderr
    assert "diverges-from-float32" not in rules(reader)
    assert why in reader.meta["reference"]["refused"]
    assert "cannot compare with float32" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('no framework')", "recorded nothing"),
        ("import torch\nraise ValueError('mine')", "ended with exit code 1: ValueError: mine"),
        (
            loop("loss.backward(); optimizer.step()").replace("float16", "bfloat16, enabled=False"),
            "nothing ran in low precision",
        ),
        (loop(*SCALED).replace("range(6)", "range(1)"), "8 steps are too few"),
    ],
    ids=["no-torch", "raises", "float32", "short"],
)
def test_what_cannot_be_compared_is_said(tmp_path: Path, code: str, why: str) -> None:
    pytest.importorskip("torch")
    done, reader = run(tmp_path, code, "--reference", "20")
    assert why in reader.meta["reference"]["refused"]
    assert rules(reader) == []
    assert f"cannot compare with float32: {reader.meta['reference']['refused']}" in done.stderr


@pytest.mark.slow
def test_the_run_itself_comes_last_and_is_what_it_was(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    body = (
        loop(*SCALED) + "\n    print(loss.item())\nopen('end.txt', 'a').write(f'{loss.item()}\\n')"
    )
    done, _ = run(tmp_path, body, "--reference", "40")
    written = (tmp_path / "end.txt").read_text().splitlines()
    plain = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == plain.stdout  # the rehearsals print nothing
    assert written == written[:1]  # and were over before the script's end


def record(
    losses: list[float], *, gradient: float = 1.0, parameters: float = 1.0, seed: str = "a"
) -> Record:
    start = {"parameters": [[parameters, 2.0]], "inputs": [[1.0]], "random": seed}
    steps = [Step(0, n, True, 0, [[gradient, gradient]]) for n in range(len(losses))]
    found = [Loss(0, n, value) for n, value in enumerate(losses)]
    return Record(start, ["float16"], found, steps, [], [PLACE], "torch")


FALL = [2.0 * 0.97**n for n in range(40)]


def noisy(share: float) -> list[float]:
    return [value * (1 + share * (-1) ** n) for n, value in enumerate(FALL)]


def test_a_loss_that_stays_where_it_was_is_a_finding() -> None:
    found = compare(record([2.0] * 40), record(FALL), record(noisy(0.001)))
    (problem,) = found.problems
    assert (problem.rule, problem.span.start.row) == ("diverges-from-float32", 9)
    assert problem.moment is not None and problem.moment.step == 6  # where 2.0 is 20 % above


def test_the_yardstick_decides() -> None:
    assert compare(record(noisy(0.3)), record(FALL), record(noisy(0.01))).problems
    assert not compare(record(noisy(0.3)), record(FALL), record(noisy(0.05))).problems
    assert not compare(record(noisy(0.1)), record(FALL), record(noisy(0.0))).problems


def test_a_loss_that_comes_back_is_none() -> None:
    ours = [2.0] * 30 + FALL[30:]
    assert not compare(record(ours), record(FALL), record(noisy(0.001))).problems


def test_nan_where_float32_has_numbers_is_a_finding() -> None:
    ours = FALL[:20] + [math.nan] * 20
    (problem,) = compare(record(ours), record(FALL), record(noisy(0.001))).problems
    assert problem.moment is not None and problem.moment.step == 20


def test_a_reference_that_ends_in_nan_itself_says_nothing() -> None:
    right = FALL[:5] + [math.nan] * 35
    found = compare(record([math.nan] * 40, gradient=1.0), record(right), record(right))
    assert found.problems == ()


def test_gradients_that_are_gone_are_a_finding_though_the_loss_is_the_same() -> None:
    (problem,) = compare(record(FALL, gradient=0.0), record(FALL), record(FALL)).problems
    assert "gradient" in problem.message


@pytest.mark.parametrize(
    ("other", "why"),
    [({"parameters": 3.0}, "other parameters"), ({"seed": "b"}, "other random numbers")],
)
def test_other_starts_are_refused(other: dict[str, object], why: str) -> None:
    found = compare(record([2.0] * 40), record(FALL, **other), record(FALL))  # type: ignore[arg-type]
    assert why in (found.refused or "")
    assert found.problems == ()


def test_plan_and_record_come_back_as_they_were(tmp_path: Path) -> None:
    plan = Plan("rounded", 40, "r.json", "train.py", ["--lr", "1"], digits=8, skips={"0": [1, 2]})
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan") == plan
    before = record([1.0, math.inf])
    before.write(str(tmp_path / "record"))
    assert json.loads((tmp_path / "record").read_text())["places"] == [PLACE]
    assert Record.read(tmp_path / "record") == before


@pytest.mark.parametrize(("digits", "name"), [(11, "float16"), (8, "bfloat16")])
def test_rounding_is_that_of_the_dtype_within_its_range(digits: int, name: str) -> None:
    torch = pytest.importorskip("torch")
    from mpaudit.runtime.torch.float32 import rounded

    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).reshape(40, 25).t()
    assert torch.equal(rounded(values, digits), values.to(getattr(torch, name)).float())
    beyond = torch.tensor([1e30, -1e-30, math.inf, -math.inf, 0.0])
    assert (rounded(beyond, digits) - beyond).abs().nan_to_num().max() <= 1e30 * 2.0**-digits
    assert math.isnan(rounded(torch.tensor([math.nan]), digits).item())


def test_float32_takes_the_place_of_low_precision_whoever_asks() -> None:
    torch = pytest.importorskip("torch")
    from mpaudit.runtime.torch.float32 import Float32

    layer = torch.nn.Linear(4, 4)
    with Float32():
        made = [
            torch.ones(4).half(),
            torch.ones(4, dtype=torch.bfloat16),
            torch.nn.Linear(4, 4).half()(torch.ones(1, 4).half()),
            torch.tensor([1.0], dtype=torch.float16) + 1,
        ]
        with torch.autocast("cpu", dtype=torch.float16):
            made.append(layer(torch.ones(1, 4)))
    assert {each.dtype for each in made} == {torch.float32}
    assert torch.equal(made[-1], layer(torch.ones(1, 4)))
