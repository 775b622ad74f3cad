"""Whole scripts under the torch probe: the article, the rules' pages, every fixture."""

from __future__ import annotations

import py_compile
import re
import sys
from contextlib import suppress
from importlib.machinery import SourcelessFileLoader
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from watched import ROOT, launch, trace  # noqa: E402

from mpaudit.rule import catalogue  # noqa: E402
from mpaudit.runtime.record import Attempts  # noqa: E402
from mpaudit.runtime.trace import Reader  # noqa: E402

ARTICLE = ROOT / "fixtures" / "article"
ELSEWHERE = {"diverges-from-float32"}  # it compares several runs: tests/test_reference.py


def pages() -> list[Any]:
    """The rules of torch whose mistake a run sees, each with its page's example."""
    return [
        pytest.param(rule, title, id=f"{rule.name}-{title}")
        for rule in catalogue().values()
        if "torch" in rule.frameworks and "run" in rule.seen_by and rule.name not in ELSEWHERE
        for title in ("Bad", "Good")
        if rule.example(title)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("rule", "title"), pages())
def test_the_run_sees_what_the_page_marks(tmp_path: Path, rule: Any, title: str) -> None:
    text = rule.example(title, marked=True)
    script = tmp_path / "example.py"
    script.write_text(text)
    marked = [row for row, line in enumerate(text.splitlines(), 1) if "# error" in line]

    def loop() -> None:
        with suppress(RuntimeError, AssertionError):  # what torch says to some of them
            exec(compile(text, str(script), "exec"), {"__name__": "__main__"})

    _, run = trace(tmp_path, loop)
    found = [(each.rule, each.span.start.row) for each in run.problems()]
    assert found == [(rule.name, row) for row in marked]


def orders() -> list[Any]:
    """The rules that source and run judge by the same protocols."""
    return [
        pytest.param(each.values[0], id=each.values[0].name)
        for each in pages()
        if each.values[1] == "Bad" and "source" in each.values[0].seen_by
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rule", orders())
def test_a_mistake_is_seen_where_no_source_can_be_read(tmp_path: Path, rule: Any) -> None:
    text = rule.example("Bad", marked=True)
    script = tmp_path / "loop.py"
    script.write_text(text)
    compiled = py_compile.compile(str(script), str(tmp_path / "loop.pyc"), doraise=True)
    script.unlink()
    assert list(tmp_path.iterdir()) == [Path(compiled)]

    def loop() -> None:
        with suppress(RuntimeError, AssertionError):
            SourcelessFileLoader("loop", compiled).load_module()

    _, run = trace(tmp_path, loop)
    sys.modules.pop("loop", None)
    marked = [row for row, line in enumerate(text.splitlines(), 1) if "# error" in line]
    found = [(each.rule, each.span.filename, each.span.start.row) for each in run.problems()]
    assert found == [(rule.name, str(script), row) for row in marked]


def test_the_article_dies_at_its_second_iteration_and_the_rule_is_named(tmp_path: Path) -> None:
    script = ARTICLE / "run_pytorch.py"
    done = launch(script, tmp_path)
    assert done.returncode == 1
    _, _, tail = done.stderr.partition("Traceback (most recent call last):\n")
    assert re.search(r'File "[^"]*run_pytorch\.py", line \d+, in <module>\n    policy\.step', tail)
    assert "mpaudit/runtime" not in tail
    message = "RuntimeError: step() has already been called since the last update().\n"
    assert message in tail
    assert tail.index("mpaudit: MP104 missing-scaler-update explains this") > tail.index(message)
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        assert run.attempts() == [Attempts(0, 0, 0, True, 65536.0)]
        found = {each.rule: each for each in run.problems()}
        assert run.meta["exception"] == message.strip()
    line = script.read_text().splitlines()[found["missing-scaler-update"].span.start.row - 1]
    assert line.strip() == "policy.step(optimizer)"


def test_the_corrected_article_trains_to_its_end(tmp_path: Path) -> None:
    text = (ARTICLE / "run_pytorch.py").read_text()
    corrected = tmp_path / "corrected.py"
    corrected.write_text(
        text.replace("policy.step(optimizer)", "policy.step(optimizer)\n        policy.update()")
    )
    done = launch(corrected, tmp_path)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.removeprefix("final loss "))
    assert 0 < loss < 0.1  # ln 10 = 2.3 before training
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        flows = run.dtypes()
        assert run.attempts() == [Attempts(0, 0, 159, True, 65536.0)]
        assert {each.type for each in run.optimizers()} == {"Adam"}
        assert "missing-scaler-update" not in {each.rule for each in run.problems()}
        assert "no-mixed-precision" not in {each.rule for each in run.problems()}
    for layer in ("0", "2"):
        assert flows[layer]["output"] == ["float16"]
        assert flows[layer]["parameter_grad"] == ["float32"]


@pytest.mark.parametrize("name", ["pytorch", "tensorflow"])
def test_the_articles_code_is_unchanged_in_the_runnable_scripts(name: str) -> None:
    article = (ARTICLE / f"article_{name}.py").read_bytes()
    before, _, after = (ARTICLE / f"run_{name}.py").read_bytes().partition(article)
    assert before.count(b"\n") < 10
    assert after.strip().count(b"\n") == 0
    assert b"final loss" in after


BOTH = """
import torch
{imports}
import keras
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.ones(2, 4)).square().mean().backward()
optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("last", ["keras", "torch"])
def test_a_run_is_of_the_framework_that_it_uses(tmp_path: Path, last: str) -> None:
    pytest.importorskip("tensorflow")
    first = "import tensorflow\nimport keras\n" if last == "torch" else ""
    (tmp_path / "train.py").write_text(first + BOTH.format(imports="import tensorflow"))
    done = launch(tmp_path / "train.py", tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.mpa")
    with Reader(path) as run:
        assert {"torch", "tensorflow"} <= run.meta["versions"].keys()
        assert run.meta["framework"] == "torch"
        assert run.meta["sampling"] == {"every": 10, "outputs_every": 1}
        assert [each.type for each in run.layers()] == ["Linear"]
