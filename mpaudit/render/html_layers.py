"""The layers of a run as lines of a page's table, and which of them are near the end of float16."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from mpaudit.render.copies import copies
from mpaudit.render.run_json import layer as layer_data
from mpaudit.runtime.record import Incident
from mpaudit.runtime.summary import LayerFlow, Numbers, RunReport

NEAR, EDGE = 3.0, 1.0  # bits of headroom below which a float16 range is a warning, an error


class Line(Struct, frozen=True):
    """A layer of the table: `data` is its JSON; `container` says that other layers are in it.

    `risks` say by phase how near its range is to the end of float16, see `risk`; `origins` are the
    phases in which inf or NaN that nothing excuses began here. `copy` says that the layer is in a copy of the
    model that nobody trains; `copied` is how many layers it has itself as such a copy.
    """

    flow: LayerFlow
    data: Mapping[str, Any]
    anchor: str
    container: bool
    risks: Mapping[str, str]
    origins: Container[str]
    trouble: bool
    copy: bool = False
    copied: int = 0


def lines(report: RunReport, *, scaled: bool) -> Iterator[Line]:
    """The table of the layers, in order; `scaled` says that a scaler looks after the gradients."""
    paths = [each.layer.path for each in report.layers]
    inner = {path[: match.start()] for path in paths for match in re.finditer(r"[./]", path)}
    urgent, _ = sorted_incidents(report.incidents)
    origins = {(each.layer, _phase(each)) for each in urgent}
    folded = list(copies(report))
    copied = {copy.path: len(copy.layers) for copy in folded}
    within = {each.layer.path for copy in folded for each in copy.layers}
    for number, flow in enumerate(report.layers):
        path = flow.layer.path
        risks = {
            "forward": risk(flow.forward),
            "backward": risk(flow.backward, scaled=scaled),
            "update": risk(flow.update),
        }
        begun = [phase for phase in risks if (path, phase) in origins]
        yield Line(
            flow,
            layer_data(flow, report),
            f"layer-{number}",
            container=path in inner or (not path and len(paths) > 1),
            risks=risks,
            origins=begun,
            trouble=bool(begun) or not {"near", "edge"}.isdisjoint(risks.values()),
            copy=path in within and path not in copied,
            copied=copied.get(path, 0),
        )


def risk(numbers: Numbers, *, scaled: bool = False) -> str:
    """How near a range is to the end of float16: the class of its bar.

    "wide" is held by a wider dtype alone. `scaled` gradients are always "fine":
    they reach the end by design, for the scaler seeks it.
    """
    bits = numbers.headroom_bits
    if bits is None or bits < 0 or "float16" not in numbers.dtypes:
        return "wide"
    if scaled:
        return "fine"
    return "edge" if bits < EDGE else "near" if bits < NEAR else "fine"


def tightest(table: Sequence[Line], *, scaled: bool) -> tuple[LayerFlow, str, float] | None:
    """The float16 range with the least room, of those no scaler looks after: layer, phase, bits."""
    rooms = [
        (numbers.headroom_bits, line.container, line.flow, phase)
        for line in table
        for phase, numbers in (("forward", line.flow.forward), ("backward", line.flow.backward))
        if numbers.headroom_bits is not None and "float16" in numbers.dtypes
        if phase == "forward" or not scaled
    ]
    if not rooms:
        return None
    bits, _, flow, phase = min(rooms, key=lambda each: each[:2])
    return flow, phase, bits


def _phase(incident: Incident) -> str:
    return "backward" if incident.kind.startswith("gradient") else "forward"


def sorted_incidents(incidents: Sequence[Incident]) -> tuple[list[Incident], list[Incident]]:
    """What calls for attention, and what is expected: a scaler's calibration, deliberate -inf."""
    expected = ("benign", "masked")
    return (
        [each for each in incidents if each.judgement not in expected],
        [each for each in incidents if each.judgement in expected],
    )
