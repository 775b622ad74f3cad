"""The trace file and the tracer that fills it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpaudit.errors import MpauditError
from mpaudit.event import ScalerMade, ScalerStep
from mpaudit.finding import Moment, Position, Problem, Related, Span
from mpaudit.protocols import machines
from mpaudit.runtime.histogram import Histogram
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
from mpaudit.runtime.trace import FORMAT, Reader, Writer
from mpaudit.runtime.tracer import Tracer

SPAN = Span("train.py", Position(3, 5), Position(3, 20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.mpa"


def test_every_kind_of_row_comes_back_as_it_was_written(path: Path) -> None:
    problem = Problem(
        "missing-scaler-update",
        SPAN,
        "no update",
        "raises",
        (Related(SPAN, "stepped here"),),
        (("scaler", "policy"),),
        Moment(4, "0", "Linear", 1),
    )
    rows = [
        Layer("0", "Linear", 0, 3, 1, "train.py", 7),
        Statistics("0", "forward", "float16", 3, 60, 2, 1, 1, 2, 4.5),
        Histogram("0", "gradient", "float16", 256.0, 2, 20, 3, 1, 0, -14, (4, 0, 12)),
        Peaks("0", 6, 2, (1.5, 3.0, 2.0)),
        Cast("0", "parameter", "float32", "float16", 3, 600),
        Optimizer(0, "SGD"),
        Attempts(0, 0, 8, True, 65536.0),
        Attempts(0, 9, 9, False, 65536.0),
        Attempts(0, 10, 10, None, None),
        Incident(
            "activation-overflow", "activation-nan", "0", 1, 2, 0, ("inf", "nan"), "defect", "m"
        ),
    ]
    writer = Writer(path)
    writer.rows(rows)
    writer.meta("argv", ["--lr", "1"])
    writer.problems([problem])
    writer.close()
    with Reader(path) as trace:
        read = [
            *trace.layers(),
            *trace.statistics(),
            *trace.histograms()["0"],
            *trace.peaks().values(),
            *trace.casts(),
            *trace.optimizers(),
            *trace.attempts(),
            *trace.incidents(),
        ]
        assert read == rows
        assert trace.meta == {"argv": ["--lr", "1"]}
        assert trace.problems() == [problem]
    assert sorted(path.parent.iterdir()) == [path]  # one plain file, no -wal


def test_numbers_of_the_same_layer_are_joined(path: Path) -> None:
    tracer = Tracer(path)
    tracer.layer("0", "Linear")
    tracer.measured(Statistics("0", "forward", "float16", 1, 10, 0, 0, None, None, 3.0))
    tracer.measured(Statistics("0", "forward", "float16", 1, 10, 4, 1, 7, 7, 2.0))
    tracer.measured(Statistics("0", "forward", "float16", 1, 10, 1, 0, 9, 9, None))
    tracer.measured(Statistics("0", "forward", "float32", 1, 5, 0, 0, None, None, 8.0))
    tracer.close(0)
    with Reader(path) as trace:
        half, single = trace.statistics()
    assert half == Statistics("0", "forward", "float16", 3, 30, 5, 1, 7, 9, 3.0)
    assert single.amax == 8.0


def test_what_adds_up_in_the_file_is_what_its_rows_are_joined(path: Path) -> None:
    numbers = random.Random(0)

    def some(top: int) -> int | None:
        return numbers.choice([None, numbers.randrange(top)])

    rows: list[Any] = []
    for _ in range(200):
        name = numbers.choice("ab")
        sums = [numbers.randrange(9) for _ in range(4)]
        vague = [some(99) for _ in range(9)]
        amax = numbers.choice([None, numbers.random()])
        rows.append(Statistics(name, "forward", "float16", *sums, *vague[:2], amax, *vague[2:8]))
        rows.append(Flowed(name, "output", "float16", sums[0]))
        rows.append(Cast(name, "parameter", "float32", "float16", *sums[:2]))
        counts = tuple(sums[: numbers.randrange(5)])
        rows.append(Histogram(name, "weight", "float16", 1.0, *sums, 0, -sums[0], counts))
    expected: dict[Any, Any] = {}
    tracer = Tracer(path)
    for number, row in enumerate(rows):
        known = expected.get((type(row), row.layer))
        expected[type(row), row.layer] = row if known is None else known.joined(row)
        kind = {Statistics: tracer.measured, Cast: tracer.cast, Histogram: tracer.histogram}
        if isinstance(row, Flowed):
            tracer.saw(row.layer, row.flow, row.dtype, row.count)
        else:
            kind[type(row)](row)
        if number % 7 == 0:
            tracer.flush()
    tracer.close(0)
    with Reader(path) as trace:
        found = dict(trace.rows())
    for row in expected.values():
        assert row in found.values()
    assert len(found) == len(expected)


def test_what_could_not_be_written_is_added_once(path: Path) -> None:
    tracer = Tracer(path)
    tracer.layer("0", "Linear")
    tracer.saw("0", "output", "float16", 3)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tracer._writer._database.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        tracer.flush()
    other.execute("ROLLBACK")
    other.close()
    tracer.saw("0", "output", "float16", 4)
    tracer.measured(Statistics("0", "forward", "float16", 7, 70))
    tracer._writer._database.execute(
        "CREATE TRIGGER t INSERT ON findings BEGIN SELECT RAISE(FAIL, 'x'); END"
    )
    tracer.problem(Problem("low-headroom", SPAN, "m", "c"))
    with pytest.raises(sqlite3.IntegrityError):  # when all else was written
        tracer.flush()
    tracer._writer._database.execute("DROP TRIGGER t")
    tracer.close(0)
    with Reader(path) as trace:
        assert (trace.layers()[0].path, trace.statistics()[0].calls) == ("0", 7)
        assert trace._query("SELECT count FROM dtypes") == [(7,)]


def test_attempts_are_run_length_coded_and_counted_for_each_optimizer(path: Path) -> None:
    tracer = Tracer(path)
    first, second = tracer.optimizer("SGD"), tracer.optimizer("Adam")
    for number in range(10_000):
        scale = 65536.0 if number < 6000 else 32768.0
        step = tracer.attempted(first)
        assert step == number
        tracer.settled(first, step, number != 5999, scale)
    tracer.settled(second, tracer.attempted(second), True)
    assert (tracer.step(first), tracer.step(second), tracer.step()) == (10_000, 1, 10_000)
    tracer.close(0)
    with Reader(path) as trace:
        assert trace.attempts() == [
            Attempts(0, 0, 5998, True, 65536.0),
            Attempts(0, 5999, 5999, False, 65536.0),
            Attempts(0, 6000, 9999, True, 32768.0),
            Attempts(1, 0, 0, True, None),
        ]
    assert path.stat().st_size < 200_000


def test_calls_per_step_is_the_commonest_number_of_training_calls(path: Path) -> None:
    tracer = Tracer(path)
    tracer.layer("shared", "Linear")
    numbers = []
    for step in range(4):
        for _ in range(2):
            numbers.append(tracer.called("shared", step))
        if step == 2:  # an evaluation in between
            tracer.called("shared", step, training=False)
    tracer.close(0)
    assert numbers == [0, 1] * 4
    with Reader(path) as trace:
        (layer,) = trace.layers()
    assert (layer.calls, layer.calls_per_step) == (9, 2)


def test_the_protocols_are_driven_and_settled(path: Path) -> None:
    tracer = Tracer(path, machines())
    from mpaudit.event import Ref

    scaler, optimizer = Ref(1, "policy"), Ref(2, "optimizer")
    tracer.feed(ScalerMade(at=SPAN, scaler=scaler), Moment(0))
    for step in range(2):
        tracer.feed(ScalerStep(at=SPAN, scaler=scaler, optimizer=optimizer), Moment(step))
    tracer.close(1, "RuntimeError: step() has already been called since the last update().")
    with Reader(path) as trace:
        assert "missing-scaler-update" in {each.rule for each in trace.problems()}
        assert trace.meta["complete"] is False


def test_a_protocol_is_fed_what_it_takes_and_nothing_else(path: Path) -> None:
    from mpaudit.event import Ref, ScalerUpdate

    tracer = Tracer(path, machines())
    ref = Ref(1, "scaler")
    for event in (ScalerMade(at=SPAN, scaler=ref), ScalerUpdate(at=SPAN, scaler=ref)):
        tracer.feed(event, Moment(0))  # some machines raise at an event that they do not take
    tracer.close(0)
    with Reader(path) as trace:
        assert trace.problems() == []


@pytest.mark.parametrize(("dtype", "found"), [("float32", True), ("bfloat16", False)])
def test_amp_without_low_precision_is_a_finding(path: Path, dtype: str, found: bool) -> None:
    tracer = Tracer(path)
    tracer.asked_for_amp(SPAN, "autocast")
    tracer.layer("0", "Linear")
    tracer.saw("0", "parameter", "float32")
    tracer.saw("0", "output", dtype)
    tracer.close(0)
    with Reader(path) as trace:
        rules = [each.rule for each in trace.problems()]
    assert rules == (["no-mixed-precision"] if found else [])


def test_a_probes_fault_is_kept_once(path: Path) -> None:
    tracer = Tracer(path)
    for _ in range(3):
        tracer.failed("forward hook", ValueError("odd tensor"))
    tracer.close(0)
    with Reader(path) as trace:
        assert trace.meta["probe_errors"] == ["forward hook: ValueError: odd tensor"]


def test_a_trace_can_be_read_while_it_is_written(path: Path) -> None:
    tracer = Tracer(path)
    tracer.layer("0", "Linear")
    tracer.flush()
    with Reader(path) as trace:
        assert [each.path for each in trace.layers()] == ["0"]
        assert trace.meta["complete"] is False
    tracer.close(0)


def test_what_was_flushed_survives_kill_9(path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from mpaudit.runtime.tracer import Tracer\n"
        "tracer = Tracer(Path(sys.argv[1])); tracer.layer('flushed', 'Linear'); tracer.flush()\n"
        "tracer.layer('lost', 'Linear'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Reader(path) as trace:
        assert [each.path for each in trace.layers()] == ["flushed"]
        assert trace.meta["complete"] is False


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_writes_nothing(path: Path) -> None:
    tracer = Tracer(path)
    child = os.fork()
    if child == 0:
        tracer.note("who", "child")
        tracer.close(3)
        os._exit(0)
    os.waitpid(child, 0)
    tracer.note("who", "parent")
    tracer.close(0)
    with Reader(path) as trace:
        assert (trace.meta["who"], trace.meta["exit_code"]) == ("parent", 0)


def test_what_is_no_trace_is_said_in_one_line(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.mpa", tmp_path / "other.mpa"
    newer, cut = tmp_path / "newer.mpa", tmp_path / "cut.mpa"
    text.write_text("hello")
    sqlite3.connect(other).executescript("CREATE TABLE t (x); PRAGMA user_version = 1")
    Writer(newer).close()
    sqlite3.connect(newer).executescript(f"PRAGMA user_version = {FORMAT + 1}")
    Writer(cut).close()
    cut.write_bytes(cut.read_bytes()[:5000])
    expected = {
        tmp_path / "absent.mpa": "there is no such file",
        tmp_path: "is a directory",
        text: "not a trace",
        other: "not a trace",
        newer: f"trace format {FORMAT + 1} is newer",
    }
    for path, reason in expected.items():
        with pytest.raises(MpauditError, match=reason) as caught:
            Reader(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(MpauditError, match="damaged"), Reader(cut) as trace:
        trace.layers()


def test_a_trace_of_format_1_is_read(path: Path) -> None:
    writer = Writer(path)
    writer.rows([Layer("0", "Linear", 0), Attempts(0, 0, 8, True, 65536.0)])
    writer.close()
    sqlite3.connect(path).executescript(
        "DROP TABLE histograms; DROP TABLE peaks; PRAGMA user_version = 1"
    )
    with Reader(path) as trace:
        assert [each.path for each in trace.layers()] == ["0"]
        assert len(trace.attempts()) == 1
        assert (trace.histograms(), trace.peaks()) == ({}, {})


def test_only_an_older_trace_is_overwritten(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(MpauditError, match="exists and is not a trace"):
        Tracer(path)
    assert path.read_text() == "precious"
    path.unlink()
    for name in ("old", "new"):
        tracer = Tracer(path)
        tracer.note(name, True)
        tracer.close(0)
    with Reader(path) as trace:
        assert "old" not in trace.meta
        assert trace.meta["new"] is True


def test_a_trace_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MpauditError, match="cannot be written"):
        Tracer(tmp_path / "absent" / "run.mpa")
