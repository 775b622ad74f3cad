"""MP704: what is written for Lightning's old words, and where they are left alone."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent

import pytest

from mpaudit.checks.legacy_lightning_precision import check
from mpaudit.finding import Problem
from mpaudit.fix import Fix, Safety, apply
from mpaudit.source.text.module import Module


def checked(text: str, filename: str = "/nowhere/train.py") -> list[tuple[Problem, Fix | None]]:
    """What is found in `text`, with the fixes."""
    return list(check(Module.parse(text, filename)))


def fixed(text: str, safety: Safety = Safety.SAFE) -> str:
    """`text` after its fixes, which must have that safety, parse, and leave nothing to find."""
    fixes = [fix for _, fix in checked(text)]
    assert fixes and all(fix is not None and fix.safety is safety for fix in fixes)
    new, _ = apply(text, [fix for fix in fixes if fix is not None])
    ast.parse(new)
    assert checked(new) == []
    return new


REWRITES = [
    ("Trainer(precision=16)", 'Trainer(precision="16-mixed")'),
    ("Trainer(precision='16')", "Trainer(precision='16-mixed')"),
    ("Trainer(precision='bf16', devices=1)", "Trainer(precision='bf16-mixed', devices=1)"),
    ("Trainer(precision=16 if a else 32)", 'Trainer(precision="16-mixed" if a else "32-true")'),
    ("Trainer(**{'precision': 16})", "Trainer(**{'precision': '16-mixed'})"),
    ("Trainer(**dict(precision=16))", 'Trainer(**dict(precision="16-mixed"))'),
    (
        "def f(a):\n    word = 'bf16' if a else 16\n    return Trainer(precision=word)",
        "def f(a):\n    word = 'bf16-mixed' if a else '16-mixed'\n    return Trainer(precision=word)",
    ),
]


@pytest.mark.parametrize(("before", "after"), REWRITES)
def test_rewrites(before: str, after: str) -> None:
    for line in ("from lightning import Trainer", "from pytorch_lightning import Trainer"):
        assert fixed(f"{line}\n{before}\n") == f"{line}\n{after}\n"


def test_a_name_of_the_file_may_be_read_by_another_one() -> None:
    text = "import lightning as L\nWORD = 16\nL.Fabric(precision=WORD)\n"
    assert fixed(text, Safety.UNSAFE) == text.replace("16", '"16-mixed"')


UNREPAIRED = {
    "read for something else": """
        import lightning as L
        def f():
            precision = 16
            print("bits:", precision)
            return L.Trainer(precision=precision)
    """,
    "a parameter as well": """
        import lightning as L
        def f(precision):
            if not precision:
                precision = 16
            return L.Trainer(precision=precision)
    """,
}


@pytest.mark.parametrize("text", UNREPAIRED.values(), ids=UNREPAIRED.keys())
def test_reported_and_not_rewritten(text: str) -> None:
    ((_, fix),) = checked(dedent(text))
    assert fix is None


NOT_REPORTED = {
    "a number from outside": """
        import lightning as L
        L.Trainer(precision=args.precision)
    """,
    "only Lightning 1 has gpus": """
        import pytorch_lightning as pl
        pl.Trainer(gpus=2, precision=16)
    """,
    "only Lightning 1 has that hook": """
        import pytorch_lightning as pl
        class Model(pl.LightningModule):
            def validation_epoch_end(self, outputs): ...
        pl.Trainer(precision=16)
    """,
    "by version": """
        import lightning as L
        old = L.__version__ < "2"
        trainer = L.Trainer(precision=16) if old else L.Trainer(precision="16-mixed")
    """,
    "another trainer": """
        from transformers import Trainer
        Trainer(precision=16)  # after lightning
    """,
    "a truth value": """
        import lightning as L
        L.Trainer(precision=True)
    """,
}


@pytest.mark.parametrize("text", NOT_REPORTED.values(), ids=NOT_REPORTED.keys())
def test_not_reported(text: str) -> None:
    assert checked(dedent(text)) == []


@pytest.mark.parametrize(
    ("requirement", "reported"),
    [
        ("lightning>=2.0", True),
        ("pytorch_lightning==1.9.5", False),
        ("pytorch-lightning>=1.5", False),
        ("lightning<2.0", False),
        ("lightning", True),
    ],
)
def test_the_project_says_what_it_is_for(tmp_path: Path, requirement: str, reported: bool) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text(requirement + "\n", encoding="utf-8")
    text = "import lightning as L\nL.Trainer(precision=16)\n"
    assert bool(checked(text, str(tmp_path / "train.py"))) == reported
