"""The static check as a whole: files in, findings and repaired files out."""

import subprocess
import sys
from pathlib import Path

import pytest

from mpaudit import audit
from mpaudit.config import Selection
from mpaudit.errors import MpauditError

LOOP = """\
import torch
scaler = torch.amp.GradScaler("cuda")
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = criterion(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
"""
REPAIRED = LOOP + "    scaler.update()\n"


def names(text: str) -> list[str]:
    return [finding.name for finding in audit.check_text(text, "train.py")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LOOP.encode(), REPAIRED.encode()),
        (LOOP.replace("\n", "\r\n").encode(), REPAIRED.replace("\n", "\r\n").encode()),
        (b"\xef\xbb\xbf" + LOOP.encode(), b"\xef\xbb\xbf" + REPAIRED.encode()),
        (LOOP.replace("    ", "\t").encode(), REPAIRED.replace("    ", "\t").encode()),
        (LOOP.rstrip().encode(), REPAIRED.rstrip().encode()),
        (
            ("# -*- coding: latin-1 -*-\n# caf\xe9\n" + LOOP).encode("latin-1"),
            ("# -*- coding: latin-1 -*-\n# caf\xe9\n" + REPAIRED).encode("latin-1"),
        ),
    ],
    ids=["plain", "crlf", "bom", "tabs", "no-final-newline", "latin-1"],
)
def test_a_fix_keeps_every_other_byte(tmp_path, before, after):
    path = tmp_path / "train.py"
    path.write_bytes(before)
    report, changed = audit.fix([path], unsafe=False, write=True)
    assert path.read_bytes() == after
    assert not report.findings
    assert report.repaired == 1
    assert list(report.fixed) == [str(path)]
    assert list(changed) == [str(path)]


CLIPPED = """\
import torch
from torch import nn
scaler = torch.amp.GradScaler("cuda")
for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda"):
        loss = nn.functional.cross_entropy(model(x), y)
    scaler.scale(loss)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""


def _under_flag(text: str) -> str:
    """The clip under a flag of its own."""
    clip = "    nn.utils.clip_grad_norm_"
    return text.replace(clip, f"    if clip:\n    {clip}")


@pytest.mark.parametrize("written", [CLIPPED, _under_flag(CLIPPED)], ids=["always", "flag"])
def test_a_loss_that_is_scaled_at_last_is_unscaled_before_its_clip(tmp_path, written):
    """Half of this repair would clip scaled gradients: both halves are one fix."""
    path = tmp_path / "train.py"
    path.write_text(written, encoding="utf-8")
    report, _ = audit.fix([path], unsafe=False, write=True)
    assert not report.findings
    repaired = path.read_text(encoding="utf-8")
    assert "    scaler.scale(loss).backward()\n" in repaired
    first, second = map(repaired.index, ("scaler.unscale_(optimizer)\n", "nn.utils.clip_grad"))
    assert first < second


def test_a_clip_behind_unscale_gets_no_second_one(tmp_path):
    path = tmp_path / "train.py"
    clip = "    nn.utils.clip_grad_norm_"
    written = CLIPPED.replace(clip, f"    scaler.unscale_(optimizer)\n{clip}")
    path.write_text(written, encoding="utf-8")
    audit.fix([path], unsafe=False, write=True)
    assert path.read_text(encoding="utf-8").count("unscale_") == 1


def test_nothing_is_written_unless_asked(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(LOOP, encoding="utf-8")
    _, changed = audit.fix([path], unsafe=False, write=False)
    assert changed[str(path)] == (LOOP, REPAIRED)
    assert path.read_text(encoding="utf-8") == LOOP


def test_only_the_selected_rules_are_fixed(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(LOOP, encoding="utf-8")
    audit.fix([path], Selection(select=("MP701",)), unsafe=True, write=True)
    assert path.read_text(encoding="utf-8") == LOOP


def test_a_comment_silences_one_place():
    step = "    scaler.step(optimizer)"
    assert names(LOOP) == ["missing-scaler-update"]
    assert names(LOOP.replace(step, step + "  # mpaudit: ignore[missing-scaler-update] why")) == []
    assert names(LOOP.replace(step, step + "  # mpaudit: ignore[MP104]")) == []
    assert names(LOOP.replace(step, step + "  # mpaudit: ignore[MP105]")) == [
        "missing-scaler-update",
        "unused-suppression",
    ]


def test_a_clean_run_reads_no_rule_page(tmp_path):
    (tmp_path / "a.py").write_text("import torch\n", encoding="utf-8")
    code = (
        "from pathlib import Path\nfrom mpaudit import audit, rule\n"
        f"assert not audit.check([Path({str(tmp_path)!r})]).findings\n"
        "assert rule._own.cache_info().currsize == 0\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_missing_path_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(MpauditError, match="no such file"):
        audit.check([tmp_path / "nowhere.py"])
    with pytest.raises(MpauditError, match="no Python file"):
        audit.check([tmp_path])


@pytest.mark.parametrize(
    ("data", "row"),
    [(b"import torch\nx = (\n", 2), (b"caf\xe9 = 1\n", 1), (b"\x00\x01\x02", 1), (b"print 1\n", 1)],
    ids=["syntax", "encoding", "binary", "python-2"],
)
def test_what_cannot_be_read_is_said(tmp_path, data, row):
    path = tmp_path / "bad.py"
    path.write_bytes(data)
    (finding,) = audit.check([path]).findings
    assert (finding.code, finding.span.start.row) == ("MP001", row)


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "(" * 150 + "1" + ")" * 150,
        "x = " + " + ".join(["1"] * 5000),
        "def f():\n    return f()\nf()\nscaler = autocast = f",
        "class A(A): pass\nA().step()",
        "from torch.amp import *\nexec('scaler.step(opt)')",
        "while True:\n    while True:\n        scaler.scale(loss).backward()",
        "if a:\n    import torch as t\nelse:\n    t = None\ndef f(s: t.Tensor):\n    s.backward()",
        "if a:\n" + "".join(f"    if b{i}: x = {i}\n" for i in range(300)) + "    autocast",
    ],
    ids=[
        "parentheses",
        "sum",
        "recursion",
        "own-base",
        "exec",
        "endless",
        "annotation",
        "branches",
    ],
)
def test_odd_code_is_survived(text):
    assert isinstance(audit.check_text("import torch.amp\n" + text + "\n", "odd.py"), list)


def test_files_that_import_a_trainer_are_followed(tmp_path):
    (tmp_path / "helper.py").write_text(
        "from torch.nn.utils import clip_grad_norm_\n\n\ndef clip(model):\n"
        "    clip_grad_norm_(model.parameters(), 1.0)\n",
        encoding="utf-8",
    )
    training = REPAIRED.replace("import torch\n", "import torch\nfrom helper import clip\n")
    training = training.replace("    scaler.step", "    clip(model)\n    scaler.step")
    (tmp_path / "train.py").write_text(training, encoding="utf-8")
    (finding,) = audit.check([tmp_path]).findings
    assert finding.name == "clip-before-unscale"
    assert Path(finding.span.filename).name == "helper.py"
    assert {Path(r.span.filename).name for r in finding.related} == {"train.py"}


def test_many_independent_branches_end_soon():
    body = "".join(f"    if flag{i}:\n        x{i} = model.layer{i}(x)\n" for i in range(60))
    text = REPAIRED.replace("    scaler.step", body + "    scaler.step")
    assert names(text) == []
    assert names(text.replace("    scaler.update()\n", "")) == ["missing-scaler-update"]
