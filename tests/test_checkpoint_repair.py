"""A scaler's state is saved wherever the optimizer's is, and loaded where the optimizer's is loaded."""

from __future__ import annotations

import pytest

from mpaudit.audit import check_text, fix_text

RULE = "scaler-not-checkpointed"
SCRIPT = """
import torch
from torch import nn

model = nn.Linear(2, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
{before}scaler = torch.amp.GradScaler("cuda")
{after}
for epoch in range(3):
    for x, y in batches:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.save({{"{key}": optimizer.state_dict()}}, "last.pt")
{more}"""
LOAD = """if resume:
    checkpoint = torch.load(resume)
    optimizer.load_state_dict(checkpoint["{key}"])
"""


def script(key: str = "optimizer", *, before: str = "", after: str = "", more: str = "") -> str:
    """A training that saves the optimizer's state, with a resume before or after the scaler is made."""
    return SCRIPT.format(key=key, before=before, after=after, more=more)


def fixed(text: str) -> str:
    """The text after the repair, for which nothing is found any more."""
    after = fix_text(text, "train.py", unsafe=False, names={RULE})
    assert RULE not in [each.name for each in check_text(after, "train.py")]
    return after


def test_the_state_is_loaded_where_the_optimizers_is() -> None:
    text = script(after=LOAD.format(key="optimizer"))
    loaded = (
        '    if checkpoint.get("scaler"):\n        scaler.load_state_dict(checkpoint["scaler"])\n'
    )
    load = LOAD.format(key="optimizer")
    assert fixed(text) == text.replace(
        "optimizer.state_dict()}", 'optimizer.state_dict(), "scaler": scaler.state_dict()}'
    ).replace(load, load + loaded)


def test_it_is_not_loaded_before_it_is_made() -> None:
    text = script(before=LOAD.format(key="optimizer"))
    assert "scaler.load_state_dict" not in fixed(text)


def test_another_entry_is_no_place_to_load_it() -> None:
    text = script(after=LOAD.format(key="pretrained"))
    assert "scaler.load_state_dict" not in fixed(text)


@pytest.mark.parametrize(
    ("key", "added"),
    [
        ("optimizer", "scaler"),
        ("opt", "scaler"),
        ("optimizer_state_dict", "scaler_state_dict"),
        ("optim_state", "scaler_state"),
        ("optimizer_of_the_head", "scaler"),
    ],
)
def test_the_entry_is_named_as_the_optimizers(key: str, added: str) -> None:
    assert f'"{added}": scaler.state_dict()' in fixed(script(key))


def test_every_checkpoint_of_the_file_gets_it() -> None:
    text = script(more='torch.save({"optimizer": optimizer.state_dict()}, "final.pt")\n')
    assert fixed(text).count('"scaler": scaler.state_dict()') == 2


@pytest.mark.parametrize(
    ("saved", "wanted"),
    [
        (
            '{"optimizer": None if last else optimizer.state_dict()}',
            '{"optimizer": None if last else optimizer.state_dict(), '
            '"scaler": None if last else scaler.state_dict()}',
        ),
        (
            '{"optimizer": optimizer.state_dict() if resumable else None}',
            '{"optimizer": optimizer.state_dict() if resumable else None, '
            '"scaler": scaler.state_dict() if resumable else None}',
        ),
        (
            'None if last else {"optimizer": optimizer.state_dict()}',
            'None if last else {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}',
        ),
    ],
)
def test_it_is_saved_where_the_optimizers_is_chosen_to_be(saved: str, wanted: str) -> None:
    plain = '{"optimizer": optimizer.state_dict()}'
    text = script(before="last, resumable = bool(options), not options\n").replace(plain, saved)
    assert fixed(text) == text.replace(saved, wanted)


def test_a_choice_between_two_states_is_left_alone() -> None:
    chosen = '{"optimizer": other.state_dict() if late else optimizer.state_dict()}'
    text = script().replace('{"optimizer": optimizer.state_dict()}', chosen)
    assert fix_text(text, "train.py", unsafe=False, names={RULE}) == text


def test_the_methods_of_a_trainer() -> None:
    text = """
import torch
from torch import nn


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), 0.1)
        self.scaler = torch.amp.GradScaler("cuda")

    def fit(self, batches):
        for x, y in batches:
            self.optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = nn.functional.cross_entropy(self.model(x), y)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        state = {}
        state["optimizer"] = self.optimizer.state_dict()
        torch.save(state, "last.pt")

    def resume(self, path):
        state = torch.load(path)
        self.optimizer.load_state_dict(state["optimizer"])


Trainer(nn.Linear(2, 2)).fit([])
"""
    load = '        self.optimizer.load_state_dict(state["optimizer"])\n'
    loaded = '        if state.get("scaler"):\n            self.scaler.load_state_dict(state["scaler"])\n'
    assert load + loaded in fixed(text)
