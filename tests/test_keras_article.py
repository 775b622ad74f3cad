"""The article's Keras script, as it is and corrected: the numbers of its layers, by NumPy, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keras_watched import attempts, numbers, octaves, read, under, watched

numpy = pytest.importorskip("numpy")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from mpaudit import audit  # noqa: E402
from mpaudit.runtime.octaves import SAMPLE  # noqa: E402
from mpaudit.runtime.sampling import sampled  # noqa: E402

ARTICLE = Path(__file__).parents[1] / "fixtures" / "article" / "run_tensorflow.py"
STEPS, SAMPLES, WIDTH, CLASSES = 160, 32, 128, 10
FIRST, HEAD = "sequential/dense", "sequential/dense_1"


class Noted:
    """The script's batches; notes the weights that each one meets."""

    def __init__(self, batches: Any, model: Any) -> None:
        self.seen: list[tuple[Any, Any, list[Any]]] = []
        self._batches, self._model = batches, model

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self._batches:
            self.seen.append((inputs.numpy(), labels.numpy(), self._model.get_weights()))
            yield inputs, labels


def execute(path: Path) -> list[tuple[Any, Any, list[Any]]]:
    """Runs the script; gives what each step was given."""
    before, training = path.read_text(encoding="utf-8").split("for epoch in range(10):")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    rest = "\n" * before.count("\n") + f"for epoch in range(10):{training}"
    exec(compile(before, str(path), "exec"), namespace)
    namespace["dataset"] = noted = Noted(namespace["dataset"], namespace["model"])
    exec(compile(rest, str(path), "exec"), namespace)
    return noted.seen


def by_hand(inputs: Any, labels: Any, weights: list[Any], kind: str, scale: float) -> Any:
    """What a step computes in the first layer and the head, forward and backward, and its gradients."""
    low = numpy.dtype(kind)
    first, bias, second, offset = weights
    given, kernel, shift = (each.astype(low).astype("float32") for each in (inputs, first, bias))
    product = (given @ kernel).astype(low) + shift.astype(low)
    hidden = numpy.maximum(product, low.type(0))
    logits = hidden.astype("float32") @ second + offset
    odds = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    shares = odds / odds.sum(axis=1, keepdims=True)
    back = scale * (shares - numpy.eye(CLASSES, dtype="float32")[labels]) / SAMPLES
    hidden_back = (back @ second.T).astype(low)
    through = numpy.where(hidden > 0, hidden_back, 0).astype("float32")
    outputs = {FIRST: hidden, HEAD: logits if scale != 1 else shares}
    gradients = [given.T @ through, through.sum(0), hidden.astype("float32").T @ back, back.sum(0)]
    return outputs, {FIRST: hidden_back, HEAD: back}, gradients


@pytest.mark.slow
@pytest.mark.parametrize(("corrected", "kind"), [(False, "float32"), (True, "float16")])
def test_the_numbers_of_its_layers(tmp_path: Path, corrected: bool, kind: str) -> None:
    text = ARTICLE.read_text(encoding="utf-8")
    path = tmp_path / "article.py"
    path.write_text(audit.fix_text(text, path.name, unsafe=True) if corrected else text)
    scale = 2.0**15 if corrected else 1.0
    with under("float32", seed=0), watched(tmp_path):
        steps = execute(path)
    assert len(steps) == STEPS
    found: dict[tuple[str, str], list[Any]] = {}
    counted: dict[tuple[str, str], list[Any]] = {}
    for number, (inputs, labels, weights) in enumerate(steps):
        outputs, back, gradients = by_hand(inputs, labels, weights, kind, scale)
        both = {"forward": outputs, "backward": back}
        for phase, tensors in both.items():
            for layer, tensor in tensors.items():
                found.setdefault((layer, phase), []).append(tensor)
        if sampled(number):
            for layer, its in ((FIRST, slice(0, 2)), (HEAD, slice(2, 4))):
                kinds = {
                    "weight": weights[its],
                    "weight_gradient": gradients[its],
                    "activation": [outputs[layer]],
                    "gradient": [back[layer]],
                }
                for what, values in kinds.items():
                    counted.setdefault((layer, what), []).extend(values)
    with read(tmp_path) as reader:
        rows, settled, histograms = numbers(reader), attempts(reader), reader.histograms()
        findings = [each.rule for each in reader.problems()]
    assert rows.keys() == found.keys()
    for place, tensors in found.items():
        row = rows[place]
        dtype = kind if place[0] == FIRST else "float32"
        assert (row.dtype, row.calls, row.inf, row.nan) == (dtype, STEPS, 0, 0)
        assert row.elements == row.zeros_of == sum(each.size for each in tensors)
        zeros = sum(numpy.count_nonzero(each == 0) for each in tensors)
        assert row.zeros == pytest.approx(zeros, rel=2e-3)
        amax = max(float(numpy.abs(each).max()) for each in tensors)
        assert row.amax == pytest.approx(amax, rel=2e-3)
    for (layer, what), tensors in counted.items():
        its = [each for each in histograms[layer] if each.what == what]
        ours = sum((Counter(each.bins) for each in its), Counter())
        assert sum(each.elements for each in its) == sum(each.size for each in tensors)
        wanted: dict[int, float] = {}
        for each in tensors:  # of a large one there is a sample
            for octave, count in octaves(each).items():
                share = min(each.size, SAMPLE) / each.size
                wanted[octave] = wanted.get(octave, 0.0) + count * share
        apart = sum(abs(ours[each] - wanted.get(each, 0)) for each in {*ours, *wanted})
        exact = what == "weight" and layer == HEAD
        assert apart <= (0 if exact else 0.03 * sum(wanted.values()))
    assert settled == dict.fromkeys(range(STEPS), (True, scale if corrected else None))
    assert findings == ([] if corrected else ["no-mixed-precision"])
