"""Layers on two replicas of a MirroredStrategy: every number, computed replica by replica without it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from keras_watched import attempts, numbers, octaves, read

numpy = pytest.importorskip("numpy")

SCRIPT = Path(__file__).with_name("keras_replicas.py")
STEPS, REPLICAS, BAD = 3, 2, 1
PLACES = {"dense": ("model/dense", "float16"), "head": ("model/head", "float32")}


Watched = Callable[..., tuple[dict[str, Any], Path]]
"""What a run under the probe printed, and the folder of its trace."""


@cache
def trained(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=SCRIPT.parents[1],
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """Runs under the probe, each made once for all tests of it."""

    @cache
    def run(how: str, *options: str) -> tuple[dict[str, Any], Path]:
        folder = tmp_path_factory.mktemp(how)
        return trained(how, str(folder / "run.mpa"), *options), folder

    return run


def arrays(tensors: list[Any]) -> list[Any]:
    return [numpy.array(each) for each in tensors]


def largest(tensors: list[Any]) -> float:
    return max(float(numpy.abs(each[numpy.isfinite(each)]).max(initial=0)) for each in tensors)


@pytest.mark.parametrize(
    ("how", "strategy"),
    [
        ("fit", "mirrored"),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in (
                ("eager", "mirrored"),
                ("function", "mirrored"),
                ("fit", "one"),
                ("fit", "multi"),
            )
        ),
    ],
)
def test_numbers_of_all_replicas_are_joined(watched: Watched, how: str, strategy: str) -> None:
    options = () if strategy == "mirrored" else ("--strategy", strategy)
    seen, folder = watched(how, *options)
    replicas = 1 if options else REPLICAS
    with read(folder) as reader:
        found, steps = numbers(reader), attempts(reader)
        histograms, layers = reader.histograms(), reader.layers()
        incidents, peaks = reader.incidents(), reader.peaks()
    assert {(row.layer, row.phase) for row in found.values()} == {
        (layer, phase) for layer, _ in PLACES.values() for phase in ("forward", "backward")
    }
    for name, (layer, dtype) in PLACES.items():
        for phase in ("forward", "backward"):
            row, tensors = found[layer, phase], arrays(seen["held"][f"{name} {phase}"])
            assert (row.dtype, row.calls) == (dtype, STEPS * replicas)
            assert row.elements == row.zeros_of == sum(each.size for each in tensors)
            assert row.inf == sum(int(numpy.isinf(each).sum()) for each in tensors)
            assert row.nan == sum(int(numpy.isnan(each).sum()) for each in tensors)
            assert row.zeros == sum(int((each == 0).sum()) for each in tensors)
            assert row.amax == pytest.approx(largest(tensors), rel=2e-3)
            bad = not all(numpy.isfinite(each).all() for each in tensors)
            assert (row.first_bad_step, row.last_bad_step) == ((BAD, BAD) if bad else (None, None))
    assert steps == {0: (True, 512.0), 1: (False, 512.0), 2: (True, 256.0)}
    assert [(each.path, each.calls) for each in layers] == [
        ("model/dense", STEPS * replicas),
        ("model/head", STEPS * replicas),
    ]
    told = {(each.kind, each.layer, each.first_step, each.last_step) for each in incidents}
    assert ("activation-overflow", "model/dense", BAD, BAD) in told
    for name, (layer, dtype) in PLACES.items():
        kinds = {"activation": "forward", "gradient": "backward", "weight_gradient": ""}
        for what, phase in kinds.items():
            of = "float32" if what == "weight_gradient" else dtype
            tensors = arrays(seen["held"][f"{name} {phase or what}"])
            counted = [each for each in histograms[layer] if each.what == what]
            assert {each.dtype for each in counted} == {of}
            assert sum(each.tensors for each in counted) == len(tensors)
            assert sum(each.elements for each in counted) == sum(each.size for each in tensors)
            bins = sum((Counter(each.bins) for each in counted), Counter())
            assert bins == sum(map(octaves, tensors), Counter())
    assert peaks


def test_a_light_look_at_replicas_measures_the_gradients_of_parameters(watched: Watched) -> None:
    seen, folder = watched("light")
    with read(folder) as reader:
        found, steps = numbers(reader), attempts(reader)
    assert {phase for _, phase in found} == {"update"}
    for name, (layer, _) in PLACES.items():
        row, tensors = found[layer, "update"], arrays(seen["held"][f"{name} weight_gradient"])
        assert (row.calls, row.elements) == (len(tensors), sum(each.size for each in tensors))
        assert row.amax == pytest.approx(largest(tensors), rel=2e-3)
    assert steps == {0: (True, 512.0), 1: (False, 512.0), 2: (True, 256.0)}


@pytest.mark.parametrize("how", ["fit", pytest.param("function", marks=pytest.mark.slow)])
def test_replicas_train_to_the_same_bits(watched: Watched, how: str) -> None:
    assert trained(how)["weights"] == watched(how)[0]["weights"]


@pytest.mark.parametrize(("how", "batch"), [("fit", 8), ("odd", 7), ("eager", 8), ("function", 8)])
def test_casts_of_all_replicas_are_counted(watched: Watched, how: str, batch: int) -> None:
    """What a step casts is what the model's graph does for each replica, of its samples."""
    unwatched = trained("fit")
    with read(watched(how)[1]) as reader:
        found, steps = reader.casts(), reader.meta["cast_steps"]
    assert steps == (2 if how == "eager" else 1)
    counts: Counter[tuple[str, str]] = Counter()
    for row in found:
        counts[row.source, row.target] += row.count
    expected = Counter((source, target) for source, target, *_ in unwatched["casts"])
    assert counts == {kind: REPLICAS * steps * count for kind, count in expected.items()}
    fixed = sum(each for *_, each, _ in unwatched["casts"])
    written = sum(each for *_, each in unwatched["casts"])
    assert fixed > 0 < written
    assert sum(row.bytes for row in found) == steps * (REPLICAS * fixed + batch * written)
    assert {row.layer for row in found} == {"model/dense", "model/head"}


@pytest.mark.parametrize("bad", ["inputs", "targets"])
@pytest.mark.parametrize("replica", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("package", ["keras", pytest.param("tf_keras", marks=pytest.mark.slow)])
def test_the_replica_that_overflows_is_told(
    watched: Watched, package: str, replica: int, bad: str
) -> None:
    """Keras 3 skips a step by what the first replica finds; tf_keras adds gradients up before."""
    chosen = ("--keras", package), ("--replica", str(replica)), ("--bad", bad)
    left = ("--keras", "keras"), ("--replica", "0"), ("--bad", "inputs")  # as the program has them
    options = [word for each in chosen if each not in left for word in each]
    seen, folder = watched("fit", *options)
    place, layer = ("dense forward", "model/dense"), "dense"
    if bad == "targets":
        place, layer = ("dense backward", "model/head"), "head"
    tensors = arrays(seen["held"][place[0]])
    finite = [bool(numpy.isfinite(each).all()) for each in tensors[: (BAD + 1) * REPLICAS]]
    assert finite == [True] * REPLICAS + [each != replica for each in range(REPLICAS)]
    skips = package == "tf_keras" or replica == 0
    final = [numpy.frombuffer(bytes.fromhex(each), "float32") for each in seen["weights"]]
    assert skips == all(numpy.isfinite(each).all() for each in final)
    with read(folder) as reader:
        steps, incidents = attempts(reader), reader.incidents()
    outcome = {True: (True, 256.0), False: (False, 512.0)}[skips]
    assert steps == {0: (True, 512.0), 1: (not skips, 512.0), 2: outcome}
    kind = "activation-overflow" if bad == "inputs" else "gradient-overflow"
    (found,) = [each for each in incidents if each.kind == kind]
    assert (found.layer, found.first_step) == (place[1], BAD)
    assert f" on replica {replica}" in found.message
    assert found.message.endswith("and the step was applied all the same") == (not skips)
    benign = bad == "targets" and skips
    assert found.judgement == ("benign" if benign else "defect")
    assert layer in found.layer
