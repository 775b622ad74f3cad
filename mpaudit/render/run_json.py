"""A run as one JSON object; keys and their meaning are a contract other programs rely on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import to_builtins

from mpaudit.render.json import item
from mpaudit.report import Report
from mpaudit.runtime.advice import advise, outcome
from mpaudit.runtime.histogram import FORMATS, KINDS, Histogram, What
from mpaudit.runtime.record import Incident, Peaks
from mpaudit.runtime.summary import LayerFlow, Numbers, RunReport, Steps

META = (
    "script",
    "argv",
    "framework",
    "versions",
    "device",
    "precision",
    "started",
    "exit_code",
    "exception",
    "explanation",
    "world_size",
    "emulated",
    "sampling",
    "overhead",
    "complete",
)
_MERGED = ("missing_ranks", "first_bad", "ranks_part")  # of several ranks


def render(report: RunReport) -> str:
    """The report; steps are attempts counted from 0, rows and columns count from 1."""
    check = Report(report.findings, report.sources)
    scaled = report.scaled
    timeline = scaled.scales if scaled else []
    meta = {key: report.meta.get(key) for key in META}
    meta["ranks"] = report.meta.get("ranks") or [report.meta.get("rank") or 0]
    meta |= {key: report.meta[key] for key in _MERGED if key in report.meta}
    advice, applied = advise(report), report.meta.get("applied")
    data = {
        "meta": meta,
        "optimizers": [_optimizer(each) for each in report.optimizers],
        "loss_scale": {
            "timeline": [{"step": step, "scale": scale} for step, scale in timeline],
            "final": report.meta.get("final_scale", timeline[-1][1] if timeline else None),
        },
        "layers": [layer(each, report) for each in report.layers],
        "events": [_event(each) for each in report.incidents],
        "advice": None if advice is None else advice.data(),
        "applied": None if applied is None else {**applied, "after": outcome(report)},
        "findings": [
            {**item(each, check), "moment": _moment(each.moment)} for each in check.findings
        ],
    }
    return json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """`value` with None for the numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _optimizer(steps: Steps) -> dict[str, Any]:
    scales = dict(steps.scales)
    return {
        "index": steps.index,
        "type": steps.type,
        "steps": steps.total,
        "applied": steps.applied,
        "skipped_steps": steps.skipped,
        "skips": [
            {
                "step": step,
                "scale_before": scales.get(step),
                "scale_after": scales.get(step + 1),
                "layers": list(steps.culprits(step)),
            }
            for step in steps.skipped
        ],
    }


def layer(flow: LayerFlow, report: RunReport) -> dict[str, Any]:
    """One layer as plain data; casts are per step of those in which they were counted, and in which the
    layer took part. So are the operations that got 16-bit values and computed in float32: "listed" by
    autocast, or because of another "operand"; in Keras they are casts of a layer, by its "policy" or by
    the "layer" itself.

    `repeated` are casts of the last such step that cast the same values again, see MP906.
    """
    row, dtypes = flow.layer, flow.dtypes
    counted = report.cast_steps(row.path)
    steps = counted or max((each.total for each in report.optimizers), default=0) or 1
    forward = [cast for cast in flow.casts if cast.what != "gradient"]
    policy = (report.meta.get("policies") or {}).get(row.path)
    others = (report.meta.get("shared") or {}).get(row.path)
    fallen = (report.meta.get("float32_operations") or {}).get(row.path, {})
    parameters = [cast for cast in forward if cast.what == "parameter"]
    return {
        "path": row.path,
        "type": row.type,
        "calls_per_step": row.calls_per_step,
        **({} if policy is None else {"policy": policy["policy"]}),
        **({} if others is None else {"other_paths": others}),
        "param_dtype": one_or_list(dtypes.get("parameter", ())),
        "buffer_dtype": one_or_list(dtypes.get("buffer", ())),
        "input_dtypes": list(dtypes.get("input", ())),
        "output_dtypes": list(dtypes.get("output", ())),
        "param_grad_dtype": one_or_list(dtypes.get("parameter_grad", ())),
        "output_grad_dtype": one_or_list(dtypes.get("output_grad", ())),
        "casts_per_step": {
            "forward": sum(cast.count for cast in forward) / steps,
            "of_parameters": sum(cast.count for cast in parameters) / steps,
            "bytes": sum(cast.bytes for cast in forward) / steps,
            "repeated": (report.meta.get("repeated_casts") or {}).get(row.path, 0),
        },
        "float32_operations": [
            {"operation": operation, "why": why, "per_step": number / steps}
            for operation, reasons in sorted(fallen.items())
            for why, number in sorted(reasons.items())
        ],
        "forward": {**_numbers(flow.forward), **_course(flow.forward.peaks)},
        "backward": {
            **_numbers(flow.backward),
            "flushed_share": flow.backward.flushed_share,
            "flushed_share_weight": flow.backward.flushed_share_weight,
        },
        "histograms": {what: histogram(flow, what) for what in KINDS},
        **({} if flow.update == Numbers() else {"parameter_gradients": _numbers(flow.update)}),
        "source": _place(row.filename, row.row),
    }


def histogram(flow: LayerFlow, what: What) -> dict[str, Any] | None:
    """Numbers of a layer by power of two, and what each format makes of them; None without any.

    The shares are of the finite numbers that are not zero; "unscaled" are those without the loss
    scale, null if there was none.
    """
    counted, unscaled = flow.counted(what), flow.unscaled(what)
    if counted is None:
        return None
    ours = [each for each in flow.histograms if each.what == what]
    return {
        "dtypes": sorted({each.dtype for each in ours}),
        "scales": sorted({each.scale for each in ours} - {1.0}),
        "elements": counted.elements,
        "sampled": counted.sampled,
        "zeros": counted.zeros,
        "inf": counted.inf,
        "nan": counted.nan,
        "first_exponent": counted.first,
        "counts": list(counted.counts),
        "formats": _formats(counted),
        "unscaled": None if unscaled is None else _formats(unscaled),
    }


def _formats(counted: Histogram) -> dict[str, Any]:
    shares = {form.name: counted.shares(form) for form in FORMATS}
    return {name: None if each is None else to_builtins(each) for name, each in shares.items()}


def _course(peaks: Peaks | None) -> dict[str, Any]:
    return {
        "headroom_trend_bits": None if peaks is None else peaks.trend,
        "headroom_course": None
        if peaks is None
        else {"steps_each": peaks.width, "bits": peaks.bits},
    }


def _numbers(numbers: Numbers) -> dict[str, Any]:
    return {
        "inf": numbers.inf,
        "nan": numbers.nan,
        "first_bad_step": numbers.first_bad_step,
        "last_bad_step": numbers.last_bad_step,
        "amax": numbers.amax,
        "headroom_bits": numbers.headroom_bits,
    }


def _event(incident: Incident) -> dict[str, Any]:
    return {
        "rule": incident.rule,
        "kind": incident.kind,
        "layer": incident.layer,
        "first_step": incident.first_step,
        "last_step": incident.last_step,
        "call": incident.call,
        "rank": incident.rank,
        "nonfinite": list(incident.nonfinite),
        "class": incident.judgement,
        "message": incident.message,
        "source": _place(incident.filename, incident.row),
    }


def _moment(moment: Any) -> Mapping[str, Any] | None:
    if moment is None:
        return None
    return {
        "step": moment.step,
        "layer": moment.layer,
        "op": moment.op,
        "rank": moment.rank,
    }


def _place(filename: str | None, row: int | None) -> dict[str, Any] | None:
    return None if filename is None else {"filename": filename, "row": row}


def one_or_list(dtypes: Sequence[str]) -> str | list[str] | None:
    """The plain name of a dtype, None without one, a sorted list of several."""
    if len(dtypes) <= 1:
        return dtypes[0] if dtypes else None
    return sorted(dtypes)
