"""How far the values of arrays reach, where the source says so: random numbers, counts, literals.

It is kept as the fact `@range`: a Pack of the least and the greatest value that an array is known to come
near, and whether it holds whole numbers. Arithmetic with numbers, casts and changes of shape carry it
on; everything else (a mean that is subtracted, a division by a standard deviation, a function that is
not listed here) ends it.
"""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING

from mpaudit.source.api.keras_names import last
from mpaudit.source.engine.registry import on_operation, on_stored
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    UNKNOWN,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.python.number import number

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

RANGED = (-1, "@ranged")
"""Whether a range is known of anything on a path."""
Range = tuple[float, float, bool]
_LIBRARIES = ("numpy.", "tensorflow.", "keras.", "jax.numpy.")
_GENERATORS = ("numpy.random.default_rng", "numpy.random.RandomState", "numpy.random.Generator")
_DRAWING = frozenset(
    """uniform rand random random_sample randn standard_normal normal randint integers exponential
    lognormal arange range linspace full""".split()  # noqa: SIM905
)
_SAME = frozenset(
    """astype reshape copy squeeze ravel flatten transpose asarray array ascontiguousarray float32
    float64 expand_dims repeat tile abs round floor ceil cast convert_to_tensor constant identity
    from_tensor_slices from_tensors batch shuffle prefetch cache take skip sort rint""".split()  # noqa: SIM905
)
"""What leaves the values as they are, or nearly."""
_JOINING = ("stack", "concatenate", "concat", "hstack", "vstack", "column_stack", "c_")
_SPREAD = 2.0
"""How many standard deviations a normal distribution certainly reaches in an array of some length."""


def reach(value: Value | None, path: Path) -> Range | None:
    """The range of an array, a tensor or the first part of a dataset, None if it is not known."""
    known = None if value is None else path.known(value, "@range")
    if not isinstance(known, Pack):
        return None
    low, high, whole = known.items
    if not isinstance(low, Const) or not isinstance(high, Const):
        return None
    return float(str(low.value)), float(str(high.value)), whole == TRUE


def _learn(made: Thing, known: Range | None, path: Path) -> None:
    if known is None or not all(map(math.isfinite, known[:2])):
        return
    path.heap[RANGED] = TRUE
    low, high, whole = known
    path.learn(made, range=Pack((Const(low), Const(high), TRUE if whole else FALSE)))


@on_result(
    functions=lambda name: name.startswith(_LIBRARIES), methods=_DRAWING | _SAME | {*_JOINING}
)
def called(call: Call, callee: Value, made: Value) -> None:
    """`np.random.uniform(0, 1e6, (512, 8))`, `x.astype("float32")`, `np.stack([a, b], axis=1)`."""
    path = call.path
    if not isinstance(made, Thing):
        return
    if isinstance(callee, External):
        if callee.name in _GENERATORS:
            path.learn(made, generates=TRUE)
        name, source = last(callee.name), call.arguments[0] if call.arguments else None
        if name in _DRAWING and path.frame.module.mentions("float16"):
            _learn(made, _drawn(call, callee.name), path)
    else:
        name, source = call.name, call.receiver
        if name in _DRAWING and isinstance(source, Thing):
            generates = path.known(source, "@generates") is not None
            if generates and path.frame.module.mentions("float16"):
                _learn(made, _drawn(call, f"numpy.random.{name}"), path)
            return
    if name in _SAME and isinstance(source, Value):
        _learn(made, _known(source, path, call.engine), path)
        _retyped(call, name, made)
    elif name in _JOINING and RANGED in path.heap and source is not None:
        _learn(made, _hull(source, path, call.engine), path)


def _retyped(call: Call, name: str, made: Thing) -> None:
    """`x.astype("int32")`, `tf.cast(x, tf.float32)`: from there on whole numbers, or not."""
    given = call.argument(0 if name == "astype" else 1, "dtype")
    known = reach(made, call.path) if given is not None and RANGED in call.path.heap else None
    if known is not None:
        _learn(made, (*known[:2], "int" in str(given)), call.path)


def _known(value: Value, path: Path, engine: Calls) -> Range | None:
    """The range of an array; of a list of numbers, and of the first part of a tuple."""
    if RANGED in path.heap:
        known = reach(value, path)
        if known is not None:
            return known
    if isinstance(value, Pack):
        return _known(value.items[0], path, engine) if value.items else None
    if isinstance(value, Thing) and value.kind == "list" and path.frame.module.mentions("float16"):
        return _hull(value, path, engine)
    return None


def _hull(value: Value, path: Path, engine: Calls) -> Range | None:
    """The range of the parts of a list that are known: the others do not make it smaller."""
    items = value if isinstance(value, Pack) else path.known(value, "@items")
    found: list[Range] = []
    for item in items.items if isinstance(items, Pack) else ():
        plain = number(item, engine.identities)
        nested = isinstance(item, Thing) and item.kind == "list"
        known = _hull(item, path, engine) if nested else reach(item, path)
        if plain is not None:
            known = plain, plain, isinstance(item, Const) and isinstance(item.value, int)
        if known is not None:
            found.append(known)
    if not found:
        return None
    lows, highs, wholes = zip(*found, strict=True)
    return min(lows), max(highs), all(wholes)


def _drawn(call: Call, name: str) -> Range | None:
    """What a function that makes an array says of its values."""
    word, in_numpy = last(name), name.startswith(("numpy.", "jax."))
    first = 0 if in_numpy else 1
    if word in ("rand", "random", "random_sample"):
        return 0.0, 1.0, False
    if word in ("randn", "standard_normal"):
        return -_SPREAD, _SPREAD, False
    if word == "uniform":
        names = ("low", "high") if in_numpy else ("minval", "maxval")
        low, high = (_number(call, first + at, names[at], float(at)) for at in (0, 1))
        return None if low is None or high is None else (low, high, False)
    if word == "normal":
        names = ("loc", "scale") if in_numpy else ("mean", "stddev")
        middle, scale = (_number(call, first + at, names[at], float(at)) for at in (0, 1))
        if middle is None or scale is None:
            return None
        return middle - _SPREAD * scale, middle + _SPREAD * scale, False
    if word in ("exponential", "lognormal"):
        return _skewed(call, word)
    if word == "full":
        value = _number(call, 1, "fill_value", None)
        return None if value is None else (value, value, False)
    return _counted(call, word)


def _skewed(call: Call, word: str) -> Range | None:
    if word == "exponential":
        scale = _number(call, 0, "scale", 1.0)
        return None if scale is None else (0.0, _SPREAD * scale, False)
    middle, sigma = _number(call, 0, "mean", 0.0), _number(call, 1, "sigma", 1.0)
    if middle is None or sigma is None or middle + _SPREAD * sigma > 700:
        return None
    return 0.0, math.exp(middle + _SPREAD * sigma), False


def _counted(call: Call, word: str) -> Range | None:
    """`np.random.randint(0, 50000)`, `np.arange(100000)`, `np.linspace(0, 1e6, n)`."""
    start, stop = _number(call, 0, "low", None), _number(call, 1, "high", None)
    given = call.argument(1, "high")
    if word == "linspace":
        start, stop = _number(call, 0, "start", None), _number(call, 1, "stop", None)
        return None if start is None or stop is None else (start, stop, False)
    if given is None:
        start, stop = 0.0, start
    if start is None or stop is None or stop <= start:
        return None
    return start, stop - 1, True


def _number(call: Call, position: int, keyword: str, default: float | None) -> float | None:
    given = call.argument(position, keyword)
    return default if given is None else number(given, call.engine.identities)


@on_operation
def operated(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """`1e6 * x`, `x / 255.0`, `x[:64]`."""
    if RANGED not in path.heap:
        return
    first = reach(operands[0], path)
    if operation == "[]":
        if first is not None and _of_rows(operands[1], engine):
            _learn(made, first, path)
    elif operation == "USub" and first is not None:
        _learn(made, (-first[1], -first[0], first[2]), path)
    elif len(operands) == 2:
        _learn(made, _computed(operation, operands, first, engine, path), path)


def _of_rows(key: Value, engine: Calls) -> bool:
    """Whether a subscript takes some of the rows, and of these all: `x[:64]`, `x[:64, :]`, `x[None]`."""
    if isinstance(key, Pack):
        rest = [each for each in key.items[1:] if not (each == NONE or _whole(each, engine))]
        return bool(key.items) and not rest and _of_rows(key.items[0], engine)
    return key in (NONE, Const(Ellipsis)) or _slice(key, engine) is not None


def _slice(key: Value, engine: Calls) -> ast.Slice | None:
    if not isinstance(key, Thing):
        return None
    operation, *operands = engine.identities.description(key.uid) or ("",)
    node = operands[0] if operation == "made" and operands else None
    return node if isinstance(node, ast.Slice) else None


def _whole(key: Value, engine: Calls) -> bool:
    node = _slice(key, engine)
    return key == Const(Ellipsis) or (
        node is not None and node.lower is None and node.upper is None
    )


def _computed(
    operation: str,
    operands: tuple[Value, ...],
    first: Range | None,
    engine: Calls,
    path: Path,
) -> Range | None:
    second = reach(operands[1], path)
    left, right = (number(each, engine.identities) for each in operands)
    if first is not None and second is not None and operation == "Add":
        one, other = sorted((first, second), key=lambda each: each[1] - each[0])
        middle = (one[0] + one[1]) / 2  # the narrower one moves the wider one
        return other[0] + middle, other[1] + middle, first[2] and second[2]
    if first is not None and right is not None:
        low, high, whole = first
        ends = _ends(operation, low, high, right)
        return None if ends is None else (*ends, whole and operation != "Div")
    if second is not None and left is not None and operation in ("Add", "Mult", "Sub"):
        low, high, whole = second
        if operation == "Sub":
            return left - high, left - low, whole
        ends = _ends(operation, low, high, left)
        return None if ends is None else (*ends, whole)
    return None


def _ends(operation: str, low: float, high: float, by: float) -> tuple[float, float] | None:
    if operation == "Add":
        return low + by, high + by
    if operation == "Sub":
        return low - by, high - by
    if operation == "Mult":
        return min(low * by, high * by), max(low * by, high * by)
    if operation == "Div" and by:
        return min(low / by, high / by), max(low / by, high / by)
    return None


@on_stored
def stored(_: Calls, __: ast.Subscript, base: Value, ___: Value, value: Value, path: Path) -> None:
    """`x[:, 0] = np.random.uniform(0, 1e6, n)`: wider; of something unknown: nothing is known."""
    if RANGED not in path.heap or not isinstance(base, Thing) or base.kind:
        return
    before, put = reach(base, path), reach(value, path)
    if put is not None:
        low, high, whole = before or put
        _learn(base, (min(low, put[0]), max(high, put[1]), whole and put[2]), path)
    elif before is not None:
        path.learn(base, range=UNKNOWN)
