"""Which files are audited because of what they import."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.source.text.discovery import importers, imports


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import os, sys", ""),
        ("from torch.optim.optimizer import Optimizer", ""),
        ("import torch.optim as optim", ""),
        ("import torch, engine", " torch, engine"),
        ("from .optimizer import Adam", " .optimizer import Adam"),
        ("from . import optimizer", " . import optimizer"),
        ("from engine import torch", " engine import torch"),
    ],
)
def test_what_libraries_give_is_no_import_of_a_file(text: str, found: str) -> None:
    assert imports(f"{text}\nepoch = 0\n".encode(), "a.py") == found.encode()


def test_a_name_that_a_library_has_as_well_makes_no_importer() -> None:
    gated, texts = (
        Path("optimizer.py"),
        {
            Path("own.py"): b"from optimizer import Own\nepoch = 0\n",
            Path("theirs.py"): b"from torch.optim.optimizer import Optimizer\nepoch = 0\n",
        },
    )
    found = importers([gated], list(texts), lambda path: imports(texts[path], path.name))
    assert found == [Path("own.py")]
