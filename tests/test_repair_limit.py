"""Where a repair must hold back: runs of repaired scripts showed what each of these would break."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.audit import fix_text

CLEAN = Path(__file__).parents[1] / "fixtures" / "clean"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        pytest.param(
            "step_skipped_where_not_finite",
            "    scaler.update()\n",
            "    scaler.update()\n    scaler.update()\n",
            id="a second update is left out, and not moved to the step",
        ),
        pytest.param(
            "clip_threshold_times_scale",
            "scaler.scale(loss).backward()",
            "loss.backward()",
            id="a threshold that follows the scale needs no unscale_",
        ),
    ],
)
def test_the_repair_is_the_correct_script(name: str, right: str, wrong: str) -> None:
    path = CLEAN / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    mistaken = text.replace(right, wrong)
    assert mistaken != text
    assert fix_text(mistaken, str(path), unsafe=True) == text


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        pytest.param(
            "optimizer_handed_on_after_step",
            "torch.float16",
            "torch.bfloat16",
            id="a scaler whose own state is read stays on",
        ),
        pytest.param(
            "linalg_in_float32",
            'torch.autocast("cuda", enabled=False), ',
            "torch.autocast(enabled=False), ",
            id="the device of the region beside is not the one that is meant",
        ),
        pytest.param(
            "lightning_automatic",
            "import torch\n",
            "import torch\n"
            'torch.backends.cuda.matmul.fp32_precision = "tf32"\n'
            "print(torch.backends.cuda.matmul.allow_tf32)\n",
            id="Lightning reads the old switches of TF32",
        ),
    ],
)
def test_what_a_repair_would_break_is_left(name: str, right: str, wrong: str) -> None:
    path = CLEAN / f"{name}.py"
    text = path.read_text(encoding="utf-8")
    mistaken = text.replace(right, wrong, 1)
    assert mistaken != text
    assert fix_text(mistaken, str(path), unsafe=True) == mistaken
