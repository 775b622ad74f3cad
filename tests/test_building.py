"""Of an object that nobody in view made, what it is made of is followed, and nothing else in other files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit import audit
from mpaudit.source.analysis import Engine

PARENT = """\
import torch
from torch import nn
from tools import settle, chosen


class Parent(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.activation = chosen(config)
        self.post_init()

    def post_init(self):
        settle(self)
"""
TOOLS = """\
from torch import nn


def chosen(config):
    return nn.Softmax(dim=-1)


def settle(model):
    for hook in model.hooks:
        hook(model)
"""
CHILD = """\
import torch
from torch import nn
from parent import Parent


class Child(Parent):
    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(4, 2)

    def forward(self, x, target):
        return nn.functional.cross_entropy(self.activation(self.head(x)), target)
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that are called and followed, by name."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, text in (("parent", PARENT), ("tools", TOOLS), ("child", CHILD)):
        Path(f"{name}.py").write_text(text, encoding="utf-8")
    names: list[str] = []
    outcomes = Engine.outcomes

    def spy(engine, path, call):
        names.append(call.function.name)
        return outcomes(engine, path, call)

    monkeypatch.setattr(Engine, "outcomes", spy)
    return names


def test_what_a_base_class_makes_is_known(called: list[str]) -> None:
    """The softmax comes from a helper of the base class, two files away."""
    found = audit.check([Path("child.py")]).findings
    assert [each.code for each in found] == ["MP403"]
    assert "chosen" in called
    assert "settle" not in called  # it calls what it holds: nothing that the object is made of


def test_the_same_object_made_in_view_is_followed_wholly(called: list[str]) -> None:
    text = CHILD + "\n\nmodel = Child(None)\nmodel(torch.rand(2, 4), torch.tensor([0, 1]))\n"
    Path("child.py").write_text(text, encoding="utf-8")
    found = audit.check([Path("child.py")]).findings
    assert [each.code for each in found] == ["MP403"]
    assert "settle" in called


AGENT = """\
import torch


class Agent:
    def __init__(self):
        self.kept = {}

    def finish(self):
        self.write()

    def write(self):
        states = {}
        for name, each in self.kept.items():
            states[name] = each.state_dict()
        torch.save(states, "agent.pt")

    def read(self):
        states = torch.load("agent.pt")
        for name, each in self.kept.items():
            each.load_state_dict(states[name])
"""
LEARNER = """\
import torch
from agent import Agent


class Learner(Agent):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.scaler = torch.amp.GradScaler("cuda")
        self.optimizer = torch.optim.Adam(model.parameters())
        self.kept["optimizer"] = self.optimizer

    def finish(self):
        self.learn()
        super().finish()

    def learn(self):
        self.optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = self.model(torch.rand(2)).sum()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
"""


def test_where_a_base_class_keeps_things_is_known(called: list[str]) -> None:
    """Its `__init__` mentions nothing of ours: a dict, in which the optimizer is put, and saved from."""
    Path("agent.py").write_text(AGENT, encoding="utf-8")
    Path("learner.py").write_text(LEARNER, encoding="utf-8")
    found = audit.check([Path("learner.py")]).findings
    assert [each.code for each in found] == ["MP112"]
    Path("learner.py").write_text(
        LEARNER.replace(
            "= self.optimizer\n", "= self.optimizer\n        self.kept['s'] = self.scaler\n"
        ),
        encoding="utf-8",
    )
    assert not audit.check([Path("learner.py")]).findings
