"""The layers of a run in text: dtypes, ranges, and the operations that computed in float32.

Of a small model every layer has its row. Of a larger one layers of one class with the same dtypes
share a row, and ranges are told where they are worth a look; a copy of the model that is not trained
has one row. `whole` asks for every row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from mpaudit.render.columns import table
from mpaudit.render.copies import Copy, copies
from mpaudit.report import count
from mpaudit.runtime.histogram import FLOAT16, KINDS
from mpaudit.runtime.record import Flow
from mpaudit.runtime.summary import LayerFlow, Numbers, RunReport

FEW = 24  # layers, up to which each has its row
GROUPS = 30  # rows of layers that are alike
WORST = {"forward": 8, "backward": 4, "parameter gradients": 4}  # with the least headroom, by pass
BAD, LOST = 8, 4  # with inf or NaN, and whose gradients float16 made zero
BADLY = 5  # kinds of numbers of which float16 loses most
LEAST = 0.01  # share of numbers that is lost, from which on that is worth a row
FALLEN = 20  # operations
NAMES = 4  # of one module

_COLUMNS: dict[str, Flow] = {
    "inputs": "input",
    "outputs": "output",
    "parameters": "parameter",
    "gradients": "parameter_grad",
    "output gradients": "output_grad",
}
_RANGES = (
    *("layer", "pass", "dtype", "amax", "headroom"),
    *("trend", "inf", "nan", "first step", "flushed to zero"),
)
_WHY = {
    "listed": "autocast does so with it",
    "operand": "another operand is float32",
    "policy": "the layer's policy is float32",
    "layer": "the layer casts to it itself",
}

_Item = TypeVar("_Item")


class _Range(NamedTuple):
    """What one layer gave in one pass."""

    path: str
    name: str
    numbers: Numbers


def flow(report: RunReport, *, whole: bool) -> tuple[str, list[str]]:
    """The dtypes, and what the table is called."""
    columns = _COLUMNS
    if report.light:  # the others were not looked at
        columns = {each: _COLUMNS[each] for each in ("parameters", "gradients")}

    def cells(each: LayerFlow) -> tuple[str, ...]:
        dtypes = (", ".join(each.dtypes.get(flow, ())) or "-" for flow in columns.values())
        return (each.layer.type, *dtypes)

    layers, folded = _listed(report, whole=whole)
    also = [*_shared(report, layers), *(each.told() for each in folded)]
    if whole or len(layers) <= FEW:
        rows = [(named(each.layer.path), *cells(each)) for each in layers]
        lines = table(("layer", "type", *columns), rows) if rows else ["  no layer was called"]
        return "dtype flow per layer", [*lines, *also]
    # what only got other things than numbers, as transforms of images do, has no row
    groups = [each for each in _grouped(layers, cells) if set(cells(each[0])[1:]) != {"-"}]
    holders = _holders(each.layer.path for each in layers)
    within = sorted(range(len(groups)), key=lambda n: groups[n][0].layer.path in holders)[:GROUPS]
    kept = [groups[number] for number in sorted(within)]
    rows = [(_several([each.layer.path for each in group]), *cells(group[0])) for group in kept]
    lines = [*table(("layers", "type", *columns), rows), *_more(len(groups) - len(kept)), *also]
    told = f"dtype flow of {len(layers)} layers"
    return f"{told}, those alike in one row (`--all`: a row for each)", lines


def ranges(report: RunReport, *, whole: bool) -> tuple[str, list[str]]:
    """The ranges of values, and what the table is called."""
    layers, _ = _listed(report, whole=whole)
    every = [
        _Range(flow.layer.path, name, numbers)
        for flow in layers
        for name, numbers in (
            ("forward", flow.forward),
            ("backward", flow.backward),
            ("parameter gradients", flow.update),
        )
        if numbers != Numbers()
    ]
    title = "range of values per layer"
    chosen = every if whole or len(layers) <= FEW else _worth_a_look(every, _begun(report))
    if not chosen:
        return title, []
    rows = [
        (named(path), name, ", ".join(numbers.dtypes), *_numbers(numbers))
        for path, name, numbers in chosen
    ]
    if len(chosen) < len(every):
        told = f"{len(chosen)} of {len(every)}, nearest to the ends of float16"
        title = f"range of values: {told} (`--all`: all)"
    told = "log2(65504 / amax), the doublings that fp16 allows; trend: first to last quarter"
    return title, [*table(_RANGES, rows), f"  headroom: {told}"]


def _shared(report: RunReport, layers: Sequence[LayerFlow]) -> Iterator[str]:
    """The layers that are one module under several names: its calls are told together."""
    others = report.meta.get("shared") or {}
    for path in (each.layer.path for each in layers):
        if path in others:
            names = [path, *others[path]]
            more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
            told = ", ".join(map(named, names[:NAMES]))
            yield f"  one module, called by each of its names: {told}{more}"


def _listed(report: RunReport, *, whole: bool) -> tuple[Sequence[LayerFlow], list[Copy]]:
    """The layers that are told of one by one, and copies of the model that are not."""
    folded = [] if whole else list(copies(report))
    inside = {each.layer.path for copy in folded for each in copy.layers}
    return [each for each in report.layers if each.layer.path not in inside], folded


def _worth_a_look(every: Sequence[_Range], begun: Container[tuple[str, str]]) -> list[_Range]:
    """Those in which inf or NaN has `begun`, those nearest to the end of float16, and those that it
    flushes.

    What a container passes on of a layer inside of it is told once, there; what layers one after
    another have for their largest (a ReLU, a pooling), with the first of them.
    """
    made = list(_made_here(every))
    bad = [each for each in made if each.numbers.inf or each.numbers.nan]
    bad.sort(key=lambda each: (each[:2] not in begun, each.name != "forward"))
    chosen = {each[:2] for each in bad[:BAD]}
    for name, most in WORST.items():
        ours = [each for each in made if each.name == name]
        half = [each for each in ours if "float16" in each.numbers.dtypes]
        apart = {each.numbers.amax: each for each in reversed(half or ours)}
        chosen |= {each[:2] for each in sorted(apart.values(), key=_room)[:most]}
    lossy = [each for each in made if _flushed(each) >= LEAST]
    chosen |= {each[:2] for each in sorted(lossy, key=_flushed, reverse=True)[:LOST]}
    return [each for each in every if each[:2] in chosen]


def _begun(report: RunReport) -> frozenset[tuple[str, str]]:
    """The layers and passes in which inf or NaN began."""
    back = {each.kind: "backward" for each in report.incidents if each.kind.startswith("gradient")}
    return frozenset((each.layer, back.get(each.kind, "forward")) for each in report.incidents)


def _made_here(every: Sequence[_Range]) -> Iterator[_Range]:
    """The ranges without those of a container that has the numbers of a layer inside of it."""
    alike: dict[Hashable, list[str]] = {}
    for path, name, numbers in every:
        alike.setdefault((name, numbers.amax, numbers.inf, numbers.nan), []).append(path)
    for each in every:
        numbers = each.numbers
        ours = alike[each.name, numbers.amax, numbers.inf, numbers.nan]
        if not any(_within(path, each.path) for path in ours):
            yield each


def _room(each: _Range) -> float:
    bits = each.numbers.headroom_bits
    return math.inf if bits is None else bits


def _flushed(each: _Range) -> float:
    return each.numbers.flushed_share or 0.0


def _numbers(numbers: Numbers) -> tuple[str, ...]:
    headroom, flushed = numbers.headroom_bits, numbers.flushed_share
    trend = None if numbers.peaks is None else numbers.peaks.trend
    return (
        ", ".join("-" if each is None else f"{each:.3g}" for each in numbers.largest) or "-",
        "-" if headroom is None else f"{headroom:.1f} bits",
        "-" if trend is None else f"{round(trend, 1) or 0:+.1f}",
        str(numbers.inf),
        str(numbers.nan),
        "-" if numbers.first_bad_step is None else str(numbers.first_bad_step),
        "-" if flushed is None else f"{flushed:.2%}",
    )


def octaves(report: RunReport, *, whole: bool) -> list[str]:
    """The kinds of numbers of which float16 loses most, where a layer uses it; see BADLY."""
    if not any(each.dtype == "float16" for flow in report.layers for each in flow.histograms):
        return []
    found = []
    for flow in report.layers:
        for what in KINDS:
            counted, unscaled = flow.counted(what), flow.unscaled(what)
            shares = counted.shares(FLOAT16) if counted is not None else None
            if counted is None or shares is None or shares.all < LEAST:
                continue
            if what in ("weight", "weight_gradient") and report.meta.get("cast_steps"):
                if not _uses_half_weights(flow):
                    continue  # as a normalisation does not: in float32 they lose nothing
            without = unscaled.shares(FLOAT16) if unscaled is not None else None
            cells = (
                named(flow.layer.path),
                what.replace("_", " "),
                f"{counted.zeros / counted.sampled:.1%}",
                *(f"{each:.1%}" for each in (shares.subnormal, shares.flushed, shares.overflow)),
                "-" if without is None else f"{without.flushed:.1%}",
            )
            found.append((shares.all, cells))
    if not found:
        return []
    found.sort(key=lambda each: -each[0])
    titles = ("layer", "numbers", "zero", "subnormal", "flushed", "too large", "unscaled flushed")
    rows = [cells for _, cells in (found if whole else found[:BADLY])]
    told = "  shares of the sampled numbers that are not zero, were each cast to float16"
    return [*table(titles, rows), *_more(len(found) - len(rows)), told]


def _uses_half_weights(flow: LayerFlow) -> bool:
    """Whether a layer computes with its weights in float16, or has them so."""
    cast = {each.target for each in flow.casts if each.what == "parameter"}
    return "float16" in cast or "float16" in flow.dtypes.get("parameter", ())


def fallen(report: RunReport, *, whole: bool) -> list[str]:
    """The operations, in layers, that got 16-bit values and computed in float32, the most frequent
    ones first."""
    found = [
        (number / (report.cast_steps(path) or 1), path, (operation, _WHY[reason]))
        for path, operations in (report.meta.get("float32_operations") or {}).items()
        for operation, reasons in operations.items()
        for reason, number in reasons.items()
    ]
    if not found:
        return []
    apart = whole or len(_listed(report, whole=whole)[0]) <= FEW
    groups = _grouped(found, lambda each: (*each[2], each[1]) if apart else each[2])
    ours = sorted(groups, key=lambda group: -sum(number for number, _, _ in group))
    rows = []
    for group in ours if whole else ours[:FALLEN]:
        operation, why = group[0][2]
        number = sum(each for each, _, _ in group)
        rows.append((_several([path for _, path, _ in group]), operation, f"{number:.3g}", why))
    titles = ("layer" if apart else "layers", "operation", "per step", "because")
    return [*table(titles, rows), *_more(len(ours) - len(rows))]


def _grouped(items: Iterable[_Item], key: Callable[[_Item], Hashable]) -> list[list[_Item]]:
    """Those with the same key together, in the order in which keys came first."""
    groups: dict[Hashable, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _holders(paths: Iterable[str]) -> frozenset[str]:
    """The paths that others begin with; that of the whole model is one."""
    every = list(paths)
    cuts = {path[: cut.start()] for path in every for cut in re.finditer(r"[./]", path)}
    return frozenset({"", *cuts})


def _within(path: str, holder: str) -> bool:
    """Whether a layer is inside of another one."""
    if path == holder:
        return False
    return not holder or (path.startswith(holder) and path[len(holder)] in "./")


def _several(paths: Sequence[str]) -> str:
    rest = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{named(paths[0])}{rest}"


def _more(number: int) -> list[str]:
    return [f"  ... {count(number, 'more row')}: `--all`"] if number > 0 else []


def named(path: str) -> str:
    """A layer's path for people."""
    return path or "(model)"
