"""MP702: the loop that is shown in place of apex.amp, and where none is shown."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import indent

import pytest

from mpaudit.audit import check_text
from mpaudit.checks.apex_amp import check
from mpaudit.fix import Safety, apply
from mpaudit.rule import rule
from mpaudit.source.text.module import Module

FIXTURES = Path(__file__).parents[1] / "fixtures" / "scripts"


def shown(text: str) -> str | None:
    """`text` with what is shown in place of apex, None where nothing is."""
    ((_, fix),) = check(Module.parse(text, "/nowhere/train.py"))
    if fix is None:
        return None
    assert fix.safety is Safety.SUGGESTION
    new, applied = apply(text, [fix])
    assert applied == (fix,)
    ast.parse(new)
    return new


def test_the_page() -> None:
    page = rule("apex-amp")
    bad = page.example("Bad")
    assert bad is not None
    assert shown(bad) == page.example("Good")


def test_a_flag_switches_the_scaler() -> None:
    text = (FIXTURES / "apex_amp_flag.py").read_text(encoding="utf-8")
    new = shown(text)
    assert new is not None and "apex" not in new.replace("means apex", "")
    assert '    scaler = torch.amp.GradScaler("cuda", enabled=args.fp16)\n    for inputs' in new
    loop = """\
model.train()
with torch.autocast("cuda", enabled=scaler.is_enabled()):
    loss = nn.functional.cross_entropy(model(inputs), targets)
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
torch.nn.utils.clip_grad_norm_(model.parameters(), args.clip)
scaler.step(optimizer)
scaler.update()
model.zero_grad()
"""
    begin, end = new.index("        model.train()\n"), new.index("    return model")
    assert new[begin:end] == indent(loop, " " * 8)
    assert check_text(new, "train.py") == []


def test_an_attribute_keeps_the_scaler_beside_the_optimizer() -> None:
    new = shown((FIXTURES / "apex_amp_trainer.py").read_text(encoding="utf-8"))
    assert new is not None and "import apex" not in new
    assert '        self.scaler = torch.amp.GradScaler("cuda")\n' in new
    assert '"amp": self.scaler.state_dict(),' in new
    assert "        self.scaler.step(self.optimizer)\n        self.scaler.update()\n" in new
    assert '        with torch.autocast("cuda"):\n            error = self.model(x) - y\n' in new
    assert check_text(new, "train.py") == []


LOOP = """
from apex import amp
import torch
model, optimizer = amp.initialize(model, optimizer)
for x, y in data:
    loss = loss_fn(model(x), y)
    with amp.scale_loss(loss, optimizer) as scaled_loss:
        scaled_loss.backward()
    optimizer.step()
"""

NOT_SHOWN = {
    "several optimizers": LOOP.replace(
        "amp.initialize(model, optimizer)", "amp.initialize(model, [optimizer, other])"
    ),
    "another optimizer": LOOP.replace("scale_loss(loss, optimizer)", "scale_loss(loss, other)"),
    "half weights alone": LOOP.replace(
        "(model, optimizer)\n", "(model, optimizer, 'O3')\n", 1
    ).replace("optimizer, 'O3'", "optimizer, opt_level='O3'"),
    "a scale of its own": LOOP.replace("optimizer)\n", "optimizer, loss_scale=128)\n", 1),
    "the forward pass is elsewhere": LOOP.replace("loss = loss_fn(model(x), y)", "loss = run(x)"),
    "the step is elsewhere": LOOP.replace("optimizer.step()", "advance()"),
    "the scaled loss is read": LOOP.replace(
        "scaled_loss.backward()", "scaled_loss.backward(); print(scaled_loss)"
    ),
    "clipped in each micro-batch": LOOP.replace(
        "    optimizer.step()",
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "    if last(x):\n        optimizer.step()",
    ),
    "apex for more": LOOP.replace("from apex import amp", "import apex")
    .replace(" amp.", " apex.amp.")
    .replace("loss_fn(", "apex.loss("),
    "registered functions": LOOP + "amp.register_half_function(torch, 'mm')\n",
}


@pytest.mark.parametrize("text", NOT_SHOWN.values(), ids=NOT_SHOWN.keys())
def test_not_shown(text: str) -> None:
    assert shown(text) is None
    assert shown(LOOP) is not None
