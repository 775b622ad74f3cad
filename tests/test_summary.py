"""A trace as a report: joined with the findings of the source, as text and as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from mpaudit.finding import Finding, Moment, Position, Problem, Span
from mpaudit.render import run_json, run_text
from mpaudit.rule import Severity
from mpaudit.runtime.histogram import KINDS, Histogram
from mpaudit.runtime.record import (
    Attempts,
    Cast,
    Flowed,
    Incident,
    Layer,
    Optimizer,
    Peaks,
    Statistics,
)
from mpaudit.runtime.summary import Numbers, RunReport, join, stamp, summarise
from mpaudit.runtime.trace import Reader, Writer

REPORTS = Path(__file__).parents[1] / "fixtures" / "reports"
SCRIPT = "/project/train.py"
TEXT = "scaler.scale(loss).backward()\nscaler.step(optimizer)\n"
STEP = Span(SCRIPT, Position(2, 1), Position(2, 23))
PROBLEM = Problem(
    "missing-scaler-update",
    STEP,
    "`scaler.step(optimizer)` is not followed by `scaler.update()`",
    moment=Moment(1, op="GradScaler.step"),
)
ROWS = (
    Layer("0", "Linear", 0, calls=8, calls_per_step=1, filename=SCRIPT, row=1),
    Layer("1", "Linear", 1, calls=8, calls_per_step=1),
    Flowed("0", "input", "float32", 8),
    Flowed("0", "output", "float16", 8),
    Flowed("0", "parameter", "float32", 2),
    Flowed("0", "buffer", "float16", 1),
    Flowed("0", "parameter_grad", "float32", 2),
    Flowed("0", "output_grad", "float16", 8),
    Flowed("1", "input", "float16", 8),
    Flowed("1", "output", "float16", 4),
    Flowed("1", "output", "float32", 4),
    Statistics("0", "forward", "float16", calls=8, elements=80, amax=511.75),
    Statistics(
        "1", "forward", "float16", 4, 40, inf=3, first_bad_step=2, last_bad_step=3, amax=0.5
    ),
    Statistics(
        "1", "forward", "float32", 4, 40, nan=1, first_bad_step=1, last_bad_step=1, amax=1e6
    ),
    Statistics("1", "backward", "float16", 8, 80, flushed=20, flushed_of=80, amax=0.0),
    Histogram("1", "gradient", "float16", 2.0**14, 8, 80, 16, 0, 0, -24, (16, 16, 8, 24)),
    Histogram("1", "gradient", "float16", 2.0**4, 1, 16, 0, 0, 0, -10, (16,)),
    Histogram("1", "weight", "float32", 1.0, 8, 80, 0, 0, 0, 17, (8, 72)),
    Peaks("0", 8, 1, (63.96875, 63.96875, 100.0, 50.0, 511.75, 100.0, 127.9375, 127.9375)),
    Cast("0", "activation", "float32", "float16", 8, 800),
    Cast("0", "parameter", "float32", "float16", 16, 1600),
    Cast("0", "gradient", "float16", "float32", 16, 3200),
    Optimizer(0, "SGD"),
    Optimizer(1, "Adam"),
    Attempts(1, 0, 3, applied=True, scale=None),
    Attempts(0, 0, 1, applied=False, scale=65536.0),
    Attempts(0, 2, 2, applied=True, scale=16384.0),
    Attempts(0, 3, 3, applied=None, scale=16384.0),
    Incident(
        "activation-overflow",
        "activation-overflow",
        "1",
        2,
        3,
        0,
        ("inf",),
        "defect",
        "inf out of finite inputs",
        SCRIPT,
        1,
    ),
)
FACTS = {
    "script": SCRIPT,
    "argv": ["--epochs", "2"],
    "framework": "torch",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "device": "cpu",
    "emulated": "float16 kernels",
    "started": "2026-11-22T17:44:00",
    "ended": "2026-11-22T17:45:00",
    "exit_code": 0,
    "exception": None,
    "complete": True,
    "rank": 0,
    "world_size": 1,
    "probe_errors": [],
    "cast_steps": 4,
    "float32_operations": {"1": {"softmax": {"listed": 8}, "addcmul": {"operand": 4}}},
}


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.chdir(tmp_path)
    path = Path("mpaudit-train.py.1.mpa")
    writer = Writer(path)
    for key, value in FACTS.items():
        writer.meta(key, value)
    writer.rows(ROWS)
    writer.problems([PROBLEM])
    writer.close()
    with Reader(path) as reader:
        yield reader


def report(trace: Reader) -> RunReport:
    static = [
        replace(stamp(PROBLEM), moment=None, consequence="the second iteration raises"),
        Finding(
            "MP701",
            "deprecated-torch-amp",
            Severity.ERROR,
            "old API",
            Span(SCRIPT, Position(1, 1), Position(1, 7)),
        ),
    ]
    return summarise(trace, join(map(stamp, trace.problems()), static), {SCRIPT: TEXT})


def held(name: str, found: str) -> None:
    if os.environ.get("MPAUDIT_GOLDEN"):
        (REPORTS / name).write_text(found, encoding="utf-8")
    assert found == (REPORTS / name).read_text(encoding="utf-8")


def test_text(trace: Reader) -> None:
    held("run.txt", run_text.render(report(trace)))


def test_json(trace: Reader) -> None:
    held("run.json", run_json.render(report(trace)))


def test_the_steps(trace: Reader) -> None:
    sgd, adam = json.loads(run_json.render(report(trace)))["optimizers"]
    skips = [
        {"step": 0, "scale_before": 65536.0, "scale_after": 65536.0, "layers": []},
        {"step": 1, "scale_before": 65536.0, "scale_after": 16384.0, "layers": []},
    ]
    assert sgd == {
        "index": 0,
        "type": "SGD",
        "steps": 4,
        "applied": 1,
        "skipped_steps": [0, 1],
        "skips": skips,
    }
    assert adam == {
        "index": 1,
        "type": "Adam",
        "steps": 4,
        "applied": 4,
        "skipped_steps": [],
        "skips": [],
    }


def test_the_loss_scale_at_each_attempt(trace: Reader) -> None:
    scale = json.loads(run_json.render(report(trace)))["loss_scale"]
    assert [each["step"] for each in scale["timeline"]] == [0, 1, 2, 3]
    assert [each["scale"] for each in scale["timeline"]] == [65536.0, 65536.0, 16384.0, 16384.0]
    assert scale["final"] == 16384.0


def test_the_layers(trace: Reader) -> None:
    first, second = json.loads(run_json.render(report(trace)))["layers"]
    assert (first["path"], first["type"], first["calls_per_step"]) == ("0", "Linear", 1)
    assert (first["param_dtype"], first["param_grad_dtype"]) == ("float32", "float32")
    assert (first["input_dtypes"], first["output_dtypes"]) == (["float32"], ["float16"])
    assert first["output_grad_dtype"] == "float16"
    casts = {"forward": 6.0, "of_parameters": 4.0, "bytes": 600.0, "repeated": 0}
    assert first["casts_per_step"] == casts
    assert first["forward"]["amax"] == 511.75
    assert first["forward"]["headroom_trend_bits"] == -1.0
    assert first["forward"]["headroom_course"]["bits"][4] == pytest.approx(7.0, abs=1e-6)
    assert first["histograms"] == dict.fromkeys(KINDS)
    gradients, weights = (second["histograms"][what] for what in ("gradient", "weight"))
    assert (gradients["elements"], gradients["sampled"], gradients["zeros"]) == (96, 96, 16)
    assert gradients["first_exponent"] == -24
    assert gradients["counts"] == [16, 16, 8, 24, *[0] * 10, 16]
    assert gradients["scales"] == [16.0, 16384.0]
    assert gradients["formats"] == {  # of 80: the first 64 are subnormal in float16
        "float16": {"overflow": 0.0, "subnormal": 0.8, "flushed": 0.0},
        "bfloat16": {"overflow": 0.0, "subnormal": 0.0, "flushed": 0.0},
        "float8_e4m3fn": {"overflow": 0.0, "subnormal": 0.2, "flushed": 0.8},
        "float8_e5m2": {"overflow": 0.0, "subnormal": 0.0, "flushed": 0.8},
    }
    # without their scales they are from 2**-38 on, and at 2**-14
    assert gradients["unscaled"]["float16"] == {"overflow": 0.0, "subnormal": 0.0, "flushed": 0.8}
    assert weights["unscaled"] is None
    assert weights["formats"]["float16"] == {"overflow": 1.0, "subnormal": 0.0, "flushed": 0.0}
    assert weights["formats"]["bfloat16"]["overflow"] == 0.0
    assert first["forward"]["headroom_bits"] == pytest.approx(7.0)  # 65504 / 511.75 = 128
    assert first["source"] == {"filename": SCRIPT, "row": 1}
    assert second["output_dtypes"] == ["float16", "float32"]
    assert (second["param_dtype"], second["source"]) == (None, None)
    assert (second["forward"]["inf"], second["forward"]["nan"]) == (3, 1)
    assert (second["forward"]["first_bad_step"], second["forward"]["last_bad_step"]) == (1, 3)
    assert second["forward"]["amax"] == 1e6  # in float32, which it is not about
    assert second["forward"]["headroom_bits"] == pytest.approx(math.log2(65504 / 0.5))
    assert second["backward"]["flushed_share"] == 0.25
    assert second["backward"]["flushed_share_weight"] is None
    assert second["backward"]["headroom_bits"] is None


def test_the_events(trace: Reader) -> None:
    (event,) = json.loads(run_json.render(report(trace)))["events"]
    assert event["class"] == "defect"
    assert (event["first_step"], event["last_step"], event["nonfinite"]) == (2, 3, ["inf"])


def test_a_finding_of_both_is_confirmed(trace: Reader) -> None:
    old, step = json.loads(run_json.render(report(trace)))["findings"]
    assert (old["code"], old["confirmed"], old["moment"]) == ("MP701", False, None)
    assert (step["code"], step["confirmed"]) == ("MP104", True)
    assert step["moment"] == {"step": 1, "layer": None, "op": "GradScaler.step", "rank": 0}


def test_only_the_same_rule_in_the_same_line_confirms() -> None:
    seen = stamp(PROBLEM)

    def elsewhere(**changes: object) -> Finding:
        return replace(seen, moment=None, **changes)

    below = Span(SCRIPT, Position(3, 1), Position(3, 9))
    other = Span("/project/other.py", STEP.start, STEP.end)
    for twin in (elsewhere(code="MP103"), elsewhere(span=below), elsewhere(span=other)):
        assert {each.confirmed for each in join([seen], [twin])} == {False}
    around = elsewhere(span=Span(SCRIPT, Position(1, 1), Position(2, 1)))
    (both,) = join([seen], [around])
    assert both.confirmed
    assert both.moment == seen.moment


def test_a_run_without_anything_still_reads(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "empty.mpa")
    writer.meta("complete", False)
    writer.close()
    with Reader(tmp_path / "empty.mpa") as reader:
        found = summarise(reader)
    shown = run_text.render(found)
    assert "no layer was called" in shown
    assert "died" in shown
    data = json.loads(run_json.render(found))
    assert data["loss_scale"] == {"timeline": [], "final": None}
    assert (data["layers"], data["optimizers"], data["findings"]) == ([], [], [])


def test_what_json_cannot_say_is_null(trace: Reader) -> None:
    found = report(trace)
    endless = [Attempts(0, 0, 0, applied=True, scale=float("inf"))]
    found = replace(found, optimizers=[replace(found.optimizers[0], attempts=endless)])
    assert json.loads(run_json.render(found))["loss_scale"]["timeline"] == [
        {"step": 0, "scale": None}
    ]


@pytest.mark.parametrize(("amax", "bits"), [(65504.0, 0.0), (0.0, None), (None, None)])
def test_headroom(amax: float | None, bits: float | None) -> None:
    assert Numbers(amax=amax).headroom_bits == bits
    assert Numbers(["float16", "float32"], [amax, 1e6], amax=1e6).headroom_bits == bits


def test_the_peaks_of_two_ranks_are_the_larger_ones() -> None:
    one, two = Peaks("0", 6, 2, (1.0, 5.0, 2.0)), Peaks("0", 5, 1, (2.0, 1.0, 4.0, 3.0, 9.0))
    assert one.joined(two) == two.joined(one) == Peaks("0", 6, 2, (2.0, 5.0, 9.0))
