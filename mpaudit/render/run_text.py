"""A run for reading: the dtypes per layer, where numbers went wrong, how the scale moved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mpaudit.render import outcome, run_layers
from mpaudit.render.colour import Paint, painter
from mpaudit.render.columns import table
from mpaudit.render.outcome import gist
from mpaudit.render.text import block
from mpaudit.report import Report, count, shown
from mpaudit.runtime.advice import Advice, advise
from mpaudit.runtime.advice import outcome as measured
from mpaudit.runtime.record import LOW_PRECISION
from mpaudit.runtime.sampling import told
from mpaudit.runtime.summary import RunReport

ROWS = 20  # changes of the loss scale, or places where numbers went wrong, that are listed
STEPS = 20  # skipped steps that are listed
ALL = "`--all` shows them"


def render(report: RunReport, *, colour: bool = False, whole: bool = False) -> str:
    """Facts, dtype flow, ranges, loss scale, what went wrong, findings.

    Of what there is much of, the worst; all of it if it is to be the `whole`.
    """
    paint = painter(colour)
    parts = [
        ("", _facts(report, paint)),
        run_layers.flow(report, whole=whole),
        run_layers.ranges(report, whole=whole),
        ("what float16 does worst by", run_layers.octaves(report, whole=whole)),
        ("16-bit values computed in float32", run_layers.fallen(report, whole=whole)),
        ("loss scale and steps", _scale(report, whole=whole)),
        ("where numbers went wrong", _incidents(report, paint, whole=whole)),
        ("findings", _findings(report, paint)),
        ("advice", _advice(report)),
        ("applied: before and after", _applied(report)),
    ]
    blocks = [
        f"{paint(title, 'strong')}\n{chr(10).join(lines)}" if title else "\n".join(lines)
        for title, lines in parts
        if lines
    ]
    return "\n\n".join(blocks) + "\n"


def _facts(report: RunReport, paint: Paint) -> list[str]:
    meta = report.meta
    versions = meta.get("versions") or {}
    emulated = meta.get("emulated")
    facts = {
        "script": " ".join([str(meta.get("script")), *map(str, meta.get("argv") or ())]),
        "ran": _ran(meta),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "device": f"{meta.get('device') or ''}{f' (emulated: {emulated})' if emulated else ''}",
        "precision": precision(report),
        "overhead": overhead(meta.get("overhead")),
        "sampling": told(meta.get("sampling")),
        "ranks": ranks(meta),
        "first bad": first_bad(meta.get("first_bad")),
        "ranks part": parting(meta.get("ranks_part")),
        "ended by": gist(meta.get("exception") or ""),
        "not seen": "; ".join(meta.get("probe_errors") or ()),
    }
    lines = [f"{paint('mpaudit', 'strong')} {shown(str(report.path))}"]
    for name, value in facts.items():
        if value:
            lines.append(f"  {name:10} {value}")
        if name == "ended by":
            lines += [f"  {'':10} {line}" for line in meta.get("explanation") or ()]
    return lines


def ranks(meta: Any) -> str | None:
    """Which processes of how many the report is of; None for one that trained alone."""
    size = meta.get("world_size") or 1
    if size == 1:
        return None
    told = ", ".join(map(str, meta.get("ranks") or [meta.get("rank")]))
    missing = ", ".join(map(str, meta.get("missing_ranks") or ()))
    return f"{told} of {size}" + (f"; there is no trace of {missing}" if missing else "")


def first_bad(first: Any) -> str | None:
    """Where numbers went wrong first, and in which ranks."""
    if first is None:
        return None
    who = f"rank {first['ranks'][0]}" if len(first["ranks"]) == 1 else "ranks "
    who += ", ".join(map(str, first["ranks"])) if len(first["ranks"]) > 1 else ""
    return f"{who}, step {first['step']}: {first['kind']} at {first['layer'] or '(model)'}"


def parting(part: Any) -> str | None:
    """Where ranks stop doing the same."""
    if part is None:
        return None
    skipped, applied = (", ".join(map(str, part[key])) for key in ("skipped", "applied"))
    return (
        f"at step {part['step']} of optimizer {part['optimizer']}: "
        f"skipped by {skipped}, applied by {applied}; from there on they train different models"
    )


def _ran(meta: Any) -> str:
    started, ended, code = (meta.get(key) for key in ("started", "ended", "exit_code"))
    when = ""
    if started:
        begin = datetime.fromisoformat(started)
        when = _clock(begin)
    if started and ended:
        when += f", {(datetime.fromisoformat(ended) - begin).total_seconds():.1f} s"
    if not meta.get("complete"):
        return f"{when}, {unfinished(meta)}".lstrip(", ")
    how = "a part of the script" if code is None else f"exit code {code}"
    return f"{when}, {how}".lstrip(", ")


def unfinished(meta: Any) -> str:
    """How a run ended that did not come to its own end, and what of it is missing."""
    if meta.get("exit_code") is not None:
        return f"died with exit code {meta['exit_code']}: the trace holds what came before"
    flushed = meta.get("flushed")
    last = f" after {_clock(datetime.fromisoformat(flushed))}" if flushed else " more"
    return (
        f"died without a word (killed, or by os._exit) or still runs: nothing{last} is in the trace"
    )


def _clock(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} {time.tzname() or ''}".rstrip()


def precision(report: RunReport) -> str | None:
    """The precision that the run trained in; None where that is not known.

    On a stand-in it is said why the script may have switched mixed precision off: a tensor that was
    sent to cuda lies on the CPU and, outside of autocast regions, says that. Libraries (ultralytics is
    one) go by it.
    """
    if found := report.meta.get("precision"):
        return str(found)
    flowed = {each for layer in report.layers for flow in layer.dtypes.values() for each in flow}
    if report.light or not flowed or flowed & LOW_PRECISION:
        return None
    told = f"{' and '.join(sorted(flowed))}: nothing ran in 16 bits"
    if report.meta.get("emulated") and report.meta.get("switched_off"):
        told += " (on a GPU it may: the script has switched it off, maybe by what only a GPU's torch has)"
    return told


def overhead(cost: Any) -> str | None:
    """What watching took; None where it was not measured."""
    if not isinstance(cost, dict) or not cost.get("seconds"):
        return None
    return f"{cost['seconds']:.3g} s, {cost['share']:.1%} of the run"


def _scale(report: RunReport, *, whole: bool) -> list[str]:
    lines = []
    for steps in report.optimizers:
        skipped = steps.skipped
        outcome = f"{count(steps.total, 'step')}, {steps.applied} applied"
        if skipped:
            listed = ", ".join(map(str, skipped[:STEPS])) + (", ..." if skipped[STEPS:] else "")
            outcome += f", {len(skipped)} skipped: {listed}"
        lines.append(f"  {steps.type} (optimizer {steps.index}): {outcome}")
    return [*lines, *_losses(report), *_timeline(report, whole=whole)]


def _losses(report: RunReport) -> list[str]:
    """What there is to say of losses that are not finite, and of those that no step followed."""
    losses = report.meta.get("losses")
    if not losses:
        return []
    lines = []
    if not report.optimizers:
        lines.append(
            "  no step of an optimizer was seen: all that came in the run is told as step 0"
        )
    if losses.get("nonfinite"):
        lines.append(f"  {count(losses['nonfinite'], 'loss')} inf or nan")
    return lines


def _timeline(report: RunReport, *, whole: bool) -> list[str]:
    """The loss scale over time, one row for each stretch of one scale and one outcome."""
    steps = report.scaled
    if steps is None:
        return []
    scaled = [each for each in steps.attempts if each.scale is not None]
    listed = scaled if whole else scaled[:ROWS]
    told = {True: "", False: "skipped", None: "not seen"}
    rows = [
        (
            str(a.first) if a.first == a.last else f"{a.first}-{a.last}",
            f"{a.scale:g}",
            told[a.applied] + (_because(steps.culprits(a.first)) if a.applied is False else ""),
        )
        for a in listed
    ]
    more = len(scaled) - len(rows)
    left = [f"  ... {count(more, 'more change')}: {ALL}"] if more else []
    unknown = [a.first for a in listed if a.applied is False and not steps.culprits(a.first)]
    return [*table(("step", "loss scale", ""), rows), *left, *_unexplained(report, unknown)]


def _unexplained(report: RunReport, skipped: Sequence[int]) -> list[str]:
    """How to learn more of steps that were skipped because of nobody knows which layer."""
    sampling = report.meta.get("sampling")
    if not skipped or not isinstance(sampling, dict) or sampling.get("every", 1) == 1:
        return []
    which = ", ".join(map(str, skipped[:STEPS])) + (", ..." if skipped[STEPS:] else "")
    return [f"  where it began is not known of {which}: `--every 1` looks at every step"]


def _because(layers: Sequence[str]) -> str:
    """The layers in which numbers went wrong, in a few words."""
    named = [each or "(model)" for each in layers]
    more = f" and {len(named) - 2} more" if len(named) > 2 else ""
    return f": {', '.join(named[:2])}{more}" if named else ""


def _incidents(report: RunReport, paint: Paint, *, whole: bool) -> list[str]:
    lines = []
    expected = ("benign", "masked")
    told = sorted(report.incidents, key=lambda each: each.judgement in expected)
    for each in told if whole else told[:ROWS]:
        kind = {"defect": "error", "from-data": "warning"}.get(each.judgement, "frame")
        steps = f"step {each.first_step}"
        if each.last_step != each.first_step:
            steps = f"steps {each.first_step} to {each.last_step}"
        at = "" if each.filename is None else f", {shown(each.filename)}:{each.row}"
        place = f"{each.layer or '(model)'}, {steps}, call {each.call}{at}"
        lines.append(f"  {paint(each.judgement, kind)} {each.kind} at {place}: {each.message}")
    more = len(told) - len(lines)
    return [*lines, *([f"  ... {more} more: {ALL}"] if more else [])]


def _findings(report: RunReport, paint: Paint) -> list[str]:
    check = Report(report.findings, report.sources)
    blocks = [block(finding, check, paint) for finding in check.findings]
    none = f"  none; {told(report.meta['sampling'])}" if report.light else "  none"
    closing = none if not blocks else f"Found {count(len(blocks), 'error')}"
    both = sum(each.confirmed for each in check.findings)
    if blocks:
        closing += f", {both} confirmed by source and run." if both else "."
    return ["\n".join([*blocks, closing])]


def _advice(report: RunReport) -> list[str]:
    advice = advise(report)
    if advice is None:
        return []
    tried = "  try it: `mpaudit run --apply TRACE`, then the script and its arguments"
    lines = outcome.told(advice, errors=outcome.errors(report), scaled=report.scaled is not None)
    return [*lines, *([] if advice.empty else [tried])]


def _applied(report: RunReport) -> list[str]:
    applied = report.meta.get("applied")
    if applied is None:
        return []
    changes = [f"  {each}" for each in outcome.changes(Advice.read(applied["advice"]))]
    return [*changes, *outcome.table(applied["before"], measured(report))]
