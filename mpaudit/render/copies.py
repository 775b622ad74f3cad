"""Copies of the model that nobody trains: an average of its weights, a teacher, one to validate with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from mpaudit.report import count
from mpaudit.runtime.summary import LayerFlow, RunReport


class Copy(Struct, frozen=True):
    """A module of the model's class with layers of the model's names and classes, without gradients."""

    path: str
    layers: Sequence[LayerFlow]

    def told(self) -> str:
        """It in one line, with what is told of it nowhere else."""
        dtypes = sorted({d for each in self.layers for d in each.dtypes.get("output", ())})
        amaxes = [n.amax for each in self.layers if (n := each.forward).amax is not None]
        largest = f", amax {max(amaxes):.3g}" if amaxes else ""
        outputs = f" (outputs {', '.join(dtypes)}{largest})" if dtypes else ""
        layers = count(len(self.layers), "layer")
        return f"  {self.path}: {layers} as in the model, not trained{outputs}: `--all`"


def copies(report: RunReport) -> Iterator[Copy]:
    """Those of the model with the plain paths, if it is trained, in which nothing went wrong."""
    models = {each.layer.path: each for each in report.layers}
    model = models.get("")
    if model is None or not any(map(_trained, report.layers)):
        return
    bad = {each.layer for each in report.incidents}
    for root in report.layers:
        path = root.layer.path
        if not path or root.layer.type != model.layer.type:
            continue
        parts = [root, *(each for each in report.layers if each.layer.path.startswith(f"{path}."))]
        originals = [models.get(each.layer.path[len(path) + 1 :]) for each in parts]
        many = 2 * len(parts) > len(report.layers) - len(parts)  # and no part that happens to match
        alike = many and all(
            original is not None and original.layer.type == each.layer.type
            for original, each in zip(originals, parts, strict=True)
        )
        if alike and not any(_trained(e) or e.layer.path in bad or _bad(e) for e in parts):
            yield Copy(path, parts)


def _trained(flow: LayerFlow) -> bool:
    return bool(flow.dtypes.get("output_grad") or flow.dtypes.get("parameter_grad"))


def _bad(flow: LayerFlow) -> bool:
    return bool(flow.forward.inf or flow.forward.nan)
