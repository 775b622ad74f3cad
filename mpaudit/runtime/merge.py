"""The traces of several processes that trained together, made one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from mpaudit.errors import MpauditError
from mpaudit.finding import Problem
from mpaudit.runtime.record import Attempts, Incident, Row
from mpaudit.runtime.trace import Reader, Writer

_Rank = tuple[int, Mapping[str, Any], Reader]
_PASSED_ON = ("benign", "masked")  # incidents that nobody has to look into


def merge(paths: Sequence[Path], output: Path) -> None:
    """Write the trace of a whole run to `output`, from those of its ranks.

    Counts add up, magnitudes and steps are those of all ranks, an incident is told as the rank saw it
    that saw it first; what has no sum (the attempts to step) is that of the first rank which has it.
    Raises MpauditError where the traces are not those of one run, or one is no trace.
    """
    with ExitStack() as files:
        readers = [files.enter_context(Reader(path)) for path in paths]
        ranks = sorted(
            ((_rank(each.meta), each.meta, each) for each in readers), key=lambda r: r[0]
        )
        _are_one_run(ranks)
        attempts = {rank: reader.attempts() for rank, _, reader in ranks}
        incidents = [
            replace(each, rank=rank) for rank, _, reader in ranks for each in reader.incidents()
        ]
        facts = _facts({rank: meta for rank, meta, _ in ranks}) | {
            "merged": [str(reader.path) for _, _, reader in ranks],
            "ranks_part": _part(attempts),
            "first_bad": _first_bad(incidents),
        }
        writer = Writer(output)
        writer.rows(_joined(ranks))
        writer.rows(_longest(attempts))
        for key, value in facts.items():
            writer.meta(key, value)
        writer.problems(_problems(ranks))
        writer.close()


def _rank(meta: Mapping[str, Any]) -> int:
    return int(meta.get("rank") or 0)


def _are_one_run(ranks: Sequence[_Rank]) -> None:
    _, first, one = ranks[0]
    known: dict[int, Reader] = {}
    for rank, meta, reader in ranks:
        if meta.get("script") != first.get("script"):
            raise MpauditError(
                f"{one.path} is of {first.get('script')}, {reader.path} of {meta.get('script')}: "
                "give the traces of one run"
            )
        if rank in known:
            raise MpauditError(
                f"{known[rank].path} and {reader.path} are both of rank {rank}: "
                "give the traces of one run"
            )
        known[rank] = reader


def _joined(ranks: Sequence[_Rank]) -> list[Row]:
    """The rows of all ranks, those of one key as one."""
    found: dict[Hashable, Any] = {}
    for rank, _, reader in ranks:
        for key, row in reader.rows():
            if isinstance(row, Incident):
                row = replace(row, rank=rank)
            if key not in found:
                found[key] = row
            elif hasattr(row, "joined"):
                found[key] = found[key].joined(row)
    return [row for row in found.values() if not isinstance(row, Attempts)]


def _longest(attempts: Mapping[int, Sequence[Attempts]]) -> list[Attempts]:
    """Of each optimizer the attempts of the rank that came furthest, the first of several."""
    best: dict[int, list[Attempts]] = {}
    for rows in attempts.values():
        for index, own in _by_optimizer(rows).items():
            if index not in best or own[-1].last > best[index][-1].last:
                best[index] = own
    return [row for rows in best.values() for row in rows]


def _by_optimizer(rows: Iterable[Attempts]) -> dict[int, list[Attempts]]:
    found: dict[int, list[Attempts]] = {}
    for row in rows:
        found.setdefault(row.optimizer, []).append(row)
    return found


def _part(attempts: Mapping[int, Sequence[Attempts]]) -> dict[str, Any] | None:
    """The first step that one rank applied and another skipped, of all optimizers."""
    parts: list[dict[str, Any]] = []
    for index in {row.optimizer for rows in attempts.values() for row in rows}:
        mine = {rank: _by_optimizer(rows).get(index, []) for rank, rows in attempts.items()}
        starts = sorted({row.first for rows in mine.values() for row in rows})
        for step in starts:  # between two of them nothing changes
            outcome = {
                rank: next((row.applied for row in rows if row.first <= step <= row.last), None)
                for rank, rows in mine.items()
            }
            if {True, False} <= set(outcome.values()):
                skipped = [rank for rank, applied in outcome.items() if applied is False]
                applied = [rank for rank, each in outcome.items() if each]
                parts.append(
                    {"optimizer": index, "step": step, "skipped": skipped, "applied": applied}
                )
                break
    return min(parts, key=lambda each: int(each["step"]), default=None)


def _first_bad(incidents: Sequence[Incident]) -> dict[str, Any] | None:
    """Where and in which ranks numbers went wrong first; forward comes before backward."""

    def order(row: Incident) -> tuple[bool, int, bool]:
        return row.judgement in _PASSED_ON, row.first_step, row.kind.startswith("gradient")

    first = min(incidents, key=order, default=None)
    if first is None:
        return None
    same = [row for row in incidents if order(row) == order(first)]
    return {
        "ranks": sorted({row.rank for row in same}),
        "step": first.first_step,
        "layer": first.layer,
        "kind": first.kind,
    }


def _explanation(metas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Why the first rank that tells so has died."""
    keys = ("explanation", "explained_by")
    told = (each for each in metas if each.get("explanation"))
    return {key: value for each in islice(told, 1) for key in keys if (value := each.get(key))}


def _facts(metas: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    first, *_ = everyone = list(metas.values())
    size = max(int(meta.get("world_size") or 1) for meta in everyone)
    codes = [meta.get("exit_code") for meta in everyone]
    ends = [meta["ended"] for meta in everyone if meta.get("ended")]
    open_ones = [meta for meta in everyone if meta.get("exit_code") is None]
    flushed = [meta["flushed"] for meta in open_ones or everyone if meta.get("flushed")]
    costs = [meta["overhead"] for meta in everyone if meta.get("overhead")]
    died = [
        f"rank {rank}: {meta['exception']}" for rank, meta in metas.items() if meta["exception"]
    ]
    unseen = {
        f"rank {rank}: {text}" for rank, meta in metas.items() for text in meta["probe_errors"]
    }
    return {
        **first,
        "ranks": list(metas),
        "missing_ranks": sorted(set(range(size)) - set(metas)),
        "world_size": size,
        "started": min(str(meta.get("started")) for meta in everyone),
        "ended": max(ends) if len(ends) == len(everyone) else None,
        "flushed": min(flushed, default=None),
        "complete": all(meta.get("complete") for meta in everyone),
        "exit_code": None if None in codes else next(filter(None, codes), 0),
        "exception": "; ".join(died) or None,
        **_explanation(everyone),
        "probe_errors": sorted(unseen),
        "cast_steps": sum(meta.get("cast_steps") or 0 for meta in everyone) or None,
        "cast_steps_of": _cast_steps_of(everyone),
        "float32_operations": _operations(everyone),
        "repeated_casts": _repeated(everyone),
        "skips": _skips(everyone),
        "overhead": max(costs, key=lambda each: each["share"], default=None),
        **{
            fact: {k: v for meta in everyone for k, v in (meta.get(fact) or {}).items()}
            for fact in ("sources", "modules")
        },
    }


def _operations(metas: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """The operations that computed in float32, counted in the same steps as the casts."""
    total: dict[str, dict[str, dict[str, int]]] = {}
    for meta in metas:
        for layer, operations in (meta.get("float32_operations") or {}).items():
            for operation, reasons in operations.items():
                known = total.setdefault(layer, {}).setdefault(operation, {})
                for why, number in reasons.items():
                    known[why] = known.get(why, 0) + number
    return total


def _cast_steps_of(metas: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """By layer that took part in some of the steps only, in how many of those of all ranks."""
    metas = list(metas)
    some = {layer for meta in metas for layer in meta.get("cast_steps_of") or ()}
    return {
        layer: sum(
            (meta.get("cast_steps_of") or {}).get(layer, meta.get("cast_steps") or 0)
            for meta in metas
        )
        for layer in some
    }


def _repeated(metas: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """By layer, the casts that repeat others, in the step and the rank that had most."""
    most: dict[str, int] = {}
    for meta in metas:
        for layer, number in (meta.get("repeated_casts") or {}).items():
            most[layer] = max(number, most.get(layer, 0))
    return most


def _skips(metas: Iterable[Mapping[str, Any]]) -> list[list[Any]]:
    """Stretches of skipped steps; what one rank knows of where it began completes the others."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for meta in metas:
        for optimizer, first, last, layers in meta.get("skips") or ():
            known = found.setdefault((optimizer, first, last), [])
            known += [layer for layer in layers if layer not in known]
    return [[*stretch, layers] for stretch, layers in sorted(found.items())]


def _problems(ranks: Sequence[_Rank]) -> list[Problem]:
    """The findings of all ranks, each once, with the first rank that made it."""
    found: dict[Hashable, Problem] = {}
    for rank, _, reader in ranks:
        for each in reader.problems():
            moment = None if each.moment is None else replace(each.moment, rank=rank)
            found.setdefault((each.rule, each.span), replace(each, moment=moment))
    return list(found.values())
