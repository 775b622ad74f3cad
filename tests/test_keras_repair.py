"""Repairs of Keras scripts: all that hits one model at once, or nothing of it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from keras_mistakes import MISTAKES

from mpaudit.audit import check_text, fix_text
from mpaudit.fix import Safety

FIXTURES = Path(__file__).parents[1] / "fixtures" / "article"
ARTICLE = (FIXTURES / "article_tensorflow.py").read_text(encoding="utf-8")
RUN = (FIXTURES / "run_tensorflow.py").read_text(encoding="utf-8")
BEYOND_REPAIR = {
    "policy_object_if_flag": "the policy is set under a condition",
    "accumulated_grads": "gradients are clipped by hand: they would be clipped while scaled",
    "trainer_class": "the same",
    "class_attr": "the policy is set in another function than the model is built in",
    "enable_amp_later": "the policy is set in another function than the model is built in",
}


def repaired(code: str) -> str:
    return fix_text(code, "script.py", unsafe=True)


def codes(code: str) -> list[str]:
    return [finding.code for finding in check_text(code, "script.py")]


def plain(name: str) -> str:
    return re.sub(r"  # error: .*", "", MISTAKES[name])


@pytest.mark.parametrize("name", MISTAKES)
def test_a_repair_leaves_nothing_to_report_or_is_not_offered(name: str):
    code = plain(name)
    fixed = repaired(code)
    if name in BEYOND_REPAIR:
        assert [finding.fix for finding in check_text(code, "script.py")].count(None) > 0
        assert fixed == code
    else:
        ast.parse(fixed)
        assert fixed != code
        assert codes(fixed) == []
        assert repaired(fixed) == fixed


def test_the_article_gets_one_repair_for_all_four():
    fixes = [finding.fix for finding in check_text(ARTICLE, "article.py")]
    assert len(fixes) == 4
    assert len(set(fixes)) == 1
    assert fixes[0] is not None and fixes[0].safety is Safety.UNSAFE
    assert fix_text(ARTICLE, "article.py", unsafe=False) == ARTICLE


def test_the_article_repaired():
    fixed = repaired(ARTICLE)
    assert fixed.startswith(
        "import tensorflow as tf\n\n"
        "# 定义混合精度策略\npolicy = tf.keras.mixed_precision.Policy('mixed_float16')\n\n"
        "# 设置策略\ntf.keras.mixed_precision.set_global_policy(policy)\n\n"
        "# 定义模型\nmodel = tf.keras.models.Sequential([\n"
        "    tf.keras.layers.Dense(128, activation='relu', input_shape=(784,)),\n"
        "    tf.keras.layers.Dense(10, dtype='float32')\n])\n\n"
        "# 定义优化器\n"
        "optimizer = tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.Adam())\n\n"
        "# 定义损失函数\n"
        "loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)\n\n"
        "# 训练模型\n"
    )
    assert (
        "            loss = loss_fn(batch[1], predictions)\n"
        "            scaled_loss = optimizer.scale_loss(loss)\n\n"
        "        gradients = tape.gradient(scaled_loss, model.trainable_variables)\n"
    ) in fixed
    assert len(fixed) == len(ARTICLE) + len(
        "tf.keras.mixed_precision.LossScaleOptimizer()"
        "            scaled_loss = optimizer.scale_loss(loss)\nscaled_"
    ) + len("dtype='float32'") - len("activation='softmax'")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tf.keras.optimizers.Adam()", "make_optimizer()"),
        ("tf.keras.optimizers.Adam()", "tf.keras.optimizers.legacy.Adam()"),
        ("import tensorflow as tf\n", "import tensorflow as tf\nTF_USE_LEGACY_KERAS = 1\n"),
        ("policy = tf", "name = policy = tf"),
        ("        optimizer.apply", "        print(gradients)\n        optimizer.apply"),
        ("tape.gradient(loss,", "tape.gradient([loss],"),
    ],
)
def test_no_half_of_a_repair_is_offered(old: str, new: str):
    code = ARTICLE.replace(old, new)
    findings = check_text(code, "article.py")
    assert {"MP401", "MP501", "MP502"} <= {finding.code for finding in findings}
    if "make_optimizer" not in new:  # of which nobody can say that it scales nothing
        assert [finding.fix for finding in findings] == [None] * 4
        assert repaired(code) == code


def test_line_ends_quotes_and_indentation_stay_as_they_are():
    dos = ARTICLE.replace("\n", "\r\n")
    assert repaired(dos) == repaired(ARTICLE).replace("\n", "\r\n")
    double = ARTICLE.replace("'", '"')
    assert repaired(double) == repaired(ARTICLE).replace("'", '"')
    tabs = ARTICLE.replace("    ", "\t")
    assert repaired(tabs) == repaired(ARTICLE).replace("    ", "\t")
    bare = ARTICLE.rstrip("\n")
    assert repaired(bare) == repaired(ARTICLE).rstrip("\n")


HEAD = """import keras
keras.mixed_precision.set_global_policy("mixed_float16")
model = keras.Sequential([keras.layers.Dense(8), {head}])
model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits={logits}))
model.fit(x, y)
"""


@pytest.mark.parametrize(
    ("logits", "before", "after"),
    [
        ("False", 'keras.layers.Dense(3, "softmax")', 'Dense(3, "softmax", dtype="float32")'),
        ("False", "keras.layers.Softmax()", 'keras.layers.Softmax(dtype="float32")'),
        (
            "False",
            'keras.layers.Dense(3, "softmax", dtype="mixed_float16")',
            'Dense(3, "softmax", dtype="float32")',
        ),
        (
            "False",
            'keras.layers.Dense(\n    3,\n    activation="softmax",\n)',
            'Dense(\n    3,\n    activation="softmax",\n    dtype="float32",\n)',
        ),
        ("True", 'keras.layers.Dense(3, "softmax")', 'Dense(3, dtype="float32")'),
        (
            "True",
            'keras.layers.Dense(activation="softmax", units=3)',
            'Dense(dtype="float32", units=3)',
        ),
        (
            "True",
            'keras.layers.Softmax(name="p")',
            'keras.layers.Activation("linear", dtype="float32", name="p")',
        ),
        (
            "True",
            'keras.layers.Activation("softmax")',
            'keras.layers.Activation("linear", dtype="float32")',
        ),
    ],
)
def test_the_output_layer(logits: str, before: str, after: str):
    fixed = repaired(HEAD.format(head=before, logits=logits))
    assert after in fixed
    assert codes(fixed) == []


def test_an_activation_that_is_no_literal_is_left_alone():
    code = HEAD.format(head="keras.layers.Dense(3, activation=LAST)", logits="True")
    code = code.replace("import keras\n", 'import keras\nLAST = "softmax"\n')
    assert codes(code) == ["MP401", "MP502"]
    assert repaired(code) == code


def test_a_wrapper_that_is_asked_for_its_scale_stays():
    code = """import keras

keras.mixed_precision.set_global_policy("mixed_bfloat16")
model = keras.Sequential([keras.layers.Dense(24), keras.layers.Dense(4, dtype="float32")])
optimizer = keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD(1e-3))
model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y)
"""
    assert codes(code) == ["MP519"]
    assert "optimizer = keras.optimizers.SGD(1e-3)" in repaired(code)
    asked = code + "print(optimizer.dynamic_scale)\n"
    assert codes(asked) == ["MP519"]
    assert repaired(asked) == asked


def test_models_that_have_nothing_to_do_with_each_other_are_repaired_apart():
    other = """other = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(2)])
other.compile("adam", "mse")
other.fit(x, y)
"""
    code = HEAD.format(head='keras.layers.Dense(3, "softmax")', logits="True") + other
    fixes = {finding.span.start.row: finding.fix for finding in check_text(code, "script.py")}
    assert [fix.safety for fix in fixes.values() if fix] == [Safety.UNSAFE, Safety.SAFE]
    assert codes(repaired(code)) == []
    safe = fix_text(code, "script.py", unsafe=False)
    assert codes(safe) == ["MP401", "MP502"]


ACCURACY = """
right = [tf.argmax(model(x), 1, output_type=tf.int32) == tf.cast(y, tf.int32) for x, y in dataset]
print("accuracy", float(tf.reduce_mean(tf.cast(right, tf.float32))))
"""


def accuracy(code: str, folder: Path) -> float:
    script = folder / "script.py"
    script.write_text(code + ACCURACY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow not installed")
def test_the_repaired_article_learns_as_well_as_float32(tmp_path: Path):
    setting = "tf.keras.mixed_precision.set_global_policy(policy)\n"
    baseline = RUN.replace(setting, "").replace(", activation='softmax'", "")
    fixed = repaired(RUN)
    assert codes(fixed) == []
    assert accuracy(fixed, tmp_path) >= 0.99 * accuracy(baseline, tmp_path)
