"""What to change so that float16 does no harm: the smallest change that the numbers of a run call for.

Nothing is advised that a run does not show: a layer that overflows is the one where it begins, a loss
scale is too low where gradients are lost and there is room above them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, convert, to_builtins
from msgspec.structs import replace

from mpaudit.runtime.histogram import FLOAT16, SCALED, Histogram, exponent, total
from mpaudit.runtime.record import Attempts, Incident
from mpaudit.runtime.summary import LayerFlow, RunReport, Steps

MARGIN = 3  # octaves that a loss scale leaves between the largest gradient and the end of float16
LOST = 0.25  # share of the gradients that float16 holds badly, from which their scale is too low
HIGHEST = 2.0**24  # no scale above is advised
_CALIBRATION = 3  # steps skipped at the start that are worth a better start
_SETTLING = 20  # steps after the first that is applied in which the scale may yet come down
_PROBES, _PROBED = 3, 0.02  # skips by a growing scale, and their share, that are too many
_INTERVAL = 2000  # steps between two growths, as torch has it
_MANY = 4  # more than one in so many layers in float32: then rather bfloat16 for all


class Advice(Struct, frozen=True):
    """Layers to keep in float32, by path; a scaler's arguments; the dtype for float16. None: as is.

    `reasons` are sentences, and `beside` says what cannot be applied from outside. `framework` is the
    one of the run, "torch" or "keras".
    """

    float32: tuple[str, ...] = ()
    init_scale: float | None = None
    growth_interval: int | None = None
    dtype: str | None = None
    reasons: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    framework: str = "torch"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to apply."""
        return not (self.float32 or self.init_scale or self.growth_interval or self.dtype)

    def data(self) -> dict[str, Any]:
        """As JSON values; `read` is the way back."""
        data: dict[str, Any] = to_builtins(self)
        return data

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Advice:
        """The advice that `data` gave."""
        return convert(data, cls)

    def after(self, earlier: Advice) -> Advice:
        """Both: what this one says of a run in which `earlier` was applied."""
        dtype = self.dtype or earlier.dtype
        return Advice(
            () if dtype else tuple(dict.fromkeys((*earlier.float32, *self.float32))),
            self.init_scale or earlier.init_scale,
            self.growth_interval or earlier.growth_interval,
            dtype,
            tuple(dict.fromkeys((*earlier.reasons, *self.reasons))),
            tuple(dict.fromkeys((*earlier.beside, *self.beside))),
            self.framework,
        )


def advise(report: RunReport) -> Advice | None:
    """What a run calls for; None if nothing in it was float16, of which alone there is advice.

    None also of a light look, which does not know the layers that overflow.
    """
    if report.light or not any(
        "float16" in dtypes for flow in report.layers for dtypes in flow.dtypes.values()
    ):
        return None
    found = _layers(report)
    scaled = report.scaled
    if found.empty and scaled is not None and not any(_defects(report)):
        # Where the forward pass overflows, steps are skipped for that, and the scale says nothing.
        found = replace(_scale(report, scaled), beside=found.beside)
    return replace(found, framework=report.meta.get("framework") or "torch")


def without_effect(advice: Advice, report: RunReport) -> Advice:
    """`advice` less the layers that overflow in spite of it, in a run that it was applied in."""
    futile = {each.layer for each in _defects(report)} & {*advice.float32}
    return replace(
        advice,
        float32=tuple(each for each in advice.float32 if each not in futile),
        reasons=tuple(each for each in advice.reasons if not _speaks_of(each, futile)),
        beside=(
            *(each for each in advice.beside if not _speaks_of(each, futile)),
            *(f"none on layer {each!r}: it overflows in float32, too" for each in sorted(futile)),
        ),
    )


def _speaks_of(told: str, layers: Iterable[str]) -> bool:
    return any(f" {each!r}" in told for each in layers)


def _layers(report: RunReport) -> Advice:
    """The layers in which numbers overflow whatever the loss scale, or are about to."""
    known = report.paths
    reasons: dict[str, str] = {}
    for path, why in _origins(report):
        if path in known and "float16" in known[path].dtypes.get("output", ()):
            reasons.setdefault(path, why)
    for each in _defects(report):
        if each.layer and each.layer in known and each.kind == "activation-overflow":
            if "float16" in known[each.layer].dtypes.get("input", ()):
                why = (
                    "overflows between its inputs in float16 and what it gives out in another dtype"
                )
                reasons.setdefault(each.layer, f"{why}, first at step {each.first_step}")
    left = {each.layer: each.kind for each in _defects(report) if each.layer not in reasons}
    beside = tuple(
        f"none on the {kind} in {path or 'the model'!r}: its numbers do not say what would help"
        for path, kind in left.items()
    )
    if reasons.pop("", None) is not None:
        beside += (
            "an operation of the model itself, outside its layers, overflows in float16: do "
            "it within torch.autocast(..., enabled=False), on float32",
        )
    for path in [each for each in reasons if any(other.startswith(f"{each}/") for other in known)]:
        del reasons[path]
        beside += (
            f"an operation of {path!r} itself, outside its layers, overflows in float16: do it on "
            "float32, with tf.cast",
        )
    leaves = [each for each in known.values() if each.dtypes.get("parameter")]
    if len(reasons) > max(2, len(leaves) // _MANY):
        why = f"{len(reasons)} of {len(leaves)} layers overflow in float16: bfloat16 has the range"
        return Advice(dtype="bfloat16", reasons=(why,), beside=beside)
    told = tuple(f"layer {path!r} {why}" for path, why in reasons.items())
    return Advice(tuple(reasons), reasons=told, beside=beside)


def _origins(report: RunReport) -> Iterator[tuple[str, str]]:
    for each in _defects(report):
        if each.kind == "activation-overflow":
            yield each.layer, f"overflows in float16, first at step {each.first_step}"
        elif each.layer in report.paths and _too_large(report.paths[each.layer].counted("weight")):
            yield each.layer, "has weights that float16 cannot hold"
    for finding in report.findings:
        layer = finding.moment.layer if finding.moment is not None else None
        if layer is not None and finding.name == "gradient-overflow":
            yield layer, "overflows in the backward pass at every loss scale"
        elif layer is not None and finding.name == "low-headroom":
            yield layer, "is about to overflow: its outputs rise towards 65504"


def _defects(report: RunReport) -> Iterator[Incident]:
    """Where the forward pass went wrong, whatever the loss scale."""
    for each in report.incidents:
        if each.rule == "activation-overflow" and each.judgement == "defect":
            yield each


def _too_large(counted: Histogram | None) -> bool:
    shares = None if counted is None else counted.shares(FLOAT16)
    return shares is not None and shares.overflow > 0


def _scale(report: RunReport, steps: Steps) -> Advice:
    """A better start for the loss scale, or a slower growth."""
    final = steps.scales[-1][1]
    gradients = [
        row.unscaled for flow in report.layers for row in flow.histograms if row.what in SCALED
    ]
    whole = total(gradients)
    if whole is not None and whole.counts:
        lost = _lost(report, final)
        top = whole.first + len(whole.counts) - 1
        fits = min(2.0 ** (FLOAT16.top - MARGIN - top), HIGHEST)
        underflow = any(each.name == "gradient-underflow" for each in report.findings)
        if (lost >= LOST or underflow) and fits >= 4 * final:
            why = f"at a loss scale of {final:.6g}, float16 holds {lost:.0%} of the gradients badly"
            room = f"{fits:.6g} still leaves {MARGIN} bits of room above the largest one"
            return Advice(init_scale=fits, reasons=(f"{why}; {room}",))
        if underflow:
            why = "gradients become zero in float16, and a larger loss scale would overflow others"
            return Advice(dtype="bfloat16", reasons=(why,))
    return _course(report, steps)


def _lost(report: RunReport, scale: float) -> float:
    """Of the gradients in float16, the share that is subnormal or zero in it at a loss scale."""
    rows = [
        row.unscaled.shifted(exponent(scale))
        for flow in report.layers
        for row in flow.histograms
        if row.what == "gradient" and row.dtype == "float16"
    ]
    whole = total(rows)
    shares = whole.shares(FLOAT16) if whole is not None else None
    return shares.subnormal + shares.flushed if shares is not None else 0.0


def _course(report: RunReport, steps: Steps) -> Advice:
    """What the course of the loss scale says: a start that is too high, a growth that is too fast."""
    rows = [each for each in steps.attempts if each.scale is not None]
    began = next((n for n, each in enumerate(rows) if each.applied), None)
    if began is None:
        return Advice()
    skipped = rows[began].first - rows[0].first
    settling = [each for each in rows[began:] if each.first <= rows[began].first + _SETTLING]
    scale = min(each.scale for each in settling if each.scale is not None)
    start = scale if skipped >= _CALIBRATION else None
    reasons = []
    if start is not None:
        until = next(n for n, each in enumerate(rows) if each.scale == scale and n >= began)
        lost = sum(_length(each) for each in rows[:until] if each.applied is False)
        passed = rows[until].first - rows[0].first
        of = f"{lost} of the first" if lost < passed else "the first"
        why = f"{of} {passed} steps are skipped until the loss scale has come down"
        reasons.append(f"{why} to {start:.6g}")
    later = [each for each in rows[began:] if each.applied is False]
    lost = sum(map(_length, later))
    given = report.meta.get("scaler") or {}
    interval = given.get("growth_interval") or _INTERVAL  # a fixed scale has none
    probes = len(later) >= _PROBES and lost >= _PROBED * steps.total
    if probes and interval < _INTERVAL // 4:
        why = f"{lost} of {steps.total} steps are skipped because the loss scale grows every"
        reasons.append(f"{why} {interval} steps, into what overflows")
    slower = _INTERVAL if probes and interval < _INTERVAL // 4 else None
    return Advice(init_scale=start, growth_interval=slower, reasons=tuple(reasons))


def _length(row: Attempts) -> int:
    return row.last - row.first + 1


def outcome(report: RunReport) -> dict[str, Any]:
    """A run in a few numbers, to be compared with another of the same script.

    `flushed` and `subnormal` are shares of the gradients: what a cast made zero (where that was
    measured), and what the dtype they were in holds with fewer digits. `overflowing` counts layers;
    with `--light`, where none is looked at, it is not known. `loss_then` is what `last_loss` was when
    there were as many losses as the run had that this one was compared with.
    """
    sampling = report.meta.get("sampling")
    light = isinstance(sampling, dict) and sampling.get("light")
    defects = {each.layer for each in report.incidents if each.judgement == "defect"}
    steps = report.scaled or next(iter(report.optimizers), None)
    losses = report.meta.get("losses") or {}
    means = losses.get("means") or []
    return {
        "steps": 0 if steps is None else steps.total,
        "skipped": 0 if steps is None else len(steps.skipped),
        "overflowing": None if light else len(defects),
        "flushed": _mean([flow.backward.flushed_share for flow in report.layers]),
        "subnormal": _subnormal(report.layers),
        "seconds_per_step": report.meta.get("seconds_per_step"),
        "first_loss": means[0] if means else None,
        "last_loss": means[-1] if means else None,
        "loss_then": losses.get("then"),
        "losses": losses.get("seen"),
        "bad_losses": losses.get("nonfinite", 0),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) / len(known) if known else None


def _subnormal(layers: Sequence[LayerFlow]) -> float | None:
    rows: list[Histogram] = [
        row for flow in layers for row in flow.histograms if row.what == "gradient" and row.counts
    ]
    low = sum(
        count
        for row in rows
        if row.dtype == "float16"
        for power, count in row.bins.items()
        if FLOAT16.place(power) == "subnormal"
    )
    whole = sum(row.nonzero for row in rows)
    return low / whole if whole else None
