"""The dtype of a tensor, as far as the source tells, and the place where it became so.

It is kept as the hidden fact `@dtype` of a thing: a `Dtype`, or a Choice of such where it rests on an
open question (a region with `enabled=use_amp`). No fact means that nothing is known, and nothing is
reported of such a tensor. What operations make of the dtypes of their inputs, and what autocast does
to them, stands in `mpaudit.source.library.torch.dtypes`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from msgspec import Struct

from mpaudit.finding import Related, Span
from mpaudit.source.engine.path import Path
from mpaudit.source.engine.values import UNKNOWN, Choice, Const, External, Thing, Value

HALF = ("float16", "bfloat16")
DTYPES = {
    "torch.float16": "float16",
    "torch.half": "float16",
    "torch.bfloat16": "bfloat16",
    "torch.float32": "float32",
    "torch.float": "float32",
    "torch.float64": "float64",
    "torch.double": "float64",
    "torch.int64": "int64",
    "torch.long": "int64",
    "torch.int32": "int32",
    "torch.int": "int32",
    "torch.int16": "int16",
    "torch.short": "int16",
    "torch.int8": "int8",
    "torch.uint8": "uint8",
    "torch.bool": "bool",
    "torch.HalfTensor": "float16",
    "torch.BFloat16Tensor": "bfloat16",
    "torch.FloatTensor": "float32",
    "torch.DoubleTensor": "float64",
    "torch.LongTensor": "int64",
    "torch.cuda.HalfTensor": "float16",
    "torch.cuda.BFloat16Tensor": "bfloat16",
    "torch.cuda.FloatTensor": "float32",
    "torch.cuda.LongTensor": "int64",
}
"""The plain name behind every name that `torch` has for a dtype."""
MAX_QUESTIONS = 3
"""A dtype that depends on more open questions than this counts as unknown."""


class Dtype(Struct, frozen=True):
    """What is known of a tensor: the plain name of its dtype ("float16"), and since where.

    `how` says what gave it the dtype: "computed" (by autocast, in `region`), "cast" or "made". A
    tensor without dimensions (`lone`) does not decide the dtype of what is computed from it and from
    others.
    """

    name: str
    at: Span | None = None
    how: str = "made"
    region: Span | None = None
    lone: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dtype) and (self.name, self.lone) == (other.name, other.lone)

    def __hash__(self) -> int:
        return hash((self.name, self.lone))


_NOTHING = ("?", "<unset>")
_HOW = {
    "computed": "autocast computes this in {}",
    "cast": "cast to {} here",
    "made": "made as {} here",
}


def dtype_of(value: Value | None, path: Path) -> str | None:
    """The dtype of a tensor on this path, None where it is not known.

    What rests on a switch that is still open is answered for the case that it is on.
    """
    known = dtype(value, path)
    return known.name if known is not None else None


def since(value: Value | None, path: Path) -> Span | None:
    """The place that gave a tensor its dtype: a region, a cast, a constructor."""
    known = dtype(value, path)
    return known.at if known is not None else None


def reasons(value: Value | None, path: Path) -> tuple[Related, ...]:
    """How a tensor came to its dtype, as evidence: what gave it to it, and in which region."""
    known = dtype(value, path)
    return () if known is None else reasons_of(known)


def reasons_of(known: Dtype) -> tuple[Related, ...]:
    """How a tensor came to its dtype, as evidence."""
    places = (
        (known.at, _HOW[known.how].format(known.name)),
        (known.region, "the region is entered here"),
    )
    return tuple(Related(at, message) for at, message in places if at is not None)


def typed(made: Thing, dtype: str, at: Span | None, path: Path, how: str = "made") -> Thing:
    """Note the dtype of a tensor. Returns the tensor."""
    return learned(made, Const(Dtype(dtype, at, how)), path)


def learned(made: Thing, fact: Value | None, path: Path) -> Thing:
    """Note what `combined` says of a tensor; None wipes out what was known. Returns the tensor."""
    if fact is None and path.heap.get((made.uid, "@dtype")) is None:
        return made
    return path.learn(made, dtype=UNKNOWN if fact is None else fact)


def dtype(value: Value | None, path: Path) -> Dtype | None:
    """What is known of a tensor's dtype in every case in which anything is known of it."""
    found = {each.name: each for each in _leaves(fact(value, path), path) if each is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def parameter_dtype(module: Value | None, path: Path) -> Dtype | None:
    """The dtype that a script has cast a module's parameters to, with the place, if it has."""
    known = None if module is None else path.known(module, "@param_dtype")
    found = {each.name: each for each in _leaves(known, path) if each is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def possible(value: Value | None, path: Path) -> set[str]:
    """All dtypes that a tensor may have, whatever the open questions turn out to be."""
    return {each.name for each in _leaves(fact(value, path), path) if each is not None}


def fact(value: Value | None, path: Path) -> Value | None:
    """The fact itself, for `combined`; of a Choice of tensors, the Choice of their facts."""
    if isinstance(value, Choice):
        answer = path.facts.get(value.condition)
        if answer is not None:
            return fact(value.yes if answer else value.no, path)
        yes = _answered(fact(value.yes, path), value.condition, True)
        no = _answered(fact(value.no, path), value.condition, False)
        if yes is None and no is None:
            return None
        return Choice(value.condition, yes or UNKNOWN, no or UNKNOWN)
    return None if value is None else path.known(value, "@dtype")


def combined(
    compute: Callable[..., Hashable | None],
    operands: Sequence[Value | None],
    path: Path,
    left: int = MAX_QUESTIONS,
) -> Value | None:
    """The fact that `compute` makes of what its operands are, in every case that they can be.

    `compute` is given what the constants hold, None for what is not known, and answers in kind.
    """
    settled = [_settled(operand, path) for operand in operands]
    open_one = next((each for each in settled if isinstance(each, Choice)), None)
    if open_one is None:
        result = compute(*map(_held, settled))
        return None if result is None else Const(result)
    if not left:
        return None
    condition = open_one.condition
    yes, no = (
        combined(compute, [_answered(o, condition, answer) for o in settled], path, left - 1)
        for answer in (True, False)
    )
    if yes == no:
        return yes
    return Choice(condition, yes or UNKNOWN, no or UNKNOWN)


def dtype_named(value: Value | None) -> str | None:
    """The plain name of a dtype object of torch, None for anything else."""
    return DTYPES.get(value.name) if isinstance(value, External) else None


def same_dtype(left: Value, right: Value) -> bool | None:
    """Whether two dtype objects are the same, None where one of them is something else.

    Those of TensorFlow are equal to their names.
    """
    one, two = dtype_named(left), dtype_named(right)
    if one is None or two is None:
        one, two = _of_tensorflow(left), _of_tensorflow(right)
        if isinstance(left, Const) and isinstance(right, Const):
            return None
    return None if one is None or two is None else one == two


def _of_tensorflow(value: Value) -> str | None:
    name = value.name if isinstance(value, External) else ""
    if isinstance(value, Const) and isinstance(value.value, str):
        name = f"tensorflow.{value.value}"
    plain = name.removeprefix("tensorflow.").removeprefix("dtypes.")
    known = {"half": "float16", "double": "float64", "bool": "bool"}.get(plain, plain)
    return known if name.startswith("tensorflow.") and f"torch.{known}" in DTYPES else None


def _leaves(value: Value | None, path: Path) -> Iterator[Dtype | None]:
    value = _settled(value, path)
    if isinstance(value, Choice):
        yield from _leaves(value.yes, path)
        yield from _leaves(value.no, path)
    else:
        held = _held(value)
        yield held if isinstance(held, Dtype) else None


def _settled(value: Value | None, path: Path) -> Value | None:
    while isinstance(value, Choice):
        answer = path.facts.get(value.condition)
        if answer is None:
            return value
        value = value.yes if answer else value.no
    return value


def _answered(value: Value | None, condition: Thing, answer: bool) -> Value | None:
    if not isinstance(value, Choice):
        return value
    if value.condition == condition:
        return _answered(value.yes if answer else value.no, condition, answer)
    yes = _answered(value.yes, condition, answer)
    no = _answered(value.no, condition, answer)
    return Choice(value.condition, yes or UNKNOWN, no or UNKNOWN)


def _held(value: Value | None) -> Hashable | None:
    return value.value if isinstance(value, Const) and value.value not in _NOTHING else None
