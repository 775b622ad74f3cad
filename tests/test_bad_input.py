# ruff: noqa: E501 - sources on one line each read better here
"""Hostile and broken sources: bounded time, an honest message, no guess, never a traceback."""

from __future__ import annotations

import ast
import sys
import time

import pytest

from mpaudit.audit import check, check_text

HEAD = """import torch
from torch import nn
scaler = torch.amp.GradScaler("cuda")
model = nn.Linear(2, 2).cuda()
opt = torch.optim.SGD(model.parameters(), lr=0.1)
"""
MISTAKE = """def train(loader):
    for x in loader:
        with torch.autocast("cuda"):
            loss = model(x).sum()
        scaler.scale(loss).backward()
        scaler.step(opt)
"""


def nest(count: int, line: str, last: str) -> str:
    """`count` lines, each a level deeper, and a last one inside."""
    rows = ["    " * i + line.format(i=i) for i in range(count)]
    return "\n".join([*rows, "    " * count + last]) + "\n"


READABLE = {
    "brackets": "x = " + "[" * 90 + "1" + "]" * 90 + "\n",
    "calls in calls": "x = " + "f(" * 80 + "1" + ")" * 80 + "\n",
    "branches in branches": nest(90, "if a{i}:", "pass"),
    "functions in functions": nest(60, "def f{i}(scaler):", "scaler.step(opt)"),
    "loops in loops": nest(18, "for a{i} in b{i}:", "pass"),
    "regions in regions": nest(18, 'with torch.autocast("cuda", enabled=a{i}):', "pass"),
    "a class that is its own base": "class A(A):\n    def f(self):\n        A().f()\nA().f()\n",
    "classes in a circle": "class B: pass\nclass A(B): pass\nclass B(A): pass\nclass A(B): pass\nA(); B()\n",
    "recursion": "def f(n):\n    return f(n - 1)\ndef g(n):\n    return h(n)\ndef h(n):\n    return g(n)\nf(3)\ng(2)\n",
    "exec": 'exec("scaler.update()")\neval("1")\n',
    "imports of nothing": "from nowhere import *\nfrom . import *\nfrom .. import x\nfrom ..... import y\nimport n.o.w\n",
    "partials of partials": "from functools import partial\nf = print\nfor i in range(3):\n    f = partial(f)\nf()\n",
    "a function of itself": "Y = lambda f: f(f)\nY(Y)\n",
    "generators of themselves": "def g(n):\n    yield n\n    for x in g(n):\n        yield x\nfor y in g(3):\n    print(y)\n",
    "contexts in themselves": "import contextlib\n@contextlib.contextmanager\ndef c():\n    with c():\n        yield\nwith c():\n    pass\n",
    "attributes of themselves": "class A:\n    def __getattr__(self, n):\n        return getattr(self, n)\n    @property\n    def p(self):\n        return self.p\nA().x.y()\nA().p.q()\n",
    "endless loops": "while True:\n    while True:\n        if model:\n            break\n    if opt:\n        break\n",
    "patterns": 'match model:\n    case {"x": [1, *rest]}:\n        pass\n    case nn.Linear(weight=c) | None:\n        pass\n',
    "a container in itself": "items = []\nitems.append(items)\nfor a in items:\n    for b in a:\n        print(b)\n",
}
UNREADABLE = {
    "Python 2": 'print "loss", loss\n',
    "half a statement": "if scaler:\n",
    "too many parentheses": "x = " + "(" * 5000 + "1" + ")" * 5000 + "\n",
}
DEEP = {  # how deep is too deep depends on the version of Python
    "a sum without end": "x = " + " + ".join(["a"] * 20_000) + "\n",
    "a chain without end": "x = a" + ".b()" * 30_000 + "\n",
}


@pytest.mark.parametrize("case", READABLE)
def test_a_mistake_behind_strange_code_is_still_found(case: str) -> None:
    found = check_text(HEAD + READABLE[case] + MISTAKE, "strange.py")
    assert [f.name for f in found] == ["missing-scaler-update"]


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_said(case: str) -> None:
    found = check_text(HEAD + UNREADABLE[case] + MISTAKE, "broken.py")
    assert [f.name for f in found] == ["unparsable-source"]
    read_by = f"Python {sys.version_info.major}.{sys.version_info.minor} read it"
    assert read_by in found[0].consequence  # it may be the syntax of a newer one


@pytest.mark.parametrize("case", DEEP)
def test_what_is_deep_is_read_as_far_as_python_can(case: str) -> None:
    text = HEAD + DEEP[case] + MISTAKE
    try:
        ast.parse(text)
    except RecursionError:
        expected = "unparsable-source"
    else:
        expected = "missing-scaler-update"
    assert [f.name for f in check_text(text, "deep.py")] == [expected]


def test_a_file_of_50_000_lines_is_checked(tmp_path) -> None:
    path = tmp_path / "long.py"
    path.write_text(HEAD + MISTAKE + "".join(f"x{i} = {i}\n" for i in range(50_000)))
    report = check([path])
    assert [f.name for f in report.findings] == ["missing-scaler-update"]
    assert any("too large" in warning and str(path) in warning for warning in report.warnings)


@pytest.mark.slow
def test_time_is_bounded_by_the_budget(tmp_path) -> None:
    """Ten times the loops in a function cost at most a few times as much, not ten to the power."""

    def cost(depth: int) -> float:
        path = tmp_path / f"deep{depth}.py"
        path.write_text(
            HEAD + nest(depth, "for a{i} in b{i}:", "scaler.scale(model(a0)).backward()")
        )
        start = time.process_time()
        check([path])
        return time.process_time() - start

    assert cost(18) < 20 * max(cost(8), 0.5)


def test_import_cycles_and_missing_modules_end(tmp_path) -> None:
    (tmp_path / "a.py").write_text("from b import *\nimport missing\n" + HEAD + MISTAKE)
    (tmp_path / "b.py").write_text("from a import *\nimport a, c\nfrom c import model\n")
    (tmp_path / "c.py").write_text("import b\nfrom b import model\nfrom a import train\n")
    found = check([tmp_path]).findings
    assert [(f.name, f.span.filename) for f in found] == [
        ("missing-scaler-update", str(tmp_path / "a.py"))
    ]
