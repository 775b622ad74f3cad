"""Conditions: what is known to be true on a path, and what must be asked.

A condition is a `Thing` whose description is its structure, so that `if use_amp:` asked twice is one
question, and `if not (use_amp and fp16):` is taken apart into the questions it is made of.
"""

from __future__ import annotations

from mpaudit.source.engine.path import Fork, Identities, Path
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Choice,
    Const,
    Pack,
    Thing,
    Value,
    newest,
)

COMPOSED = ("and", "or")
"""The operations whose answer follows from those to their operands."""


class Logic:
    """Truth on a path. `identities` are those of the analysis."""

    def __init__(self, identities: Identities) -> None:
        self.identities = identities

    def term(self, operation: str, *operands: Value, text: str = "") -> Thing:
        """The symbolic result of an operation: equal operands give the equal thing."""
        number = self.identities.number(operation, *operands)
        return Thing(number, since=newest(*operands), text=text)

    def negate(self, value: Value) -> Value:
        """`not value`."""
        if isinstance(value, Const):
            return FALSE if value.value else TRUE
        if isinstance(value, Thing):
            operation, *operands = self.identities.description(value.uid)
            if operation == "not" and isinstance(operands[0], Value):
                return operands[0]
        return self.term("not", value)

    def is_none(self, value: Value) -> Value:
        """`value is None`."""
        if isinstance(value, Const):
            return TRUE if value == NONE else FALSE
        if isinstance(value, Choice):
            yes, no = self.is_none(value.yes), self.is_none(value.no)
            if isinstance(yes, Const) and isinstance(no, Const):
                if yes == no:
                    return yes
                return value.condition if yes == TRUE else self.negate(value.condition)
            return Choice(value.condition, yes, no)
        if isinstance(value, Thing) and not value.kind:
            return self.term("is None", value)
        return FALSE

    def truth(self, value: Value | None, path: Path) -> bool | None:
        """Whether `value` is true on this path, None if that is not known."""
        if value is None:
            return None
        if isinstance(value, Const):
            return bool(value.value)
        if isinstance(value, Choice):
            chosen = path.facts.get(value.condition)
            if chosen is None:
                chosen = self.truth(value.condition, path)
            if chosen is not None:
                return self.truth(value.yes if chosen else value.no, path)
            yes, no = self.truth(value.yes, path), self.truth(value.no, path)
            return path.facts.get(self.whole(value)) if yes is None or yes is not no else yes
        if isinstance(value, Pack):
            return bool(value.items)
        if isinstance(value, Thing):
            return self._truth(value, path)
        return True

    def decide(self, value: Value, path: Path) -> bool:
        """Whether `value` is true. Raises Fork with the question that has to be answered first."""
        known = self.truth(value, path)
        if known is None:
            raise Fork(self.question(value, path))
        self.remember(value, path)
        return known

    def remember(self, value: Value, path: Path) -> None:
        """Note the answer to a question that was put together from others.

        It outlives a join of paths that agree in it for different reasons.
        """
        value = self._positive(value)
        if isinstance(value, Choice):
            known = self.truth(value, path)
            if known is not None and not (
                isinstance(value.yes, Const) and isinstance(value.no, Const)
            ):
                path.facts[self.whole(value)] = known
            value = value.condition
        if isinstance(value, Thing) and value not in path.facts:
            composed = self.identities.description(value.uid)[0] in COMPOSED
            known = self.truth(value, path) if composed else None
            if known is not None:
                path.facts[value] = known

    def answer(self, question: Thing, answer: bool, path: Path) -> None:
        """Note an answer, and what follows from it for questions of which the whole was answered before."""
        path.facts[question] = answer
        for asked, whole in list(path.facts.items()):
            operation, *parts = self.identities.description(asked.uid)
            if operation not in COMPOSED:
                continue
            short = operation == "or"
            known = {part: self.truth(_value(part), path) for part in parts}
            undecided = [_value(part) for part, truth in known.items() if truth is None]
            if whole is not short or (len(undecided) == 1 and short not in known.values()):
                for part in undecided:
                    turned = self._positive(part)
                    if isinstance(turned, Thing):
                        path.facts[turned] = whole is self._even(part)

    def _even(self, value: Value) -> bool:
        """Whether a question is not turned round by `not`."""
        if isinstance(value, Thing):
            operation, *operands = self.identities.description(value.uid)
            if operation == "not":
                return not self._even(_value(operands[0]))
        return True

    def _positive(self, value: Value) -> Value:
        """The question that `not` turns round: it is the one that is asked again."""
        while isinstance(value, Thing):
            operation, *operands = self.identities.description(value.uid)
            if operation != "not":
                break
            value = _value(operands[0])
        return value

    def whole(self, value: Choice) -> Thing:
        """What stands for the question whether a Choice is true, whatever its sides are."""
        return self.term("whole", value)

    def decisive(self, value: Value) -> None:
        """Paths that differ in what this value rests on are kept apart while a protocol is under way."""
        if isinstance(value, Choice):
            for part in (value.condition, value.yes, value.no):
                self.decisive(part)
        elif isinstance(value, Thing):
            self.identities.decisive.add(value)
            operation, *operands = self.identities.description(value.uid)
            if operation in ("not", *COMPOSED):
                for operand in operands:
                    self.decisive(_value(operand))

    def pick(self, value: Value, path: Path) -> Value:
        """The value that a Choice is on this path. Raises Fork where its condition is open."""
        while isinstance(value, Choice):
            value = value.yes if self.decide(value.condition, path) else value.no
        return value

    def settled(self, value: Value | None, path: Path) -> Value | None:
        """The value that a Choice is on this path, the Choice itself where its condition is open."""
        while isinstance(value, Choice):
            known = self.truth(value.condition, path)
            if known is None:
                return value
            value = value.yes if known else value.no
        return value

    def question(self, value: Value, path: Path) -> Thing:
        """The first open question that the truth of `value` depends on."""
        if isinstance(value, Choice):
            if self.truth(value.condition, path) is None:
                return self.question(value.condition, path)
            settled = self.settled(value, path)
            assert settled is not None
            return self.question(settled, path)
        assert isinstance(value, Thing)
        operation, *operands = self.identities.description(value.uid)
        if operation in ("not", "and", "or"):
            for operand in operands:
                if isinstance(operand, Value) and self.truth(operand, path) is None:
                    return self.question(operand, path)
        return value

    def _truth(self, thing: Thing, path: Path) -> bool | None:
        known = path.facts.get(thing)
        if known is not None:
            return known
        operation, *operands = self.identities.description(thing.uid)
        if operation == "not":
            inner = self.truth(_value(operands[0]), path)
            return None if inner is None else not inner
        if operation in ("and", "or"):
            short = operation == "or"
            answers = [self.truth(_value(operand), path) for operand in operands]
            if short in answers:
                return short
            return None if None in answers else not short
        if operation == "is None":
            subject = operands[0]
            assert isinstance(subject, Thing)
            holds = path.facts.get(subject)
            return None if holds is None else not holds
        if operation == "==":
            subject, constant = operands
            for asked, answer in path.facts.items():
                if not answer:
                    continue
                other, *others = self.identities.description(asked.uid)
                if other != "==":
                    continue
                if others[0] == subject and others[1] != constant:
                    return False
                if others[1] == constant and self._neighbours(others[0], subject):
                    return False
            return None
        if thing.kind:
            return True if thing.kind not in ("list", "dict") else None
        none = path.facts.get(Thing(self.identities.number("is None", thing)))
        return None if none is None else not none

    def _neighbours(self, one: object, other: object) -> bool:
        """Whether these are remainders of neighbours, `i % n` and `(i + 1) % n`: never equal."""
        if not isinstance(one, Thing) or not isinstance(other, Thing):
            return False
        (mod, a, *n), (too, b, *m) = map(self.identities.description, (one.uid, other.uid))
        if mod != "Mod" or too != "Mod" or n != m or n == [Const(1)]:
            return False
        after = {self.term("Add", v, Const(1)) for v in (a, b) if isinstance(v, Thing)}
        return a in after or b in after


def _value(operand: object) -> Value:
    assert isinstance(operand, Value)
    return operand
