"""What IPython adds to Python: made harmless, in the same places."""

from __future__ import annotations

import ast

import pytest

from mpaudit.source.text.magic import names_a_language, python

FIRST = "%%time\n"


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%matplotlib inline\nx = 1", "x = 1"),
        ("!pip install 'torch\nx = 1", "x = 1"),
        ("!pip install \\\n  torch 'x\nx = 1", "x = 1"),
        ("!echo done \\", ""),
        ("if x:\n    !echo it's\n    %pwd", "if x:\n    0\n    0"),
        ("files = !ls it's", "files = __"),
        ("here = %pwd", "here = __"),
        ("a.b[0], c = !ls", "a.b[0], c = __"),
        ("x = %time f(y)", "x = f(y)"),
        ("x = %timeit -o -n 10 f(y)", "x = f(y)"),
        ("x = %timeit -o -n 10 f(", "x = __"),
        ("%time x = f(y)", "0; x = f(y)"),
        ("%timeit -n 10 -r3 f(y)", "0; f(y)"),
        ("%prun -s cumulative f(y)", "0; f(y)"),
        ("%lprun -f f -f g h(y)", "0; h(y)"),
        ("%time for a in b: f(a)", ""),  # no line of Python holds both
        ("    %time f(y)", "    0; f(y)"),
        ("%timeit", ""),
        ("model?", "0"),
        ("model.fit??", "0"),
        ("?model\nx = 1", "x = 1"),
        ("if x:\n    f?  # what was it\n", "if x:\n    0\n"),
        (",f a b\n;f a b\n/f a", ""),
        ("%%time\nx = 1", "x = 1"),
        ("#@title Train\n\n%%capture out\nx = 1", "x = 1"),
        ("%%timeit -n 1 -r 1 y = 2\nx = y", "x = y"),
        ("%%time\n!ls\nx = %time f()", "x = f()"),
        ("pip install torch", ""),
        ("cd ..", ""),
        (">>> x = 1\n>>> if x:\n...     y = 2\n", "if 1:\n    x = 1\n    if x:\n        y = 2\n"),
        ("In [3]: x = 1\n   ...: y = 2", "if 1:\n    x = 1\n    y = 2"),
    ],
)
def test_magics_are_made_harmless(cell: str, expected: str) -> None:
    code = python(cell)
    assert code is not None
    indented = "if 1:\n" if code[:1] == " " and expected.startswith(("if 1:", " ")) else ""
    expected = "if 1:\n" + expected if indented and expected.startswith(" ") else expected
    assert ast.dump(ast.parse(indented + code)) == ast.dump(ast.parse(expected))
    assert [len(line) for line in code.split("\n")] == [len(line) for line in cell.split("\n")]


@pytest.mark.parametrize(
    "cell",
    [
        "x = (a\n     % b)\n",
        "x %= 3\ny = a % b\nz = a != b\n",
        '"""\n%matplotlib inline\n!ls \'unclosed\nwhy?\n"""\n',
        "s = 'why?'\n",
        "x = 1  # why?\n",
        "# %matplotlib inline\n",
        "f(a,\n  b='%d' % c,\n)\n",
        'print(f"{x=!r} {100 % 7}")\n',
        "x = [\n    1,  # ! % ?\n]\n",
        "x = a \\\n    % b\n",
        "get_ipython().system('ls')\n",
        "@decorator\ndef f(x=1, *, y=2): return x % y\n",
        "",
        "\n\n",
        "x = 'it''s'; y = \"% !\"\r\nz = 3\r\n",
    ],
)
def test_python_stays_as_it_is(cell: str) -> None:
    assert python(cell) == cell


@pytest.mark.parametrize(
    "cell",
    [
        "%%bash\nls",
        "%%writefile train.py\nimport torch",
        "%%html\n<b>",
        "\n# a remark\n%%sql\nSELECT 1",
        "%%python2\nprint 1",
        "%%some_magic_nobody_knows\nx = 1",
        "%%",
    ],
)
def test_cells_that_a_magic_takes_are_none_of_pythons(cell: str) -> None:
    assert python(cell) is None


@pytest.mark.parametrize(
    "cell", ["'", '"""', "x = (", ")", "\\", "x = f'{", "%", "!", "x = !", "?"]
)
def test_half_a_cell_keeps_its_length(cell: str) -> None:
    code = python(cell)
    assert code is not None
    assert len(code) == len(cell)


def test_what_may_be_another_language() -> None:
    assert names_a_language("%sql\nSELECT 1")
    assert names_a_language("%md # Title")
    assert not names_a_language("%matplotlib inline\nx = (")
    assert not names_a_language("sql = 3")


def test_reading_takes_time_in_proportion_to_the_length() -> None:
    for line in ("x = 'a", "!ls '", '"""', "f(", "x = !a \\", "%time f(", "# '"):
        cell = f"{line}\n" * 20_000
        assert len(python(cell) or "") == len(cell)
