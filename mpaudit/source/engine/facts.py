"""What a computed value inherits from the values it was computed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mpaudit.source.engine.path import UNSET, Identities, Path
from mpaudit.source.engine.tape import taped
from mpaudit.source.engine.values import (
    NOWHERE,
    TRUE,
    UNKNOWN,
    Choice,
    Const,
    External,
    Namespace,
    Pack,
    Partial,
    Thing,
    Value,
)

NOTHING: Mapping[Thing, bool] = {}
"""No answers that are assumed."""
PLAIN = frozenset(
    """library instance super list dict device finfo Accelerator Prepared TrainingArguments
    HFTrainer""".split()  # noqa: SIM905
) | {""}
"""Kinds of things that matter only by what they hold."""
INHERITED = ("@region", "@scale_of", "@engine")
"""What a computed value has in common with what it was computed from."""
PASSED_ON = frozenset(
    ["@scaled", "@owners", "@weighted", "@scale_of", "@tape", "@through", *INHERITED]
)
"""What is asked of the sources of a computed value."""
TELLING = (
    "@region",
    "@activation",
    "@owners",
    "@gradient",
    "@scale_of",
    "@tape",
    "@dtype",
    "@wide",
    "@param_dtype",
)
"""What is known of values that matter."""


def inherit(made: Thing, sources: Sequence[Value], path: Path, *, scales: bool = False) -> Thing:
    """Let a computed value inherit what is known of its sources.

    scaled: the scalers it was multiplied by; region: the autocast region it was computed in;
    owners: the models whose parameters it holds; tape: the gradients it was made of; through: the
    prepared models it comes from; weighted: multiplied by who knows what (`scales`).
    """
    every: list[tuple[Value, Mapping[Thing, bool]]] = []
    for source in sources:
        if isinstance(source, Const):
            every.append((source, NOTHING))
        elif isinstance(source, (Choice, Pack)):
            every += _assumed(source, path, NOTHING)
        else:
            every += [(part, NOTHING) for part in parts(source, path)]
    flat = [
        (part, assumed)
        for part, assumed in every
        if isinstance(part, Thing) and path.heap.holds(part.uid)
    ]
    if not flat:  # as for most values: nothing is known of any of them
        return path.learn(made, weighted=TRUE) if scales and _weighs(sources, path) else made
    scaled: Value | None = None
    owners: dict[Value, None] = {}
    through: dict[Value, None] = {}
    prepared = (0, "@prepared") in path.heap
    weighted, is_scale, is_taped = 0, False, False
    for part, assumed in flat:
        facts = path.heap.names(part.uid)
        if PASSED_ON.isdisjoint(facts):
            continue
        fact = _known(facts.get("@scaled"), path, assumed)
        if fact is not None and (scaled is None or scaled == UNKNOWN):
            scaled = fact
        elif isinstance(fact, Pack) and isinstance(scaled, Pack):
            scaled = Pack(tuple(dict.fromkeys((*scaled.items, *fact.items))))
        held = _known(facts.get("@owners"), path, assumed)
        if isinstance(held, Pack):
            owners.update(dict.fromkeys(held.items))
        weighted += _known(facts.get("@weighted"), path, NOTHING) is not None
        is_scale = is_scale or _known(facts.get("@scale_of"), path, NOTHING) is not None
        is_taped = is_taped or _known(facts.get("@tape"), path, NOTHING) is not None
        passed = _known(facts.get("@through"), path, NOTHING) if prepared else None
        if isinstance(passed, Pack):
            through.update(dict.fromkeys(passed.items))
        for name in INHERITED:
            fact = _known(facts.get(name), path, assumed)
            if fact is not None:
                path.heap[(made.uid, name)] = fact
    if is_taped:
        path.learn(made, tape=taped(sources, path))
    if scales and is_scale:
        scaled = UNKNOWN
    if (weighted and weighted == len(every)) or (scales and _weighs(sources, path)):
        path.learn(made, weighted=TRUE)
    if through:
        path.learn(made, through=Pack(tuple(through)))
    return path.learn(made, scaled=scaled, owners=Pack(tuple(owners)) if owners else None)


def beyond(made: Thing, sources: Sequence[Value], path: Path) -> Thing:
    """Let what a function returns that is not followed inherit: it may have divided gradients."""
    inherit(made, sources, path)
    return made if path.known(made, "@tape") is None else path.learn(made, tape=UNKNOWN)


def computed(made: Thing, sources: Sequence[Value], path: Path) -> Thing:
    """Let a value inherit from its sources that was computed by code which never calls `scale()`.

    It may still be a scaled loss that an object among the sources has kept.
    """
    inherit(made, sources, path)
    if path.known(made, "@scaled") is None:
        held = (v for each in sources if isinstance(each, Thing) for _, v in path.heap.of(each.uid))
        kept = any(path.known(value, "@scaled") not in (None, Pack(())) for value in held)
        path.learn(made, scaled=UNKNOWN if kept else Pack(()))
    return made


def item_of(over: Value, each: Value, path: Path, identities: Identities) -> Value:
    """The item of a comprehension in this pass of a loop; loops over the same meet the same items."""
    iteration = path.frame.iteration
    if iteration == NOWHERE:
        return each
    if isinstance(each, Pack):
        return Pack(tuple(item_of(over, part, path, identities) for part in each.items))
    if not isinstance(each, Thing):
        return each
    _, _, _, outer, index = identities.description(iteration[1])
    made = Thing(identities.number("item", over, each, outer, index), each.kind, iteration)
    for name, value in path.heap.of(each.uid):
        if name.startswith("@"):  # what one of them holds, each of the others holds for itself
            path.heap[(made.uid, name)] = value
    return made


def carries(value: Value, path: Path, depth: int = 2) -> bool:
    """Whether a value is, or holds, something that a summary or a protocol knows more of."""
    if isinstance(value, Pack):
        return any(carries(item, path, depth) for item in value.items)
    if isinstance(value, Choice):
        return carries(value.yes, path, depth) or carries(value.no, path, depth)
    if isinstance(value, Thing):
        if value.kind not in PLAIN:
            return True
        if any(path.known(value, fact) is not None for fact in TELLING):
            return True
        return depth > 0 and any(
            carries(held, path, depth - 1)
            for name, held in path.heap.of(value.uid)
            if not name.startswith("@") or name == "@items"
        )
    return not isinstance(value, (Const, External, Namespace))


def _assumed(
    value: Value, path: Path, assumed: Mapping[Thing, bool]
) -> Iterator[tuple[Value, Mapping[Thing, bool]]]:
    """The parts of a value, each with the answers under which it is what the value holds."""
    if isinstance(value, Choice):
        for side, answer in ((value.yes, True), (value.no, False)):
            yield from _assumed(side, path, {**assumed, value.condition: answer})
    elif isinstance(value, Pack):
        for item in value.items:
            yield from _assumed(item, path, assumed)
    else:
        for part in parts(value, path):
            yield part, assumed


def _known(fact: Value | None, path: Path, assumed: Mapping[Thing, bool]) -> Value | None:
    if fact is None:
        return None
    fact = path.settled(fact)
    if fact is None or not assumed:
        return fact
    while isinstance(fact, Choice) and fact.condition in assumed:
        fact = fact.yes if assumed[fact.condition] else fact.no
    return None if fact is UNSET else fact


def parts(value: Value, path: Path) -> list[Value]:
    """A value and, for a container, what is known to be in it."""
    if isinstance(value, Thing):
        items = path.known(value, "@items") if value.kind in ("list", "dict") else None
        if isinstance(items, Pack):
            return [value, *(part for item in items.items for part in parts(item, path))]
        return [value]
    if isinstance(value, Pack):
        return [part for item in value.items for part in parts(item, path)]
    if isinstance(value, Choice):
        return [*parts(value.yes, path), *parts(value.no, path)]
    if isinstance(value, Partial):
        return [
            p for v in (*value.arguments, *(v for _, v in value.keywords)) for p in parts(v, path)
        ]
    return [value]


def _weighs(sources: Sequence[Value], path: Path) -> bool:
    """Whether one factor of a product may be a loss scale: a large constant, or unknown."""
    for source in sources:
        if isinstance(source, Const) and isinstance(source.value, (int, float)):
            if source.value >= 64:
                return True
        elif path.known(source, "@region") is None:
            return True
    return False
