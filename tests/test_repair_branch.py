"""unscale_ goes where there is a scaler, and where an accumulation steps: under the step's condition.

Of two precisions that exclude each other that one stays which the script is written for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.fix import Safety

FIXTURES = Path(__file__).parents[1] / "fixtures"
LOOP = """
import torch
from torch import nn


def train(model, optimizer, batches, amp, scaler=None):
    {before}
    for x, y in batches:
        optimizer.zero_grad()
        with torch.autocast("cuda", enabled=amp):
            loss = nn.functional.cross_entropy(model(x), y)
        {backward}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        {step}


train(nn.Linear(2, 2), torch.optim.SGD([], 0.1), [], {amp})
"""
UNSCALE = "scaler.unscale_(optimizer)"
CLIP = "        nn.utils.clip_grad_norm_"


def loop(test: str, *, inline: bool = False, turned: bool = False, amp: str = "True") -> str:
    """A loop with two branches; `turned` puts the one without a scaler first."""
    if inline:
        backward = f"scaler.scale(loss).backward() if {test} else loss.backward()"
        step = (
            f"scaler.step(optimizer) if {test} else optimizer.step()\n"
            f"        scaler.update() if {test} else None"
        )
    else:
        scaled = "scaler.scale(loss).backward()", "scaler.step(optimizer); scaler.update()"
        plain = "loss.backward()", "optimizer.step()"
        first, second = (plain, scaled) if turned else (scaled, plain)
        backward, step = (
            f"if {test}:\n            {a}\n        else:\n            {b}"
            for a, b in zip(first, second, strict=True)
        )
    before = "if amp:\n        scaler = torch.amp.GradScaler('cuda')"
    return LOOP.format(before=before, backward=backward, step=step, amp=amp)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        (loop("amp"), "amp"),
        (loop("scaler is not None"), "scaler is not None"),
        (loop("amp", inline=True), "amp"),
        (loop("not amp", turned=True), "amp"),
        (loop("scaler is None", turned=True), "scaler is not None"),
    ],
    ids=["flag", "none", "inline", "not", "is-none"],
)
def test_the_condition_of_the_step_is_asked(text: str, condition: str) -> None:
    fixed = fix_text(text, "train.py", unsafe=True, names={"clip-before-unscale"})
    asked = f"        if {condition}:\n            {UNSCALE}\n"
    assert fixed == text.replace(CLIP, asked + CLIP)
    assert "clip-before-unscale" not in [each.name for each in check_text(fixed, "train.py")]


@pytest.mark.parametrize(
    "text",
    [
        loop("ready()"),
        loop("amp").replace("1.0)\n        if", "1.0)\n        amp = bool(batches)\n        if"),
    ],
    ids=["call", "bound-between"],
)
def test_a_question_that_cannot_be_asked_twice_is_no_fix(text: str) -> None:
    assert fix_text(text, "train.py", unsafe=True, names={"clip-before-unscale"}) == text


def test_one_condition_around_both_is_not_asked_again() -> None:
    text = loop("amp").replace(
        "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n        if amp:\n",
        "        if amp:\n            nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n",
    )
    fixed = fix_text(text, "train.py", unsafe=True, names={"clip-before-unscale"})
    assert fixed.count("if amp:") == text.count("if amp:")
    assert f"            {UNSCALE}\n            nn.utils.clip_grad_norm_" in fixed


def test_a_policy_that_is_not_set_is_only_shown_where_a_loss_would_not_take_bfloat16() -> None:
    text = """
import keras
import tensorflow as tf

keras.DTypePolicy("mixed_bfloat16")
model = keras.Sequential([keras.layers.Dense(4)])
optimizer = keras.optimizers.SGD(0.1)
for _ in range(3):
    x = tf.random.normal((8, 4))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(x - model(x)))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""
    (found,) = check_text(text, "train.py")
    assert (found.name, found.fix and found.fix.edits) == ("ineffective-policy", ())
    assert fix_text(text, "train.py", unsafe=True) == text


def test_a_step_is_not_taken_for_that_of_another_optimizer() -> None:
    right = """
import torch
from torch import nn

device = torch.device("cuda")
G, D = nn.Linear(6, 12).to(device), nn.Linear(12, 1).to(device)
opt_g = torch.optim.SGD(G.parameters(), lr=0.1)
opt_d = torch.optim.SGD(D.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for _ in range(5):
    with torch.autocast("cuda"):
        fake = G(torch.randn(8, 6, device=device))
        loss_g = -D(fake).mean()
    scaler.scale(loss_g).backward()
    opt_d.zero_grad()
    scaler.step(opt_g)
    with torch.autocast("cuda"):
        loss_d = D(fake.detach()).mean()
    scaler.scale(loss_d).backward()
    scaler.step(opt_d)
    scaler.update()
    opt_g.zero_grad()
    opt_d.zero_grad()
"""
    wrong = right.replace("scaler.step(opt_g)", "opt_g.step()")
    assert fix_text(wrong, "train.py", unsafe=True) == right


MANY = """
import torch
from torch import nn


def train(model, batches):
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in model]
    scaler = torch.amp.GradScaler("cuda")
    for x, y in batches:
        for optimizer in optimizers:
            optimizer.zero_grad()
        with torch.autocast("cuda"):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for {target} in {many}:
            scaler.step(optimizer)
        scaler.update()


train(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).cuda(), [])
"""


def test_all_optimizers_of_a_loop_are_unscaled() -> None:
    text = MANY.format(target="optimizer", many="optimizers")
    fixed = fix_text(text, "train.py", unsafe=True, names={"clip-before-unscale"})
    loop = f"        for optimizer in optimizers:\n            {UNSCALE}\n"
    assert fixed == text.replace(CLIP, loop + CLIP)
    assert check_text(fixed, "train.py") == []


def test_a_loop_that_cannot_be_repeated_is_no_fix() -> None:
    text = MANY.format(target="optimizer, name", many="zip(optimizers, 'ab')")
    assert fix_text(text, "train.py", unsafe=True, names={"clip-before-unscale"}) == text


def test_a_scaler_is_not_switched_off_for_a_region_that_casts_nothing() -> None:
    text = """
import torch
from torch import nn

model = nn.Linear(8, 2).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for _ in range(5):
    optimizer.zero_grad()
    with torch.autocast("cpu"):
        loss = model(torch.randn(4, 8, device="cuda")).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""
    assert [each.name for each in check_text(text, "train.py")] == ["autocast-device-mismatch"]
    assert fix_text(text, "train.py", unsafe=True) == text


def test_a_name_of_another_function_is_not_put_in() -> None:
    text = (FIXTURES / "scripts" / "unscaled_backward_methods.py").read_text()
    (found,) = check_text(text, "train.py")
    assert (found.name, found.fix) == ("unscaled-backward", None)
    shared = text.replace("scaler = self.amp", "self.scaler = self.amp").replace(
        "        scaler.", "        self.scaler."
    )
    fixed = fix_text(shared, "train.py", unsafe=True)
    assert "        self.scaler.scale(self.loss).backward()" in fixed


ACCUMULATED = """
import torch
from torch import nn


def train(model, optimizer, batches, steps):
    scaler = torch.amp.GradScaler("cuda")
    for i, (x, y) in enumerate(batches):
        with torch.autocast("cuda"):
            loss = nn.functional.cross_entropy(model(x), y) / steps
        scaler.scale(loss).backward()
        {clip}
        if (i + 1) % steps == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        print(i)
"""


def test_the_sum_of_an_accumulation_is_clipped_once() -> None:
    clip = "nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    text = ACCUMULATED.format(clip=clip)
    (finding,) = check_text(text, "train.py")
    assert finding.name == "clip-before-unscale"
    inside = f"            {UNSCALE}\n            {clip}\n            scaler.step(optimizer)"
    right = text.replace(f"        {clip}\n", "").replace(
        "            scaler.step(optimizer)", inside
    )
    assert fix_text(text, "train.py", unsafe=False) == right
    assert check_text(right, "train.py") == []


def test_a_norm_that_is_asked_for_in_every_pass_stays_where_it_is() -> None:
    clip = "norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)"
    text = ACCUMULATED.format(clip=clip).replace("print(i)", "print(i, norm)")
    (finding,) = check_text(text, "train.py")
    assert finding.fix is not None
    assert finding.fix.safety is Safety.SUGGESTION
    assert fix_text(text, "train.py", unsafe=True) == text


GUARDED = """
import torch
from torch import nn

model = nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cuda")
for x in torch.randn(10, 4, 8, device="cuda"):
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = nn.functional.mse_loss(model(x), x)
    {backward}
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if {test}:
        print("left out")
        continue
    scaler.step(optimizer)
    scaler.update()
"""


@pytest.mark.parametrize("backward", ["scaler.scale(loss).backward()", "loss.backward()"])
@pytest.mark.parametrize(
    "test", ["not torch.isfinite(norm)", "norm > 10.0", "torch.isnan(loss) or torch.isinf(loss)"]
)
def test_a_guard_behind_an_unscale_that_is_put_in_updates(backward: str, test: str) -> None:
    text = GUARDED.format(backward=backward, test=test)
    fixed = fix_text(text, "train.py", unsafe=True)
    scaled = text.replace("    loss.backward()", "    scaler.scale(loss).backward()")
    unscaled = scaled.replace("    norm =", f"    {UNSCALE}\n    norm =")
    assert fixed == unscaled.replace("    continue", "    scaler.update()\n        continue")
    assert check_text(fixed, "train.py") == []


def test_what_leaves_otherwise_is_left_alone() -> None:
    test = "not torch.isfinite(norm)"
    text = GUARDED.format(backward="scaler.scale(loss).backward()", test=test)
    for other in ("scaler.update()\n        continue", "raise FloatingPointError"):
        guarded = text.replace("continue", other)
        fixed = fix_text(guarded, "train.py", unsafe=True)
        assert fixed == guarded.replace("    norm =", f"    {UNSCALE}\n    norm =")


ENGINE = """
import deepspeed
import torch
from torch import nn

net = nn.Linear(16, 4)
engine, *_ = deepspeed.initialize(
    model=net,
    model_parameters=net.parameters(),
    config={"train_batch_size": 8, "fp16": {"enabled": FP16}, "bf16": {"enabled": BF16}},
)
print(engine(INPUTS))
"""


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        ("torch.randn(8, 16).half()", "FP16"),
        ("torch.randn(8, 16, dtype=torch.float16)", "FP16"),
        ("torch.randn(8, 16).to(next(net.parameters()).dtype)", "BF16"),
        (
            "torch.randn(8, 16).to(torch.float16 if engine.fp16_enabled() else torch.bfloat16)",
            "BF16",
        ),
    ],
)
def test_the_precision_stays_that_the_inputs_are_made_in(inputs: str, kept: str) -> None:
    text = ENGINE.replace("INPUTS", inputs)
    both = text.replace("FP16", "True").replace("BF16", "True")
    right = text.replace(kept, "True").replace("BF16" if kept == "FP16" else "FP16", "False")
    assert fix_text(both, "train.py", unsafe=True) == right
