"""Loss scaling in Keras 2 and 3: what is reported, and repaired, depends on which Keras is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.config import Target
from mpaudit.finding import Finding
from mpaudit.fix import Safety

UNKNOWN, TWO, THREE = Target(), Target(keras=2), Target(keras=3)
LOOP = """import tensorflow as tf
tf.keras.mixed_precision.set_global_policy("mixed_float16")
model = tf.keras.Sequential([tf.keras.layers.Dense(8), tf.keras.layers.Dense(2, dtype="float32")])
optimizer = {optimizer}
loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
for x, y in data:
    with tf.GradientTape() as tape:
        loss = loss_fn(y, model(x))
        {scale}
    gradients = tape.gradient(scaled, model.trainable_variables)
    {between}
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
"""
WRAPPED = "tf.keras.mixed_precision.LossScaleOptimizer(tf.keras.optimizers.SGD(0.1))"
PLAIN = "tf.keras.optimizers.SGD(0.1)"
OLD, NEW = "scaled = optimizer.get_scaled_loss(loss)", "scaled = optimizer.scale_loss(loss)"
UNSCALED = "gradients = optimizer.get_unscaled_gradients(gradients)"
CLIPPED = "gradients, _ = tf.clip_by_global_norm(gradients, 1.0)"


def loop(optimizer: str = WRAPPED, scale: str = "scaled = loss", *between: str) -> str:
    return LOOP.format(optimizer=optimizer, scale=scale, between="\n    ".join(between) or "pass")


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """A file of a project that states no requirement."""
    (tmp_path / ".git").mkdir()
    return str(tmp_path / "train.py")


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("code", "unknown", "two", "three"),
    [
        (loop(PLAIN), ["MP503"], ["MP503"], ["MP503"]),
        (loop(), ["MP504"], ["MP503"], ["MP504"]),
        (loop(WRAPPED, NEW), [], [], []),
        (loop(WRAPPED, OLD), ["MP505"], ["MP505"], ["MP508"]),
        (loop(WRAPPED, OLD, UNSCALED), [], [], ["MP508", "MP508"]),
        (loop(WRAPPED, "scaled = loss", UNSCALED), ["MP504"], ["MP504"], ["MP508"]),
        (loop(WRAPPED, NEW, CLIPPED), ["MP506"], [], ["MP506"]),
        (loop(WRAPPED, OLD, CLIPPED, UNSCALED), ["MP506"], ["MP506"], ["MP508", "MP508"]),
        (loop(WRAPPED, OLD, UNSCALED, CLIPPED), [], [], ["MP508", "MP508"]),
        (loop(WRAPPED, OLD, UNSCALED, UNSCALED), ["MP518"], ["MP518"], ["MP508"] * 3),
    ],
)
def test_which_keras_decides(
    nowhere: str, code: str, unknown: list[str], two: list[str], three: list[str]
) -> None:
    for target, expected in ((UNKNOWN, unknown), (TWO, two), (THREE, three)):
        found = check_text(code, nowhere, target=target)
        assert codes([each for each in found if each.code != "MP703"]) == expected, target


@pytest.mark.parametrize(
    ("optimizer", "target", "safety"),
    [
        (PLAIN, TWO, None),
        (PLAIN, THREE, Safety.UNSAFE),
        (PLAIN, UNKNOWN, Safety.UNSAFE),
        (WRAPPED, TWO, None),
        (WRAPPED, THREE, Safety.SAFE),
        (WRAPPED, UNKNOWN, Safety.UNSAFE),
    ],
)
def test_keras_3_is_not_repaired_into_keras_2(
    nowhere: str, optimizer: str, target: Target, safety: Safety | None
) -> None:
    code = loop(optimizer).replace("        scaled = loss\n", "").replace("(scaled,", "(loss,")
    (found,) = check_text(code, nowhere, target=target)
    assert (found.fix and found.fix.safety) == safety
    assert ("--target-keras" in (found.fix.message if found.fix else "")) == (
        target == UNKNOWN and safety is not None
    )


def test_what_keras_2_does_is_said_where_nobody_knows(nowhere: str) -> None:
    (found,) = check_text(loop(), nowhere)
    assert "with Keras 3" in found.consequence
    assert "with Keras 2" in found.consequence


def repaired(code: str, target: Target = THREE) -> str:
    return fix_text(code, "train.py", unsafe=False, target=target)


@pytest.mark.parametrize(
    ("clip", "argument"),
    [
        (CLIPPED, "global_clipnorm=1.0"),
        ("gradients = [tf.clip_by_norm(g, 2.5) for g in gradients]", "clipnorm=2.5"),
        ("gradients = [tf.clip_by_value(g, -1.0, 1.0) for g in gradients]", "clipvalue=1.0"),
        (
            "gradients = [tf.clip_by_norm(g, 1.0) if g is not None else None for g in gradients]",
            "clipnorm=1.0",
        ),
    ],
)
def test_a_clip_moves_into_the_inner_optimizer(clip: str, argument: str) -> None:
    fixed = repaired(loop(WRAPPED, NEW, clip))
    assert fixed == loop(WRAPPED.replace("SGD(0.1)", f"SGD(0.1, {argument})"), NEW, "").replace(
        "    pass\n", ""
    )


@pytest.mark.parametrize(
    "code",
    [
        loop(WRAPPED, NEW, "gradients, _ = tf.clip_by_global_norm(gradients, limit)"),
        loop(WRAPPED, NEW, "gradients, norm = tf.clip_by_global_norm(gradients, 1.0)"),
        loop(WRAPPED, NEW, "gradients = [tf.clip_by_value(g, -1.0, 2.0) for g in gradients]"),
        loop(WRAPPED, NEW, "clipped, _ = tf.clip_by_global_norm(gradients, 1.0)").replace(
            "zip(gradients", "zip(clipped"
        )
        + "    print(clipped)\n",
        loop(WRAPPED.replace("SGD(0.1)", "SGD(0.1, clipnorm=1.0)"), NEW, CLIPPED),
        "def make():\n    return "
        + WRAPPED
        + "\n"
        + loop("make()", NEW, CLIPPED)
        + "other = make()\n",
    ],
)
def test_no_clip_is_moved_that_would_mean_something_else(code: str) -> None:
    code = "import tensorflow as tf\n" + code
    assert "MP506" in codes(check_text(code, "train.py", target=THREE))
    assert repaired(code) == code


def test_a_clip_goes_below_unscaling_in_keras_2() -> None:
    before, after = loop(WRAPPED, OLD, CLIPPED, UNSCALED), loop(WRAPPED, OLD, UNSCALED, CLIPPED)
    assert repaired(before, TWO) == after
    kept = loop(WRAPPED, OLD, CLIPPED, "print(gradients)", UNSCALED)
    assert repaired(kept, TWO) == kept


def test_unscaling_is_added_where_the_gradients_are_taken() -> None:
    assert repaired(loop(WRAPPED, OLD), TWO) == loop(WRAPPED, OLD, "X").replace(
        "    X\n", f"    {UNSCALED}\n    pass\n"
    )
    flagged = loop(WRAPPED, "scaled = optimizer.get_scaled_loss(loss) if amp else loss")
    assert codes(check_text(flagged, "train.py", target=TWO)) == ["MP505"]
    assert repaired(flagged, TWO) == flagged  # unscaling would have to stand under the same flag


@pytest.mark.parametrize(
    ("call", "argument"),
    [(f'{WRAPPED[:-1]}, "dynamic")', ', "dynamic"'), (f"{WRAPPED[:-1]}, True)", ", True")],
)
def test_an_argument_that_asks_for_the_default_is_dropped(call: str, argument: str) -> None:
    code = loop(call, NEW)
    (found,) = check_text(code, "train.py", target=THREE)
    assert found.code == "MP508"
    assert repaired(code) == code.replace(argument, "")


def test_old_methods_go_together_or_stay() -> None:
    both = loop(WRAPPED, OLD, UNSCALED)
    assert repaired(both) == loop(WRAPPED, NEW, "X").replace("    X\n", "")
    clipped = loop(WRAPPED, OLD, UNSCALED, CLIPPED)
    assert repaired(clipped) == clipped  # they would be clipped while scaled
