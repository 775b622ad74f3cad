"""Repairs of a step look at the update that is there already, wherever it stands."""

from __future__ import annotations

import ast

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.fix import Safety

LOOP = """
import torch
from torch import nn

encoder, decoder = nn.Linear(8, 2).cuda(), nn.Linear(2, 8).cuda()
optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (encoder, decoder)]
optimizer = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for number, x in enumerate(torch.randn(10, 4, 8, device="cuda")):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = nn.functional.mse_loss(decoder(encoder(x)), x)
    scaler.scale(loss).backward()
{step}"""
OF_SEVERAL = """    for each in optimizers:
        each.step()
    scaler.update()
"""
UPDATED_AT_TIMES = """    scaler.step(optimizer)
    if number % 50 == 0:
        print(loss.item())
        scaler.update()
"""
BY_HAND = """    for parameter in encoder.parameters():
        if parameter.grad is not None:
            parameter.grad.div_(scaler.get_scale())
    scaler.step(optimizer)
    scaler.update()
"""


def test_the_update_behind_the_loop_is_the_only_one() -> None:
    script = LOOP.format(step=OF_SEVERAL)
    fixed = fix_text(script, "train.py", unsafe=False)
    assert fixed == script.replace("each.step()", "scaler.step(each)")
    assert check_text(fixed, "train.py") == []


@pytest.mark.parametrize(
    ("step", "rule"),
    [(UPDATED_AT_TIMES, "missing-scaler-update"), (BY_HAND, "double-unscale")],
)
def test_what_one_edit_does_not_repair_is_only_said(step: str, rule: str) -> None:
    script = LOOP.format(step=step)
    ast.parse(script)
    (finding,) = check_text(script, "train.py")
    assert finding.name == rule
    assert finding.fix is not None
    assert finding.fix.safety == Safety.SUGGESTION
    assert finding.fix.edits == ()
    assert fix_text(script, "train.py", unsafe=True) == script
