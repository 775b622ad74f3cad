"""MP703: how Keras' experimental mixed precision is rewritten, and where it is left alone."""

from __future__ import annotations

import ast
from pathlib import Path
from textwrap import dedent

import pytest

from mpaudit.checks.experimental_keras_policy import check
from mpaudit.config import Target
from mpaudit.finding import Problem
from mpaudit.fix import Fix, Safety, apply
from mpaudit.source.text.module import Module


def checked(
    text: str, filename: str = "/nowhere/train.py", keras: int | None = None
) -> list[tuple[Problem, Fix | None]]:
    """What is found in `text`, with the fixes."""
    module = Module.parse(text, filename)
    module.target = Target(keras=keras)
    return list(check(module))


def fixed(text: str, keras: int | None = None) -> str:
    """`text` after the one fix, which must be safe, parse, and leave nothing to find."""
    ((_, fix),) = checked(text, keras=keras)
    assert fix is not None and fix.safety is Safety.SAFE
    new, applied = apply(text, [fix])
    assert applied == (fix,)
    ast.parse(new)
    assert checked(new, keras=keras) == []
    return new


REWRITES = [
    (
        "import tensorflow as tf\np = tf.keras.mixed_precision.experimental.Policy('mixed_float16')\n"
        "tf.keras.mixed_precision.experimental.set_policy(p)\n",
        "import tensorflow as tf\np = tf.keras.mixed_precision.Policy('mixed_float16')\n"
        "tf.keras.mixed_precision.set_global_policy(p)\n",
    ),
    (
        "from tensorflow.keras.mixed_precision import experimental as mixed_precision\n"
        "mixed_precision.set_policy(mixed_precision.Policy('mixed_float16', 'dynamic'))\n",
        "from tensorflow.keras import mixed_precision\n"
        "mixed_precision.set_global_policy(mixed_precision.Policy('mixed_float16'))\n",
    ),
    (
        "from keras.mixed_precision import experimental\nd = experimental.global_policy().compute_dtype\n",
        "from keras import mixed_precision\nd = mixed_precision.global_policy().compute_dtype\n",
    ),
    (
        "import tensorflow.keras.mixed_precision.experimental as prec\nprec.set_policy('mixed_float16')\n",
        "import tensorflow.keras.mixed_precision as prec\nprec.set_global_policy('mixed_float16')\n",
    ),
    (
        "from tensorflow.keras.mixed_precision.experimental import (\n    Policy,  # both\n"
        "    set_policy,\n)\nset_policy(Policy('mixed_float16'))\n",
        "from tensorflow.keras.mixed_precision import (\n    Policy,  # both\n"
        "    set_global_policy,\n)\nset_global_policy(Policy('mixed_float16'))\n",
    ),
    (
        "from tensorflow.keras.mixed_precision.experimental import set_policy as use\n"
        "def f():\n    use('float32')\n",
        "from tensorflow.keras.mixed_precision import set_global_policy as use\n"
        "def f():\n    use('float32')\n",
    ),
    (
        "from tensorflow.keras import mixed_precision as mp\nmp.experimental.set_policy('float32')\n",
        "from tensorflow.keras import mixed_precision as mp\nmp.set_global_policy('float32')\n",
    ),
    (
        "import tensorflow as tf\nprec = tf.keras.mixed_precision.experimental\n"
        "prec.set_policy('float32')\n",
        "import tensorflow as tf\nprec = tf.keras.mixed_precision\nprec.set_global_policy('float32')\n",
    ),
    (
        "import tensorflow as tf\no = tf.keras.mixed_precision.experimental.LossScaleOptimizer(\n"
        "    optimizer=make(1, 2),\n    loss_scale='dynamic',\n)\n",
        "import tensorflow as tf\no = tf.keras.mixed_precision.LossScaleOptimizer(\n"
        "    inner_optimizer=make(1, 2),\n)\n",
    ),
    (
        "from keras import mixed_precision as mp\np = mp.Policy('mixed_float16', loss_scale='dynamic')\n",
        "from keras import mixed_precision as mp\np = mp.Policy('mixed_float16')\n",
    ),
]


@pytest.mark.parametrize(("before", "after"), REWRITES)
def test_rewrites(before: str, after: str) -> None:
    assert fixed(before) == after


def test_a_fixed_scale_has_a_successor_in_keras_2_only() -> None:
    text = "import tensorflow as tf\nx = tf.keras.mixed_precision.experimental.LossScaleOptimizer(o, 128)\n"
    assert fixed(text, keras=2).endswith(
        "LossScaleOptimizer(o, dynamic=False, initial_scale=128)\n"
    )
    for keras in (3, None):
        ((problem, fix),) = checked(text, keras=keras)
        assert fix is None and "not the usual, dynamic one" in problem.consequence


UNREPAIRED = {
    "get_layer_policy has no successor": """
        from tensorflow.keras.mixed_precision import experimental as prec
        prec.get_layer_policy(layer)
    """,
    "not the usual, dynamic one": """
        import tensorflow as tf
        tf.keras.mixed_precision.experimental.Policy("mixed_float16", loss_scale=scale)
    """,
    "cannot be told apart": """
        import tensorflow as tf
        tf.keras.mixed_precision.experimental.Policy(*arguments)
    """,
    "set_global_policy is taken": """
        from tensorflow.keras.mixed_precision.experimental import set_policy
        def set_global_policy(): ...
    """,
    "everything is imported from it": "from keras.mixed_precision.experimental import *\n",
    "brings other names": """
        from tensorflow.keras.mixed_precision import Policy, experimental
    """,
}


@pytest.mark.parametrize(("reason", "text"), UNREPAIRED.items(), ids=UNREPAIRED.keys())
def test_what_has_no_successor_is_reported_with_the_reason(reason: str, text: str) -> None:
    ((problem, fix),) = checked(dedent(text))
    assert fix is None
    assert reason in problem.consequence


@pytest.mark.parametrize(
    ("requirement", "reported", "repaired"),
    [
        ("tensorflow==2.3.1", False, False),
        ("tensorflow<2.4", False, False),
        ("tensorflow>=2.1", True, False),
        ("tensorflow>=2.4", True, True),
        ("tensorflow", True, True),
    ],
)
def test_the_project_says_what_it_is_for(
    tmp_path: Path, requirement: str, reported: bool, repaired: bool
) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "requirements.txt").write_text(requirement + "\n", encoding="utf-8")
    found = checked(REWRITES[0][0], str(tmp_path / "train.py"))
    assert bool(found) == reported
    assert bool(found and found[0][1]) == repaired


def test_the_graph_rewrite_is_only_shown() -> None:
    text = (
        "import tensorflow as tf\nif amp:\n"
        "    opt = tf.train.experimental.enable_mixed_precision_graph_rewrite(opt, loss_scale='dynamic')\n"
    )
    ((_, fix),) = checked(text)
    assert fix is not None and fix.safety is Safety.SUGGESTION
    new, _ = apply(text, [fix])
    assert new == (
        "import tensorflow as tf\nif amp:\n"
        "    tf.keras.mixed_precision.set_global_policy('mixed_float16')"
        "  # must run before the first layer is built\n"
        "    opt = tf.keras.mixed_precision.LossScaleOptimizer(opt)\n"
    )


def test_the_first_place_is_reported_and_the_others_are_related() -> None:
    ((problem, _),) = checked(REWRITES[0][0])
    assert problem.span.start.row == 2
    assert [each.span.start.row for each in problem.related] == [3]
