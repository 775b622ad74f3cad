"""docs/trace.md says what is in a trace: its tables and columns are those of the file, its queries run."""

from __future__ import annotations

import math
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mpaudit.runtime.trace import APPLICATION, FORMAT, Writer

PAGE = (Path(__file__).parents[1] / "docs" / "trace.md").read_text(encoding="utf-8")
SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4), nn.LayerNorm(4)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
scaler = torch.amp.GradScaler("cuda")
for step in range(8):
    inputs = torch.randn(32, 16, device="cuda") * (1.0 if step % 3 else 1e6)
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(inputs), torch.zeros(32, dtype=torch.long).cuda())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    folder = tmp_path_factory.mktemp("trace")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mpaudit",
        "run",
        "--device",
        "cpu",
        "-o",
        "train.mpa",
        "train.py",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert (folder / "train.mpa").exists(), done.stderr
    connection = sqlite3.connect(folder / "train.mpa")
    connection.create_function(
        "log2", 1, math.log2
    )  # TensorFlow's SQLite, if loaded first, has none
    return connection


def documented() -> dict[str, set[str]]:
    """Table -> the columns that its section names."""
    found: dict[str, set[str]] = {}
    for section in re.split(r"^### ", PAGE.partition("## Questions")[0], flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
        columns = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
        for table in title.split(" and "):
            found[table] = columns
    return found


def test_every_table_and_column_is_described(tmp_path: Path) -> None:
    Writer(tmp_path / "run.mpa").close()
    database = sqlite3.connect(tmp_path / "run.mpa")
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
    real = {
        table: {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for table in tables
        if not table.startswith("sqlite_")
    }
    described = documented()
    assert set(described) == set(real)
    for table, columns in real.items():
        if table not in ("meta", "findings", "optimizers"):  # described in a sentence
            assert described[table] == columns, table
    assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
    assert f"`PRAGMA application_id` is {APPLICATION}" in PAGE
    assert f"is the version of this format, {FORMAT}." in PAGE


def test_the_facts_of_a_run_are_described(trace: sqlite3.Connection) -> None:
    assert {key for (key,) in trace.execute("SELECT key FROM meta")} <= documented()["meta"]


def test_the_queries_answer(trace: sqlite3.Connection) -> None:
    queries = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    answers = [trace.execute(query).fetchall() for query in queries]
    assert len(answers) == 7
    assert all(answers)
    closest, lost, scale, skipped, _, _, wide = answers
    assert closest[0][2] == min(row[2] for row in closest)
    assert all(0 <= percent <= 100 for _, _, percent in lost)
    steps = sum(last - first + 1 for _, first, last, _, _ in scale)
    assert steps == 8
    assert skipped[0][1] == sum(
        (last - first + 1) / steps for _, first, last, _, applied in scale if not applied
    )
    assert ("3", "LayerNorm") in wide
