"""The static half on Keras: what it reports, what it leaves alone, across functions and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from keras_lookalikes import LOOKALIKES
from keras_mistakes import MISTAKES

from mpaudit.audit import check, check_text

ARTICLE = Path(__file__).parents[1] / "fixtures" / "article" / "article_tensorflow.py"
Found = set[tuple[str, int]]


def marks(code: str) -> Found:
    rows = enumerate(code.splitlines(), 1)
    return {(rule, row) for row, line in rows for rule in re.findall(r"MP\d+", line)}


def found(code: str) -> Found:
    plain = re.sub(r"  # error: .*", "", code)
    return {(each.code, each.span.start.row) for each in check_text(plain, "script.py")}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_where_it_stands(name: str):
    assert marks(MISTAKES[name])
    assert found(MISTAKES[name]) == marks(MISTAKES[name])


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_is_left_alone(name: str):
    assert found(LOOKALIKES[name]) == set()


def test_the_article():
    findings = check_text(ARTICLE.read_text(encoding="utf-8"), str(ARTICLE))
    assert [(each.code, each.span.start.row) for each in findings] == [
        ("MP401", 6),
        ("MP502", 6),
        ("MP501", 19),
        ("MP503", 29),
    ]
    output = next(each for each in findings if each.code == "MP502")
    assert "as soon as the policy takes effect" in output.message
    policy = next(each for each in findings if each.code == "MP501")
    assert [related.span.start.row for related in policy.related] == [4, 28]


@pytest.mark.parametrize(
    ("imports", "prefix", "setting"),
    [
        ("import tensorflow as tf", "tf.keras", "tf.keras.mixed_precision.set_global_policy"),
        ("import keras", "keras", "keras.config.set_dtype_policy"),
        ("import keras", "keras", "keras.mixed_precision.set_dtype_policy"),
        ("import tf_keras", "tf_keras", "tf_keras.mixed_precision.set_global_policy"),
        ("from tensorflow import keras as k", "k", "k.mixed_precision.set_global_policy"),
        (
            "import keras\nfrom tensorflow.keras import mixed_precision as mp",
            "keras",
            "mp.experimental.set_policy",
        ),
        (
            "import keras\nfrom keras.mixed_precision import set_global_policy as enable",
            "keras",
            "enable",
        ),
    ],
)
@pytest.mark.parametrize("policy", ["'mixed_float16'", "POLICY", "NAMES['half']"])
def test_keras_goes_by_many_names(imports: str, prefix: str, setting: str, policy: str):
    code = f"""{imports}
POLICY = "mixed_float16"
NAMES = {{"half": POLICY}}
model = {prefix}.Sequential([{prefix}.layers.Dense(4), {prefix}.layers.Dense(2, dtype="float32")])
{setting}({policy})
model.compile("adam", "mse")
model.fit(x, y)
"""
    row = code[: code.index("model.compile")].count("\n")
    removed = {("MP703", row)} if "experimental" in setting else set()
    assert found(code) == {("MP501", row)} | removed


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_only_float16_needs_loss_scaling_and_a_float32_head(policy: str):
    code = MISTAKES["subclass_tape"].replace("mixed_float16", policy)
    assert found(code) == set()


def test_the_policy_decides_when_the_layer_is_built_not_when_it_is_used():
    code = """import keras
early = keras.layers.Dense(4)
keras.mixed_precision.set_global_policy("mixed_float16")
late = keras.layers.Dense(2)
model = keras.Sequential([late, early])
model.compile("adam", "mse")
model.fit(x, y)
"""
    assert found(code) == {("MP509", 3)}  # the output layer was built in float32
    assert found(code.replace("[late, early]", "[early, late]")) == {("MP502", 4), ("MP509", 3)}


def test_a_prediction_counts_as_use():
    code = """import keras
model = keras.applications.ResNet50()
keras.mixed_precision.set_global_policy("mixed_float16")
model.predict(images)
"""
    assert found(code) == {("MP501", 3)}


@pytest.fixture
def project(tmp_path: Path):
    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def found_in(folder: Path) -> set[tuple[str, str, int]]:
    findings = check([folder]).findings
    return {(Path(f.span.filename).name, f.code, f.span.start.row) for f in findings}


TRAIN = """import tensorflow as tf
import settings
from network import build
model = build()
optimizer = tf.keras.optimizers.Adam()
for x, y in data:
    with tf.GradientTape() as tape:
        loss = tf.keras.losses.mean_squared_error(y, model(x))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""
NETWORK = """from tensorflow.keras import Sequential, layers
def build():
    return Sequential([layers.Dense(4), layers.Dense(1)])
"""
SETTINGS = """from tensorflow.keras import mixed_precision
mixed_precision.set_global_policy("mixed_float16")
"""


def test_policy_model_and_loop_in_three_files(project):
    folder = project(train=TRAIN, network=NETWORK, settings=SETTINGS)
    assert found_in(folder) == {("train.py", "MP503", 10), ("network.py", "MP502", 3)}


def test_a_policy_in_a_file_that_is_imported_too_late(project):
    late = TRAIN.replace("import settings\n", "").replace("for x", "import settings\nfor x")
    folder = project(train=late, network=NETWORK.replace("(1)", "(1, dtype='float32')"))
    assert found_in(folder) == set()  # no such file: nothing is known of a policy
    project(settings=SETTINGS)
    assert found_in(folder) == {("settings.py", "MP501", 2), ("train.py", "MP503", 10)}
