"""Paths that no protocol can tell apart, joined into one."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from mpaudit.source.engine.heap import Place
from mpaudit.source.engine.path import UNSET, Identities, Path
from mpaudit.source.engine.values import Choice, Const, Pack, Thing, Value, newest

MAX_CHOICE_DEPTH = 4
OPTIMIZER = "Optimizer"
UNLIKE = frozenset([Const("torch.optim.LBFGS"), Const("torch.optim.lbfgs.LBFGS")])
"""Makers of optimizers that step in a way of their own."""
SCOPES = ("scope", "module")
"""The owners whose names are variables."""

Telling = Callable[[Value], bool]
"""Whether a protocol would miss a value if it became unknown."""


def merge(paths: list[Path], limit: int, identities: Identities, telling: Telling) -> list[Path]:
    """Join paths that no protocol can tell apart; what differs becomes a `Choice`.

    Two paths are joined if they leave the same way, in the same regions and, but for places, in the same
    protocol states, and either hold the same everywhere or differ in the answer to one condition. At most
    `limit` paths are kept: beyond it, paths are dropped rather than guessed at.
    """
    if len(paths) < 2:
        return paths
    groups: dict[Hashable, list[Path]] = {}
    for path in paths:
        key = (path.exit, path.regions, path.standing.shape, len(path.frames))
        group = groups.setdefault(key, [])
        for other in group:
            standing = other.standing.joined(path.standing)
            if standing is not None and _join(other, path, identities, telling):
                other.standing = standing
                break
        else:
            group.append(path)
    return [path for group in groups.values() for path in group][:limit]


def _join(kept: Path, other: Path, identities: Identities, telling: Telling) -> bool:
    """Fold `other` into `kept`; False if that would mix up what a protocol must tell apart.

    Where the paths differ in the answer to exactly one condition, what they hold becomes a Choice;
    otherwise it becomes unknown, unless it is a thing that a protocol watches.
    """
    agreed = kept.facts == other.facts  # then none of them is looked at
    conditions = [
        asked
        for asked, answer in (() if agreed else kept.facts.items())
        if other.facts.get(asked, answer) is not answer
    ]
    condition = _deciding(conditions, identities)
    if (
        not agreed
        and kept.standing.busy
        and not identities.decisive.isdisjoint(
            asked for asked, _ in kept.facts.items() ^ other.facts.items() if asked != condition
        )
        and not _within(kept, other)
    ):
        return False  # what is under way would go on with the other scaler
    positive = condition is None or kept.facts[condition]
    merged: list[tuple[Place | None, Value]] = []
    choice: Value | None
    if kept.result != other.result:
        choice = _alike(kept.result, other.result, kept, other, identities)
        choice = choice or _either(
            condition, kept.result, other.result, positive, identities, telling
        )
        if choice is None:
            return False
        merged.append((None, choice))
    for place, one, two in kept.heap.differences(other.heap):
        alike = _alike(one, two, kept, other, identities)
        if alike is not None:
            choice = alike
        elif (one is None or two is None) and identities.description(place[0])[0] in SCOPES:
            choice = one or two  # where the name is not set, reading it would raise NameError
        else:
            hidden = place[1].startswith("@")  # a fact that gets lost silences, and misleads nobody
            watched = _nothing if hidden else telling
            choice = _either(condition, one, two, positive, identities, watched)
        if choice is None:
            return False
        merged.append((place, choice))
    for where, choice in merged:
        if where is not None:
            kept.heap[where] = choice
        else:
            kept.result = choice
    if not agreed:
        kept.facts = {asked: a for asked, a in kept.facts.items() if other.facts.get(asked) is a}
    return True


def _within(one: Path, two: Path) -> bool:
    """Whether one of two paths is a case of the other: it holds the same, and has answered more."""
    fewer, more = sorted((one.facts.items(), two.facts.items()), key=len)
    if not fewer <= more or one.result != two.result:
        return False
    return next(one.heap.differences(two.heap), None) is None


def _alike(
    one: Value | None, two: Value | None, kept: Path, other: Path, identities: Identities
) -> Value | None:
    """One optimizer for two of the same parameters, SGD or Adam: no protocol treats them differently."""
    if isinstance(one, Pack) and isinstance(two, Pack) and len(one.items) == len(two.items):
        items = [
            a if a == b else _alike(a, b, kept, other, identities)
            for a, b in zip(one.items, two.items, strict=True)
        ]
        return None if None in items else Pack(tuple(item for item in items if item is not None))
    if not isinstance(one, Thing) or not isinstance(two, Thing):
        return None
    if one.kind != OPTIMIZER or two.kind != OPTIMIZER:
        return None
    facts, others = dict(kept.heap.of(one.uid)), dict(other.heap.of(two.uid))
    makers = [each.pop("@maker", None) for each in (facts, others)]
    if facts != others or any(maker in UNLIKE for maker in makers):
        return None
    made = Thing(identities.number("either", one, two), OPTIMIZER, newest(one, two))
    for name, value in facts.items():
        kept.heap[(made.uid, name)] = value
    return made


def _deciding(conditions: list[Thing], identities: Identities) -> Thing | None:
    """The one condition that two paths differ in; of one and its own parts, it is the whole."""
    for each in conditions:
        if all(other == each or _part_of(other, each, identities) for other in conditions):
            return each
    return None


def _part_of(part: Thing, whole: Thing, identities: Identities) -> bool:
    key = (part, whole)
    known = identities.within.get(key)
    if known is None:
        known = identities.within[key] = _is_within(part, whole, identities)
    return known


def _is_within(part: Thing, whole: Thing, identities: Identities) -> bool:
    waiting, seen = [whole], {whole}
    while waiting:
        for operand in identities.description(waiting.pop().uid):
            for each in _things(operand):
                if each == part:
                    return True
                if each not in seen:
                    seen.add(each)
                    waiting.append(each)
    return False


def _things(value: object) -> list[Thing]:
    if isinstance(value, Choice):
        return [t for each in (value.condition, value.yes, value.no) for t in _things(each)]
    return [value] if isinstance(value, Thing) else []


def _either(
    condition: Thing | None,
    one: Value | None,
    two: Value | None,
    positive: bool,
    identities: Identities,
    telling: Telling,
) -> Value | None:
    """One value for two: a Choice, something unknown, or None where neither will do."""
    one, two = one or UNSET, two or UNSET
    told = telling is not _nothing and (telling(one) or telling(two))
    if condition is not None and _depth(one) + _depth(two) < MAX_CHOICE_DEPTH:
        if told:
            identities.decisive.add(condition)
        return Choice(condition, one, two) if positive else Choice(condition, two, one)
    if told:
        return None
    return Thing(identities.number("either", one, two), since=newest(one, two))


def _nothing(_: Value) -> bool:
    return False


def _depth(value: Value) -> int:
    if not isinstance(value, Choice):
        return 0
    yes, no = _depth(value.yes), _depth(value.no)
    return 1 + (yes if yes > no else no)  # max() would take longer than all the rest
