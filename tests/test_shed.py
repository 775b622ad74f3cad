"""What is dropped of functions comes back as it was, and of trees that are dropped hardly anything stays."""

from __future__ import annotations

import ast
import gc
import weakref
from pathlib import Path

import pytest
from test_cache import FIXTURES
from test_cli import BAD

from mpaudit import execution
from mpaudit.execution import Execution, looked, settle
from mpaudit.source.engine import importing
from mpaudit.source.text import shed
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names
from mpaudit.source.text.parsing import UnparsableError
from mpaudit.source.text.project import Project
from mpaudit.source.text.walk import walk

TEXT = '''"""A text with what is hard to cut out."""
import torch

if torch.cuda.is_available():
    def fast(x):
        """Says é, in two bytes."""
        é = """
not indented"""
        return é, x

@torch.no_grad()
def decorated(
    x: int = 1,
) -> int:
    def inner():
        return x
    return (
inner())

class Outer:
\tclass Inner:
\t\tasync def wait(self):
\t\t\tawait self
\t\t\tasync with self as x:
\t\t\t\tyield x
\t\t\t\tyield self
\tdef short(self): return self
\tdef last(self):
\t\tx = 1; y = \\
\t\t\t2

\t\treturn "é", x, y'''


def dump(tree: ast.AST) -> str:
    return ast.dump(tree, include_attributes=True)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_body_comes_back_as_it_was(newline: str) -> None:
    text = TEXT.replace("\n", newline)
    whole = dump(ast.parse(text))
    module = Module.parse(text, "a.py")
    functions = list(shed.outer(module.tree))
    assert {each.name for each in functions} == {"fast", "decorated", "wait", "short", "last"}
    module.shed({})
    bare = [each.name for each in functions if shed.is_bare(each)]
    assert sorted(bare) == ["decorated", "fast", "last", "wait"]
    assert not any(
        {"args", "body", "returns"} & vars(f).keys() for f in functions if f.name in bare
    )
    assert sum(1 for _ in walk(functions[0])) > len(shed.outside(functions[0])) + 1
    assert not shed.is_bare(functions[0])
    module.shed({})
    assert shed.is_bare(functions[0])
    assert dump(module.tree) == whole
    assert not any(map(shed.is_bare, functions))
    module.shed({})
    assert all(type(each).__name__.endswith("FunctionDef") for each in functions)
    assert dump(module.tree) == whole


def test_what_was_executed_stays(tmp_path: Path) -> None:
    module = Module.parse(TEXT, "a.py")
    functions = {each.name: each for each in shed.outer(module.tree)}
    body = functions["fast"].body
    module.shed({body[0]: 1})
    assert functions["fast"].body is body
    assert shed.is_bare(functions["decorated"])


def test_the_parent_of_every_node_is_known_once_its_body_is_back() -> None:
    module = Module.parse(TEXT, "a.py")
    expected = {dump(node): dump(above) for node, above in module.parents.items()}
    functions = list(shed.outer(module.tree))
    module.shed({})
    assert len(module.parents) < len(expected)
    for function in functions:
        for node in walk(function):
            assert node is function or node in module.parents
    assert {dump(node): dump(above) for node, above in module.parents.items()} == expected


def test_a_function_of_another_file_that_is_called_has_a_body_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(importing, "WHOLE", 0)
    monkeypatch.chdir(tmp_path)
    idle = "\n".join(
        f"def idle_{n}(x):\n    x += 1\n    x += 2\n    x += 3\n    return x\n" for n in range(9)
    )
    step = "def finish(scaler, optimizer):\n    if scaler:\n        print(1)\n    scaler.step(optimizer)\n"
    Path("steps.py").write_text(f"import torch.amp\n{idle}\n{step}\n    print(2)\n")
    user = BAD.replace("    scaler.step(optimizer)", "    finish(scaler, optimizer)")
    Path("main.py").write_text("from steps import finish\n" + user)
    project = Project()
    main, steps = project.module(Path("main.py")), project.module(Path("steps.py"))
    assert main is not None
    assert steps is not None
    running = Execution(project)
    running.follow(main)
    running.leave(main)
    found = settle(running.outcomes[main.filename].verdicts)
    assert [(each.rule, each.span.filename) for each in found] == [
        ("missing-scaler-update", steps.filename)
    ]
    bare = {each.name for each in steps._bare if shed.is_bare(each)}
    assert bare == {f"idle_{n}" for n in range(9)}


def test_all_fixtures_come_back_as_they_were() -> None:
    count = 0
    for path in sorted(FIXTURES.rglob("*.py")):
        try:
            module = Module.read(path).parsed()
        except UnparsableError:
            continue
        whole = dump(module.tree)
        module.shed({})
        count += len(module._bare)
        assert dump(module.tree) == whole, path
    assert count > 500


def test_of_a_tree_that_is_dropped_only_what_was_told_stays_though_no_garbage_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execution, "FALLEN", 0)
    body = "\n".join(f"    {line}" for line in BAD.splitlines())
    text = f"import torch\n\n\nclass Trainer:\n  def fit(self):\n{body}\n\n  def never(self):\n    pass\n"
    Path("main.py").write_text(text)
    project = Project()
    module = project.module(Path("main.py"))
    assert module is not None
    running = Execution(project)
    gc.collect()
    gc.disable()
    try:
        running.follow(module)
        assert list(looked(module, advice=True))
        names = Names.of(module)  # which somebody may ask for once more
        assert names.all()
        nodes = [weakref.ref(node) for node in walk(module.tree)]
        Names.forget(module)
        del names
        running.leave(module)
        left = [type(each()).__name__ for each in nodes if each() is not None]
    finally:
        gc.enable()
    assert len(nodes) > 50
    assert "ClassDef" not in left
    assert "Pass" not in left  # of the method of which nothing was told
