"""What only `__init__` sets, on some ways, is set where it is read: on others the script would have died."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit import audit
from mpaudit.source import analysis

CLEAN = Path(__file__).parents[1] / "fixtures" / "clean"
HEAD = "import torch\nfrom torch import nn\n\n"
SET = """    def __init__(self, options):
        self.net = nn.Linear(4, 2).cuda()
        if options.amp:
            self.scaler = torch.amp.GradScaler("cuda")
"""
STEP = """    def step(self, batch):
        scaler = READ
        if scaler is None:
            with torch.autocast("cuda"):
                self.net(batch).sum().backward()
"""


def found(before: str, read: str, after: str, base: str) -> list[str]:
    """The rules that are broken where the scaler that was read is None."""
    text = HEAD + before + f"class Agent{base}:\n" + SET + STEP.replace("READ", read) + after
    return [f.name for f in audit.check_text(text, "agent.py")]


ASKED = 'getattr(self, "scaler", None)'
LATER = "    def prepare(self, scaler):\n        self.scaler = scaler\n"
OUTSIDE = "\n\ndef prepare(agent, scaler):\n    agent.scaler = scaler\n"
NAMED = '\n\ndef prepare(agent, scaler):\n    setattr(agent, "scaler", scaler)\n'
ANY = "\n\ndef prepare(agent, **others):\n    agent.__dict__.update(others)\n"
FOREIGN = "from library import Base\n\n"
FALLBACK = "class Base:\n    scaler = None\n\n\n"


def test_the_way_on_which_it_is_not_set_is_none() -> None:
    assert found("", "self.scaler", "", "") == []


@pytest.mark.parametrize(
    ("before", "read", "after", "base"),
    [
        pytest.param("", ASKED, "", "", id="getattr"),
        pytest.param("", "self.scaler", LATER, "", id="set by a method"),
        pytest.param("", "self.scaler", OUTSIDE, "", id="set by a function"),
        pytest.param("", "self.scaler", NAMED, "", id="set by its name"),
        pytest.param("", "self.scaler", ANY, "", id="set by any name"),
        pytest.param(FOREIGN, "self.scaler", "", "(Base)", id="class of a library"),
        pytest.param(FALLBACK, "self.scaler", "", "(Base)", id="class attribute"),
    ],
)
def test_there_may_be_something_else(before: str, read: str, after: str, base: str) -> None:
    assert found(before, read, after, base) == ["backward-in-autocast"]


def test_a_read_that_may_fail() -> None:
    text = HEAD + "class Agent:\n" + SET
    text += """    def step(self, batch):
        try:
            scaler = self.scaler
        except AttributeError:
            scaler = None
        if scaler is None:
            with torch.autocast("cuda"):
                self.net(batch).sum().backward()
"""
    assert [f.name for f in audit.check_text(text, "agent.py")] == ["backward-in-autocast"]


def test_ways_that_cannot_be_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's class: nobody calls its method, so that all ways out of `__init__` lead into it."""
    text = (CLEAN / "delayed_actor.py").read_text(encoding="utf-8")
    text = text[: text.index("if __name__")]
    followed = analysis.Engine._entry
    steps: list[int] = []

    def counted(self, title, execute, verdicts):  # type: ignore[no-untyped-def]
        left = self.left
        result = followed(self, title, execute, verdicts)
        steps.append(left - self.left)
        return result

    monkeypatch.setattr(analysis.Engine, "_entry", counted)
    assert audit.check_text(text, "agent.py") == []
    assert max(steps) < 5000, "it is taken that the optimizers may be missing"
