"""What names mean, under every way to give something a name."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest

from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names


def meaning(text: str, package: str = "") -> str | None:
    """What the last expression statement of `text`, wherever it stands, means."""
    module = Module.parse(dedent(text), "train.py", package=package)
    shown = [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Expr)]
    last = max(shown, key=lambda node: (node.lineno, node.col_offset))
    return Names.of(module).resolve(last)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\ntorch.cuda.amp.autocast", "torch.cuda.amp.autocast"),
        ("import torch as th\nth.cuda.amp", "torch.cuda.amp"),
        ("import torch.cuda.amp\ntorch.cuda.amp.GradScaler", "torch.cuda.amp.GradScaler"),
        ("import torch.cuda.amp as amp\namp.autocast", "torch.cuda.amp.autocast"),
        ("from torch.cuda import amp\namp.autocast", "torch.cuda.amp.autocast"),
        ("from torch.cuda.amp import autocast as ac\nac", "torch.cuda.amp.autocast"),
        ("import torch\namp = torch.cuda.amp\namp.autocast", "torch.cuda.amp.autocast"),
        ("import torch\na = b = torch.amp\nb.autocast", "torch.amp.autocast"),
        ("import torch\na, b = torch.amp, torch.nn\nb.Linear", "torch.nn.Linear"),
        ("import torch\n(a := torch.amp)\na.x", "torch.amp.x"),
        ("import torch\na: object = torch.amp\na.x", "torch.amp.x"),
        ("isinstance", "builtins.isinstance"),
        ("unheard_of", None),
        ("import torch\ntorch.tensor(1).sum", None),
        ("import torch\nlayers[0].weight", None),
    ],
)
def test_imports_and_aliases(text: str, expected: str | None) -> None:
    assert meaning(text) == expected


def test_an_import_inside_a_function_is_seen_only_there() -> None:
    inside = "def f():\n    from torch.cuda.amp import autocast\n    autocast"
    assert meaning(inside) == "torch.cuda.amp.autocast"
    assert meaning(inside + "\nautocast") is None


def test_an_inner_function_sees_the_outer_one() -> None:
    text = "def f():\n    import torch as t\n    def g():\n        lambda x: x\n        t.amp"
    assert meaning(text) == "torch.amp"


@pytest.mark.parametrize(
    "shadow",
    [
        "def f(autocast):\n    autocast",
        "def f(*autocast):\n    autocast",
        "def f(*, autocast=None):\n    autocast",
        "def f():\n    autocast = make()\n    autocast",
        "def f():\n    for autocast in x:\n        autocast",
        "def f():\n    with x as autocast:\n        autocast",
        "def f():\n    try:\n        pass\n    except E as autocast:\n        autocast",
        "def f():\n    def autocast(): ...\n    autocast",
        "def f():\n    class autocast: ...\n    autocast",
        "def f():\n    autocast += 1\n    autocast",
        "def f():\n    match x:\n        case [autocast, *_]:\n            autocast",
        "def f():\n    match x:\n        case {**autocast}:\n            autocast",
        "def f():\n    if (autocast := g()):\n        autocast",
        "class A:\n    autocast = make()\n    autocast",
        "autocast = make()\nautocast",
        "def f():\n    global autocast\n    autocast = make()\nautocast",
    ],
)
def test_shadowed_names_mean_nothing(shadow: str) -> None:
    assert meaning(f"from torch.cuda.amp import autocast\n{shadow}") is None


def test_what_shadows_elsewhere_does_no_harm() -> None:
    text = """
        from torch.cuda.amp import autocast
        def f(autocast): ...
        class A:
            autocast = None
            def g(self):
                autocast
    """
    assert meaning(text) == "torch.cuda.amp.autocast"
    comprehension = "import torch\n[torch for torch in x]\ntorch.amp"
    assert meaning(comprehension) == "torch.amp"


def test_a_comprehension_evaluates_its_first_iterable_outside() -> None:
    module = Module.parse("import torch\n[torch.amp for torch in torch.nn]", "train.py")
    found = {
        module.source(node): Names.of(module).resolve(node)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
    }
    assert found == {"torch.amp": None, "torch.nn": "torch.nn"}


def test_walrus_in_a_comprehension_binds_around_it() -> None:
    assert meaning("import torch\n[0 for _ in x if (a := torch.amp)]\na.autocast") == (
        "torch.amp.autocast"
    )


def test_class_names_are_seen_in_the_body_and_not_in_methods() -> None:
    body = "import torch\nclass A:\n    amp = torch.cuda.amp\n    amp.autocast"
    assert meaning(body) == "torch.cuda.amp.autocast"
    method = "import torch\nclass A:\n    amp = torch.cuda.amp\n    def f(self):\n        amp"
    assert meaning(method) is None


def test_decorators_defaults_and_annotations_belong_outside() -> None:
    text = "import torch\n@torch.amp.x\ndef f(torch=torch.a, y: torch.b = 0) -> torch.c: ..."
    module = Module.parse(text, "train.py")
    found = {
        Names.of(module).resolve(node)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
    }
    assert found == {"torch.amp.x", "torch.amp", "torch.a", "torch.b", "torch.c"}


def test_two_meanings_are_none_and_the_same_twice_is_one() -> None:
    both = (
        "if x:\n    from torch.cuda.amp import autocast\nelse:\n    from torch.{} import autocast\n"
    )
    assert meaning(both.format("amp") + "autocast") is None
    assert meaning(both.format("cuda.amp") + "autocast") == "torch.cuda.amp.autocast"


def test_none_until_something_is_imported_is_no_meaning() -> None:
    text = "try:\n    import torch\nexcept ImportError:\n    torch = None\ntorch.amp"
    assert meaning(text) == "torch.amp"


def test_circles_end() -> None:
    assert meaning("a = b\nb = a\na") is None
    assert meaning("import torch\ntorch = torch\ntorch.amp") == "torch.amp"


def test_global_and_nonlocal() -> None:
    text = "def f():\n    global amp\n    from torch.cuda import amp\ndef g():\n    amp.autocast"
    assert meaning(text) == "torch.cuda.amp.autocast"
    text = """
        def f():
            amp = None
            def g():
                nonlocal amp
                import torch.cuda.amp as amp
            amp.autocast
    """
    assert meaning(text) == "torch.cuda.amp.autocast"


def test_relative_imports_count_from_the_package() -> None:
    text = "from ..cuda.amp import autocast\nautocast"
    assert meaning(text, package="torch.nn") == "torch.cuda.amp.autocast"
    assert meaning(text) == "..cuda.amp.autocast"
    assert meaning("from . import amp\namp", package="mine.train") == "mine.train.amp"


def test_a_star_import_leaves_builtins_uncertain() -> None:
    assert meaning("from x import *\nisinstance") is None


def test_readers_and_spelling() -> None:
    text = "import torch as th\nfrom torch.cuda import amp\ndef f(th):\n    amp.x\namp.y\n"
    module = Module.parse(text, "train.py")
    names = Names.of(module)
    (binding,) = names.scope.names["amp"]
    readers = sorted(names.readers(binding), key=lambda node: node.lineno)
    assert [node.lineno for node in readers] == [4, 5]
    assert names.spelling("torch", readers[0]) is None
    assert names.spelling("torch", readers[1]) == "th"


def test_deep_expressions_need_no_recursion() -> None:
    text = "x = " + " + ".join(["1"] * 2000) + "\nimport torch\ntorch.amp"
    assert meaning(text) == "torch.amp"
