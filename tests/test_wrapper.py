"""A function that only passes on to what was followed already is no entry point of its own."""

from __future__ import annotations

import pytest

from mpaudit import audit
from mpaudit.source.analysis import Engine

TRAIN = """\
import torch

def parse(known=False):
    return object()

def train(options, amp=True):
    model = torch.nn.Linear(4, 2).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", enabled=amp)
    for x in options.data:
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16, enabled=amp):
            loss = model(x).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)

def main(options):
    train(options)

"""
MAIN = 'if __name__ == "__main__":\n    main(parse())\n'
WRAPPER = '''\
def run(**given):
    """For others to call."""
    options = parse(True)
    for name, value in given.items():
        setattr(options, name, value)
    main(options)

'''
HANDING = {
    "a literal": "def run(options):\n    train(options, True)\n\n",
    "a keyword": "def run(options):\n    train(options, amp=True)\n\n",
    "a literal by a name": "def run(options):\n    on = True\n    train(options, on)\n\n",
    "an attribute that is set": "def run(options):\n    options.amp = True\n    main(options)\n\n",
    "a setting of its own": "def run(options):\n    scaled(options)\n    main(options)\n\n"
    "def scaled(options):\n    options.scaler = torch.amp.GradScaler('cuda')\n\n",
}


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The entry points, as they are followed."""
    names: list[str] = []
    enter = Engine._entry

    def spy(engine, title, execute, verdicts):
        names.append(title)
        return enter(engine, title, execute, verdicts)

    monkeypatch.setattr(Engine, "_entry", spy)
    return names


def test_what_only_passes_on_is_not_entered(entered: list[str]) -> None:
    found = audit.check_text(TRAIN + WRAPPER + MAIN, "train.py")
    assert [each.code for each in found] == ["MP104"]
    assert entered == ["the module's body"]


def test_without_a_main_block_it_is_entered(entered: list[str]) -> None:
    assert [e.code for e in audit.check_text(TRAIN + WRAPPER, "train.py")] == ["MP104"]
    assert "train" in entered


@pytest.mark.parametrize("wrapper", HANDING.values(), ids=HANDING)
def test_what_hands_something_over_is_entered(wrapper: str, entered: list[str]) -> None:
    audit.check_text(TRAIN + wrapper + MAIN, "train.py")
    assert entered == ["the module's body", "run"]


def test_what_it_switches_on_is_seen() -> None:
    """The main block trains in float32; only the wrapper has a scaler that is on."""
    off = TRAIN.replace("amp=True", "amp=False")
    assert not audit.check_text(off + WRAPPER + MAIN, "train.py")
    found = audit.check_text(off + HANDING["a keyword"] + MAIN, "train.py")
    assert [each.code for each in found] == ["MP104"]
