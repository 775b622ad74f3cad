"""Which Keras is meant: by import, by requirement, by the command line, or not to be known."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mpaudit.cli import main
from mpaudit.config import Target
from mpaudit.source.text.module import Module
from mpaudit.source.trait.keras_version import generation

STANDALONE, BUNDLED = "keras.optimizers.Adam", "tensorflow.keras.optimizers.Adam"


def module_in(folder: Path, text: str = "", target: Target | None = None, **files: str) -> Module:
    """A module of a project with these files; the first underscore in a name stands for a dot."""
    (folder / ".git").mkdir()
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(content, encoding="utf-8")
    module = Module.parse(text, str(folder / "train.py"))
    module.target = target or Target()
    return module


@pytest.mark.parametrize(
    ("lines", "standalone", "bundled"),
    [
        ("numpy", None, None),
        ("tensorflow==2.10.1", 2, 2),
        ("tensorflow>=2.4,<2.16", 2, 2),
        ("tensorflow_gpu==2.4", 2, 2),
        ("tensorflow~=2.15.0", 2, 2),
        ("tensorflow>=2.16", 3, 3),
        ("tensorflow-cpu==2.21.0", 3, 3),
        ("tensorflow>=2.4", None, None),
        ("tensorflow", None, None),
        ("keras>=3", 3, 3),
        ("Keras<3", 2, 2),
        ("keras>=2.6", None, None),
        ("keras>=2.6\ntensorflow==2.9", 2, 2),
        ("keras>=3\ntensorflow>=2.4", 3, 3),
        ("tensorflow-datasets<4\ntensorflow-addons==0.20", None, None),
        ("keras==3.99", 3, 3),
        ("keras==4.0", None, None),
        ("keras>=99", None, None),
        ("tensorflow==3.1", None, None),
        ("keras>=3,<2", None, None),
        ("keras==banana", None, None),
        ("keras=", None, None),
        ("keras @ git+https://github.com/keras-team/keras", None, None),
        ("tf_keras==9", None, None),
        ("-r missing.txt", None, None),
    ],
)
def test_requirements(
    tmp_path: Path, lines: str, standalone: int | None, bundled: int | None
) -> None:
    module = module_in(tmp_path, requirements_txt=lines + "\n")
    assert generation(STANDALONE, module) == standalone
    assert generation(BUNDLED, module) == bundled


def test_other_files_state_requirements_too(tmp_path: Path) -> None:
    conda = "dependencies:\n  - python=3.8\n  - tensorflow-gpu=2.4.1=py38\n  - pip:\n    - x\n"
    poetry = '[tool.poetry.dependencies]\nTensorFlow = "^2.16"\n'
    for number, (files, expected) in enumerate(
        [({"environment_yml": conda}, 2), ({"pyproject_toml": poetry}, 3)]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert generation(BUNDLED, module_in(folder, **files)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "tf_keras.optimizers.Adam",
        "tensorflow.python.keras.optimizers.Adam",
        "tensorflow.compat.v1.keras.Model",
        "tensorflow.keras.mixed_precision.experimental.LossScaleOptimizer",
        "keras.optimizers.legacy.SGD",
    ],
)
def test_names_that_only_keras_2_has(tmp_path: Path, name: str) -> None:
    module = module_in(tmp_path, target=Target(keras=3), requirements_txt="tensorflow>=2.16\n")
    assert generation(name, module) == 2


@pytest.mark.parametrize(
    ("text", "bundled"),
    [
        ('import os\nos.environ["TF_USE_LEGACY_KERAS"] = "1"\n', 2),
        ("os.environ.setdefault('TF_USE_LEGACY_KERAS', 'True')\n", 2),
        ("os.environ.update(TF_USE_LEGACY_KERAS='0')\n", 3),
        ('os.environ["TF_USE_LEGACY_KERAS"] = flag\n', None),
    ],
)
def test_the_switch_to_keras_2(tmp_path: Path, text: str, bundled: int | None) -> None:
    module = module_in(tmp_path, text, requirements_txt="tensorflow>=2.16\n")
    assert generation(BUNDLED, module) == bundled
    assert generation(STANDALONE, module) == 3  # which it does not concern


@pytest.mark.parametrize("version", [2, 3])
def test_the_command_line_decides_over_requirements(tmp_path: Path, version: int) -> None:
    pins = f"tensorflow{'>=2.16' if version == 2 else '<2.16'}\n"
    module = module_in(tmp_path, target=Target(keras=version), requirements_txt=pins)
    assert generation(STANDALONE, module) == generation(BUNDLED, module) == version


@pytest.mark.parametrize(
    "text",
    [
        "if keras.__version__ >= '3':\n    pass\n",
        "NEW = Version(tf.__version__) >= Version('2.16')\n",
        "if keras_3():\n    pass\n",
        "major = int(tf.__version__.split('.')[0])\n",
    ],
)
def test_a_file_that_compares_versions_is_for_both(tmp_path: Path, text: str) -> None:
    module = module_in(tmp_path, text, requirements_txt="tensorflow>=2.16\n")
    assert generation(BUNDLED, module) is None
    assert generation(STANDALONE, module) is None
    assert generation("tf_keras.Model", module) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("print(keras.__version__)\n", None),
        ("x = keras.ops.mean(y)\n", 3),
        ("from keras import layers, ops\n", 3),
        ("keras.config.set_dtype_policy(p)\n", 3),
    ],
)
def test_what_only_keras_3_has_tells_where_nothing_is_required(
    tmp_path: Path, text: str, expected: int | None
) -> None:
    assert generation(STANDALONE, module_in(tmp_path, text)) == expected
    pinned = tmp_path / "pinned"
    pinned.mkdir()
    assert generation(STANDALONE, module_in(pinned, text, requirements_txt="keras<3\n")) == 2


@pytest.mark.parametrize("version", ["1", "4", "x", "3.5", ""])
def test_a_version_that_is_none_is_refused(version: str) -> None:
    done = CliRunner().invoke(main, ["check", "--target-keras", version, "."])
    assert done.exit_code == 2
    assert f"Invalid value for '--target-keras': '{version}' is not one of '2', '3'" in done.output


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("target-keras = 7", "pyproject.toml:2: target-keras: takes 2 or 3, not 7"),
        ('target-keras = "three"', "pyproject.toml:2: target-keras: takes 2 or 3, not 'three'"),
        ("target-keras = [", "pyproject.toml:3: it is no TOML"),
    ],
)
def test_a_setting_that_is_no_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, said: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.mpaudit]\n{table}\n")
    (tmp_path / "train.py").write_text("import keras\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 2
    assert said in done.output
