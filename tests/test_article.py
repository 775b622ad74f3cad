"""The article's two scripts, from broken to proven: what the project grew from."""

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mpaudit import audit
from mpaudit.config import Selection
from mpaudit.fix import Safety

ARTICLE = Path(__file__).parents[1] / "fixtures" / "article"
EXPECTED = {
    "article_pytorch.py": {
        ("MP701", "error", 19),
        ("MP204", "warning", 26),
        ("MP104", "error", 31),
    },
    "article_tensorflow.py": {
        ("MP401", "error", 6),
        ("MP502", "error", 6),
        ("MP501", "error", 19),
        ("MP503", "warning", 29),
    },
}
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
each = pytest.mark.parametrize("name", sorted(EXPECTED))


def mpaudit(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "mpaudit", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
    )


@each
def test_exactly_these_findings(name):
    findings = audit.check([ARTICLE / name]).findings
    assert len(findings) == len(EXPECTED[name])
    assert {(f.code, f.severity.value, f.span.start.row) for f in findings} == EXPECTED[name]


@each
def test_the_repaired_script_is_silent_and_parses(name):
    text = (ARTICLE / name).read_text(encoding="utf-8")
    repaired = audit.fix_text(text, name, unsafe=True)
    ast.parse(repaired)
    assert repaired != text
    assert audit.check_text(repaired, name) == []
    assert audit.fix_text(repaired, name, unsafe=True) == repaired


def test_the_keras_repair_is_one_and_unsafe():
    findings = audit.check([ARTICLE / "article_tensorflow.py"]).findings
    fixes = {f.fix for f in findings}
    assert len(fixes) == 1
    (fix,) = fixes
    assert fix.safety is Safety.UNSAFE


@pytest.mark.parametrize("rule", ["MP401", "MP501", "MP502", "MP503"])
def test_no_half_repair_is_ever_offered(rule):
    name = "article_tensorflow.py"
    text = (ARTICLE / name).read_text(encoding="utf-8")
    assert audit.fix_text(text, name, unsafe=False) == text
    whole = audit.fix_text(text, name, unsafe=True)
    assert audit.fix_text(text, name, unsafe=True, names={rule}) in (text, whole)
    for finding in audit.check([ARTICLE / name], Selection(select=(rule,))).findings:
        assert "All of it together" in finding.fix.message


@each
def test_the_runnable_script_holds_the_article_unchanged(name):
    article = (ARTICLE / name).read_text(encoding="utf-8")
    runnable = (ARTICLE / name.replace("article_", "run_")).read_text(encoding="utf-8")
    assert article in runnable


@needs_torch
def test_uncorrected_pytorch_dies_at_the_second_iteration_and_is_explained(tmp_path):
    script = shutil.copy(ARTICLE / "run_pytorch.py", tmp_path)
    ran = mpaudit("run", "--device", "cpu", "-o", "t.mpa", script, cwd=tmp_path)
    assert ran.returncode == 1
    assert "RuntimeError: step() has already been called since the last update()." in ran.stderr
    assert "MP104" in ran.stderr and "mpaudit/runtime" not in ran.stderr
    report = json.loads(mpaudit("report", "t.mpa", "--format", "json", cwd=tmp_path).stdout)
    assert report["meta"]["exit_code"] == 1
    confirmed = {f["code"] for f in report["findings"] if f["confirmed"]}
    assert "MP104" in confirmed


@needs_torch
def test_corrected_pytorch_trains_all_epochs_in_float16(tmp_path):
    script = shutil.copy(ARTICLE / "run_pytorch.py", tmp_path)
    before = Path(script).read_bytes()
    ran = mpaudit("run", "--fix", "--device", "cpu", "-o", "t.mpa", script, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("final loss ")
    assert Path(script).read_bytes() == before
    report = json.loads(mpaudit("report", "t.mpa", "--format", "json", cwd=tmp_path).stdout)
    (optimizer,) = report["optimizers"]
    assert optimizer["type"] == "Adam" and optimizer["steps"] == 160
    assert optimizer["applied"] + len(optimizer["skipped_steps"]) == 160
    layers = {layer["path"]: layer for layer in report["layers"]}
    for path in ("0", "2"):
        assert layers[path]["output_dtypes"] == ["float16"]
        assert layers[path]["param_dtype"] == "float32"
        assert layers[path]["param_grad_dtype"] == "float32"
    assert len(report["loss_scale"]["timeline"]) >= 1
    assert not report["findings"]


@needs_keras
@pytest.mark.slow
def test_uncorrected_keras_trains_in_float32_and_says_so(tmp_path):
    script = shutil.copy(ARTICLE / "run_tensorflow.py", tmp_path)
    ran = mpaudit("run", "-o", "t.mpa", script, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(mpaudit("report", "t.mpa", "--format", "json", cwd=tmp_path).stdout)
    assert "MP905" in {f["code"] for f in report["findings"]}
    assert {d for layer in report["layers"] for d in layer["output_dtypes"]} == {"float32"}


@needs_keras
@pytest.mark.slow
def test_corrected_keras_is_mixed_with_a_float32_head(tmp_path):
    script = shutil.copy(ARTICLE / "run_tensorflow.py", tmp_path)
    ran = mpaudit("run", "--fix", "-o", "t.mpa", script, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(mpaudit("report", "t.mpa", "--format", "json", cwd=tmp_path).stdout)
    first, head = report["layers"]
    assert (first["output_dtypes"], head["output_dtypes"]) == (["float16"], ["float32"])
    assert report["optimizers"][0]["type"] == "LossScaleOptimizer"
    assert report["loss_scale"]["timeline"]
    assert not report["findings"]


ACCURACY = """

import numpy as np
hits = [np.argmax(model.predict(x, verbose=0), -1) == np.asarray(y) for x, y in dataset]
print("accuracy", float(np.mean(np.concatenate(hits))))
"""


@needs_keras
@pytest.mark.slow
def test_the_repaired_keras_script_learns_as_well_as_float32(tmp_path):
    text = (ARTICLE / "run_tensorflow.py").read_text(encoding="utf-8")
    seeded = text.replace(
        "import tensorflow as tf\n",
        "import tensorflow as tf\ntf.keras.utils.set_random_seed(0)\n",
        1,
    )
    baseline = seeded.replace("tf.keras.mixed_precision.set_global_policy(policy)\n", "")
    policy = "policy = tf.keras.mixed_precision.Policy('mixed_float16')\n"
    half = seeded.replace(policy, "").replace(
        "import tensorflow as tf\n",
        f"import tensorflow as tf\n{policy}tf.keras.mixed_precision.set_global_policy(policy)\n",
        1,
    )
    repaired = audit.fix_text(seeded, "run_tensorflow.py", unsafe=True)
    assert audit.check_text(repaired, "run_tensorflow.py") == []
    accuracy = {}
    for name, script in (
        ("float32", baseline),
        ("half repaired", half),
        ("repaired", repaired),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(script + ACCURACY, encoding="utf-8")
        ran = subprocess.run([sys.executable, path], capture_output=True, text=True, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        accuracy[name] = float(ran.stdout.split("accuracy ")[1])
    assert accuracy["float32"] > 0.9
    assert accuracy["half repaired"] < 0.9 * accuracy["float32"]
    assert accuracy["repaired"] >= 0.99 * accuracy["float32"]
    print(accuracy)
