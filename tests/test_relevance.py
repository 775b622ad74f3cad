"""What is followed where the budget is short, wherever it is imported from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.audit import check
from mpaudit.config import Selection
from mpaudit.source import analysis

STEPS = """
import torch


def save(model, optimizer, path):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)


def load(model, optimizer, path):
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
"""
TRAIN = """
import torch
{imported}


def main(options):
    train(torch.nn.Linear(8, 2).cuda(), torch.load(options.data), options)


def train(model, loader, options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda")
    told = None
    for step, (inputs, labels) in enumerate(loader):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if step % options.every == 0:
{told}
            {called}(model, optimizer, "last.pt")
"""
TOLD = """            if options.told_{n}:
                print({n}, step, loss)
                told = told + [{n}] if told else [{n}]
"""


@pytest.mark.parametrize(
    ("imported", "called"),
    [
        ("from steps import save", "save"),
        ("import steps", "steps.save"),
        ("import steps as through", "through.save"),
        ("from pkg import steps", "steps.save"),
    ],
)
def test_what_a_module_saves_is_seen_however_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: str, called: str
) -> None:
    """Allowed so little, the block that saves is passed over unless it is known to handle what matters."""
    monkeypatch.setattr(analysis, "BUDGET", 500)
    (tmp_path / "pkg").mkdir()
    for folder in (tmp_path, tmp_path / "pkg"):
        (folder / "steps.py").write_text(STEPS, encoding="utf-8")
    (tmp_path / "pkg" / "__init__.py").touch()
    told = "".join(TOLD.format(n=n) for n in range(24))
    text = TRAIN.format(imported=imported, told=told, called=called)
    train = tmp_path / "train.py"
    train.write_text(text, encoding="utf-8")
    found = check([train], Selection(select=("scaler-not-checkpointed",))).findings
    row = 1 + next(n for n, line in enumerate(text.splitlines()) if f"{called}(model" in line)
    assert [(each.name, each.span.start.row) for each in found] == [
        ("scaler-not-checkpointed", row)
    ]
