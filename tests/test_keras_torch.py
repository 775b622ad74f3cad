"""Keras 3 on torch: layers by Keras' paths, and every number against what torch alone computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mpaudit.runtime.trace import Reader

ROOT = Path(__file__).parents[1]
SCRIPT = Path(__file__).with_name("keras_torch_script.py")

if find_spec("keras") is None or find_spec("torch") is None:
    pytest.skip("Keras and torch are not both installed", allow_module_level=True)

Piece = Callable[[str], tuple[Reader, Any]]


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Piece:
    """The trace of a piece of the script, in which no probe complains, and what it said."""
    folder = tmp_path_factory.mktemp("keras-torch")
    start(folder, str(SCRIPT))

    def found(name: str) -> tuple[Reader, Any]:
        reader = Reader(folder / f"{name}.mpa")
        assert reader.meta["probe_errors"] == []
        return reader, json.loads((folder / f"{name}.json").read_text())

    return found


def rules(reader: Reader) -> list[str]:
    return sorted(each.rule for each in reader.problems())


def attempts(reader: Reader) -> list[tuple[bool | None, float | None]]:
    return [
        (row.applied, row.scale)
        for row in reader.attempts()
        for _ in range(row.first, row.last + 1)
    ]


def test_skips_and_scales_are_those_of_the_optimizer(piece: Piece) -> None:
    reader, steps = piece("fit")
    assert attempts(reader) == [(each["applied"], each["scale"]) for each in steps]
    assert {each["applied"] for each in steps} == {True, False}
    assert [each.type for each in reader.optimizers()] == ["LossScaleOptimizer"]
    assert reader.meta["losses"]["means"] == pytest.approx(
        [each["loss"] for each in steps], rel=1e-4
    )


def test_numbers_are_those_that_torch_alone_computes(piece: Piece) -> None:
    reader, steps = piece("fit")
    found = {(row.layer, row.phase): row.amax for row in reader.statistics()}
    for name in ("first", "second", "out"):
        assert found[name, "forward"] == pytest.approx(max(each[name] for each in steps), rel=1e-6)
    for name in ("first", "second"):
        largest = max(each[f"gradient of {name}"] for each in steps)
        assert found[name, "backward"] == pytest.approx(largest, rel=2e-3)


def test_layers_have_the_paths_and_policies_of_keras(piece: Piece) -> None:
    reader, _ = piece("fit")
    assert [each.path for each in reader.layers()] == ["net", "first", "second", "out"]
    assert {each.calls_per_step for each in reader.layers()} == {1}
    mixed = {"policy": "mixed_float16", "compute": "float16"}
    full = {"policy": "float32", "compute": "float32"}
    assert reader.meta["policies"] == {"net": mixed, "first": mixed, "second": mixed, "out": full}
    flow = reader.dtypes()
    assert flow["first"] == {
        "input": ["float16"],
        "output": ["float16"],
        "parameter": ["float32"],
        "parameter_grad": ["float32"],
        "output_grad": ["float16"],
    }
    assert (reader.meta["framework"], reader.meta["keras_backend"]) == ("keras", "torch")
    assert {"keras", "torch"} <= set(reader.meta["versions"])


def test_layers_of_torch_are_named_within_those_of_keras(piece: Piece) -> None:
    reader, said = piece("loop")
    paths = [each.path for each in reader.layers()]
    inner = ["hand/second/module", "hand/second/module.0", "hand/second/module.1"]
    assert paths == ["hand", "hand/first", "hand/second", *inner, "hand/out"]
    assert reader.meta["losses"]["means"] == pytest.approx(said["losses"])
    assert attempts(reader)[-1][1] == said["scale"]


def test_a_scaler_of_torch_steps_layers_of_keras(piece: Piece) -> None:
    reader, scales = piece("torchs")
    assert [scale for _, scale in attempts(reader)] == scales
    applied = [now >= before for before, now in pairwise(scales)]
    assert [each for each, _ in attempts(reader)][:-1] == applied
    assert False in applied


def test_the_origin_is_one_layer_and_no_model_around_it(piece: Piece) -> None:
    reader, _ = piece("overflows")
    forward = [each for each in reader.incidents() if each.rule == "activation-overflow"]
    assert [(each.layer, each.judgement) for each in forward] == [("second", "defect")]
    assert "activation-overflow" in rules(reader)


def test_casts_are_the_conversions_of_torch(piece: Piece) -> None:
    reader, converted = piece("casts")
    found = {(row.layer, row.what) for row in reader.casts()}
    assert ("first", "parameter") in found and ("out", "activation") in found
    expected: Counter[tuple[str, str]] = Counter()
    for source, target, _, number in converted:
        expected[source, target] += number
    counts: Counter[tuple[str, str]] = Counter()
    for row in reader.casts():
        counts[row.source, row.target] += row.count
    steps = reader.meta["cast_steps"]
    assert counts == Counter({name: number * steps for name, number in expected.items()})
    written = sum(size * number for *_, size, number in converted)
    assert sum(row.bytes for row in reader.casts()) == written * steps
    assert reader.meta["float32_operations"]["out"] == {"Dense": {"policy": steps}}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("unscaled", "missing-scale-loss"),
        ("unwrapped", "keras-loop-without-loss-scaling"),
        ("probabilities", "softmax-with-from-logits"),
        ("late", "policy-after-model"),
        ("beyond", "half-input-range"),
    ],
)
def test_mistakes_are_found(piece: Piece, name: str, rule: str) -> None:
    reader, said = piece(name)
    found = [each for each in reader.problems() if each.rule == rule]
    assert len(found) == 1
    assert Path(found[0].span.filename) == SCRIPT
    if name == "beyond":
        assert f"{said:.4g}" in found[0].message


@pytest.mark.parametrize("name", ["fit", "default", "loop", "bfloat16", "torchs", "light"])
def test_good_code_has_no_finding(piece: Piece, name: str) -> None:
    assert rules(piece(name)[0]) == []


def test_a_light_look_reads_gradients_of_parameters(piece: Piece) -> None:
    reader, steps = piece("light")
    assert attempts(reader) == [(each["applied"], each["scale"]) for each in steps]
    assert {row.phase for row in reader.statistics()} == {"update"}
    assert {row.layer for row in reader.statistics()} == {"first", "second", "out"}


WHOLE = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import hashlib, keras, numpy, torch
keras.utils.set_random_seed(0)
keras.config.set_dtype_policy("mixed_float16")
model = keras.Sequential([
    keras.layers.Dense(16, activation="relu", name="first"),
    keras.layers.Dropout(0.5),
    keras.layers.Dense(16, kernel_initializer=keras.initializers.Constant({large}), name="second"),
    keras.layers.Dense(4, dtype="float32", name="out"),
])
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
random = numpy.random.default_rng(0)
samples = random.normal(size=(80, 12)).astype("float32")
model.fit(samples, random.integers(0, 4, 80), batch_size=8, verbose=0)
weights = b"".join(each.tobytes() for each in model.get_weights())
print(hashlib.sha256(weights).hexdigest(), torch.cuda.is_available(), torch.rand(1).item())
"""


@pytest.mark.slow
def test_a_run_computes_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(WHOLE.replace("{large}", "0.1"))
    plain = start(tmp_path, str(script)).stdout.split()
    watched = start(tmp_path, "-m", "mpaudit", "run", "-o", "run.mpa", str(script)).stdout.split()
    assert (watched[0], watched[2]) == (plain[0], plain[2])
    reader = Reader(tmp_path / "run.mpa")
    assert rules(reader) == []
    assert reader.meta["probe_errors"] == []
    assert not reader.meta["emulated"]  # Keras runs where it would have run


@pytest.mark.slow
def test_advice_is_put_into_effect(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(WHOLE.replace("{large}", "3e4"))
    start(tmp_path, "-m", "mpaudit", "run", "-o", "run.mpa", "--apply", "10", str(script))
    reader = Reader(tmp_path / "run.mpa")
    assert reader.meta["applied"]["advice"]["float32"] == ["sequential/second"]
    assert reader.meta["policies"]["sequential/second"]["compute"] == "float32"
    assert not [each for each in reader.incidents() if each.judgement == "defect"]


@pytest.mark.slow
def test_compiled_code_stays_compiled_and_its_steps_are_seen(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    compiled = WHOLE.replace("{large}", "0.1").replace("True))", "True), jit_compile=True)")
    script.write_text(compiled.replace("    keras.layers.Dropout(0.5),\n", ""))
    watched = start(tmp_path, "-m", "mpaudit", "run", "-o", "run.mpa", str(script)).stdout.split()
    plain = start(tmp_path, str(script)).stdout.split()
    assert (watched[0], watched[2]) == (plain[0], plain[2])
    reader = Reader(tmp_path / "run.mpa")
    assert reader.meta["probe_errors"] == []
    assert (reader.meta["compiled"], reader.meta["complete"]) == (True, True)
    assert attempts(reader) == [(True, 2.0**15)] * 10
