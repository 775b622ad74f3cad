"""Which dtype the tensors of TensorFlow and Keras have, as far as layers, casts and constructors tell.

It is kept as the hidden fact `@held` of a thing, a `Dtype`. As long as nothing of 16 bits is in
sight, nothing is kept: no rule asks for it. No fact means that nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mpaudit.finding import Related, Span
from mpaudit.source.api.keras_names import everywhere, last
from mpaudit.source.engine.dtypes import Dtype
from mpaudit.source.engine.registry import attributes, function, on_operation
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import (
    FALSE,
    TRUE,
    UNKNOWN,
    Choice,
    Const,
    External,
    Pack,
    Thing,
    Value,
)
from mpaudit.source.library.keras.names import text
from mpaudit.source.library.keras.policy_name import DTYPES, compute_dtype, policy_name
from mpaudit.source.library.keras.values import Tensor, origin, read
from mpaudit.source.library.tensorflow.dtypes import (
    FLOATS,
    HALF,
    NO_TENSORS,
    RESIZES,
    Kind,
    kind_of,
    widest,
)

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

SEEN = (-1, "@keras_half")
"""Whether anything of 16 bits is in sight on a path."""
WEIGHT = "KerasWeight"
OPERATORS = ("Add", "Sub", "Mult", "Div", "Pow", "FloorDiv", "Mod", "MatMult")
HOW = {
    "layer": "the layer that computes it in {} is built here",
    "cast": "cast to {} here",
    "made": "made as {} here",
    "input": "the layer casts what it is given to {}",
    "weight": "added as a weight here, which is read in {}",
}
LIBRARIES = ("tensorflow.", "keras.", "tf_keras.")
CONSTANTS = ("tensorflow.constant", "tensorflow.Variable", "tensorflow.compat.v1.constant")


def held(value: Value | None, path: Path) -> Dtype | None:
    """What is known of the dtype of a tensor."""
    if isinstance(value, Choice):
        answer = path.facts.get(value.condition)
        if answer is not None:
            return held(value.yes if answer else value.no, path)
        yes, no = held(value.yes, path), held(value.no, path)
        return yes if yes is not None and no is not None and yes.name == no.name else None
    if isinstance(value, Thing) and value.kind == WEIGHT:
        return _weight(value, path)
    known = None if value is None else path.known(value, "@held")
    if isinstance(known, Const) and isinstance(known.value, Dtype):
        return known.value
    return None


def _weight(weight: Thing, path: Path) -> Dtype | None:
    """A weight is read in its layer's compute dtype within `call`, in its own dtype elsewhere."""
    known = path.known(weight, "@weight")
    if not isinstance(known, Pack):
        return None
    owner, own, at = known.items
    name = text(own)
    if name == "":
        name = compute_dtype_of(owner, path) if in_call(path) and isinstance(owner, Thing) else None
    if name in (None, "?"):
        return None
    return Dtype(str(name), at.value if isinstance(at, Const) else None, "weight")  # type: ignore[arg-type]


def name_of(value: Value | None, path: Path) -> str | None:
    """The dtype of a tensor by its plain name, None if it is not known."""
    known = held(value, path)
    return None if known is None else known.name


def reasons(value: Value | None, path: Path) -> tuple[Related, ...]:
    """How a tensor came to its dtype, as evidence."""
    known = held(value, path)
    if known is None or known.at is None:
        return ()
    return (Related(known.at, HOW.get(known.how, "{}").format(known.name)),)


def hold(made: Value, name: str | None, at: Span | None, path: Path, how: str = "made") -> Value:
    """Note the dtype of a tensor. Returns the tensor."""
    return keep(made, None if name is None else Dtype(name, at, how), path)


def keep(made: Value, known: Dtype | None, path: Path) -> Value:
    """Note the dtype of a tensor; None wipes out what was known. Returns the tensor."""
    if not isinstance(made, Thing):
        return made
    if known is None:
        if path.heap.get((made.uid, "@held")) is not None:
            path.learn(made, held=UNKNOWN)
        return made
    if known.name in HALF:
        path.heap[SEEN] = TRUE
    return path.learn(made, held=Const(known)) if SEEN in path.heap else made


def dtype_named(value: Value | None, path: Path) -> str | None:
    """The plain name of a dtype that is given as an argument: an object, a string, a policy."""
    name = policy_name(value, path) if not isinstance(value, External) else last(value.name)
    name = compute_dtype({"half": "float16"}.get(name or "", name))
    return name if name in DTYPES else None


def compute_dtype_of(layer: Thing, path: Path) -> str | None:
    """The dtype that a layer or model computes in, None if it is not known."""
    return compute_dtype(policy_name(path.known(layer, "@policy"), path))


# Keras 3 finds a common dtype for symbolic tensors as well


def symbolic(value: Value, path: Path) -> bool:
    """Whether a tensor stands for one in a functional model that is being put together."""
    if not isinstance(value, Thing):
        return False
    known = path.known(value, "@symbolic")
    if known is not None:
        return known == TRUE
    source = origin(value, path)
    path.learn(value, symbolic=FALSE)
    if source is not None and any(symbolic(each, path) for each in _parts(source.inputs)):
        path.learn(value, symbolic=TRUE)
        return True
    return False


def _parts(values: Sequence[Value]) -> Iterable[Value]:
    for value in values:
        if isinstance(value, Pack):
            yield from _parts(value.items)
        else:
            yield value


def strict(path: Path, operands: Sequence[Value]) -> bool:
    """Whether tensors of two dtypes raise here: not in a functional model that is put together."""
    return in_call(path) or not any(symbolic(each, path) for each in operands)


def in_call(path: Path) -> bool:
    """Whether the `call` of a project's own layer or model is in progress: weights are cast there."""
    return any(
        frame.function is not None and frame.function.name == "call" and frame.function.owner
        for frame in path.frames
    )


# Operations


@on_operation
def operated(
    _: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> None:
    """Operators and subscripts."""
    if any(origin(each, path) is not None for each in operands) and origin(made, path) is None:
        outlet = read(operands[0], path) if operation == "[]" else None
        path.learn(
            made, tensor=Tensor(operands) if outlet is None else Tensor(operands, None, outlet)
        )
    if SEEN not in path.heap:
        return
    if operation in ("[]", "USub", "UAdd"):
        keep(made, held(operands[0], path), path)
    elif operation in OPERATORS:
        keep(made, joined(operands, path, promote=not strict(path, operands)), path)


def joined(operands: Sequence[Value], path: Path, *, promote: bool) -> Dtype | None:
    """The dtype of what is computed from several operands.

    What nothing is known of is no tensor of another dtype, or the script would raise; unless a
    common dtype would be found (`promote`).
    """
    known = [held(each, path) for each in operands if not isinstance(each, Const)]
    found = [each for each in known if each is not None]
    if not found or (promote and None in known):
        return None
    if promote:
        name = widest([each.name for each in found])
        return next((each for each in found if each.name == name), None)
    return found[0] if len({each.name for each in found}) == 1 else None


@on_result(functions=lambda name: name.startswith(LIBRARIES), methods=())
def called(call: Call, callee: Value, made: Value) -> None:
    """A function of TensorFlow or of `keras.ops` is over."""
    if not isinstance(callee, External) or not isinstance(made, Thing):
        return
    path = call.path
    if not made.kind and origin(made, path) is None:
        sources = tensors_of(call)
        if any(origin(each, path) is not None for each in sources):
            path.learn(made, tensor=Tensor(tuple(sources)))
    if callee.name in CONSTANTS:
        _constant(call, made)
    elif callee.name in RESIZES:
        _resized(call, made)
    kind = kind_of(callee.name)
    if kind is None:
        return
    if kind is Kind.CAST:
        hold(made, dtype_named(call.argument(1, "dtype"), path), call.span, path, "cast")
        return
    given = call.keywords.get("dtype")
    if SEEN not in path.heap and given is None:
        return
    if given is not None:
        hold(made, dtype_named(given, path), call.span, path)
    elif kind is Kind.MAKE:
        _made(call, callee.name, made)
    elif kind is Kind.KEEP:
        keep(made, held(tensors_of(call)[0] if tensors_of(call) else None, path), path)
    else:
        operands = tensors_of(call)
        if last(callee.name) == "where":
            operands = operands[1:]
        promote = kind is Kind.PROMOTE
        keep(made, joined(operands, path, promote=promote), path)


def tensors_of(call: Call) -> list[Value]:
    """The arguments that may be tensors, those within a list or tuple included."""
    named = [value for name, value in call.keywords.items() if name not in NO_TENSORS]
    found: list[Value] = []
    for value in (*call.arguments, *named):
        items = value if isinstance(value, Pack) else call.path.known(value, "@items")
        found.extend(items.items if isinstance(items, Pack) else [value])
    return found


_DTYPE_AT = {
    "zeros": 1,
    "ones": 1,
    "eye": 3,
    "normal": 3,
    "uniform": 3,
    "random_bernoulli": 2,
    "random_binomial": 2,
    "sequence_mask": 2,
}


def _made(call: Call, name: str, made: Thing) -> None:
    """`tf.zeros(shape)`, `tf.fill(shape, value)`, `tf.linspace(0.0, 1.0, n)`."""
    word, path = last(name), call.path
    if word in ("fill", "linspace"):
        value = call.argument(1 if word == "fill" else 0, "value")
        is_float = isinstance(value, Const) and isinstance(value.value, float)
        hold(made, "float32" if is_float else name_of(value, path), call.span, path)
        return
    given = call.argument(_DTYPE_AT.get(word, 99), "dtype")
    if word == "one_hot" and (
        len(call.arguments) > 2 or {"on_value", "off_value"} & {*call.keywords}
    ):
        return  # the dtype is that of the values, or an argument whose place differs
    if given is None and word == "sequence_mask":
        return  # bool
    if given is None:
        hold(made, "float32", call.span, path)
    else:
        hold(made, dtype_named(given, path), call.span, path)


def _resized(call: Call, made: Thing) -> None:
    """`tf.image.resize(x, size)`, by an interpolation that is none of values themselves."""
    place = 3 if last(call.name) == "resize_with_pad" else 2
    method = call.argument(place, "method")
    if method is None:
        known = "bilinear"
    elif isinstance(method, External):
        known = last(method.name)
    else:
        known = text(method) or "nearest"
    if "nearest" not in known.lower():
        hold(made, "float32", call.span, call.path)


def _constant(call: Call, made: Thing) -> None:
    """`tf.constant(0.5)`, `tf.Variable(tf.zeros(3), dtype=tf.float16)`."""
    path, value = call.path, call.argument(0, "value") or call.keywords.get("initial_value")
    given = call.argument(1 if call.name.endswith("constant") else 99, "dtype")
    if given is not None:
        hold(made, dtype_named(given, path), call.span, path)
    elif held(value, path) is not None:
        keep(made, held(value, path), path)
    elif _floats(value, path):
        hold(made, "float32", call.span, path)


def _floats(value: Value | None, path: Path) -> bool:
    """Whether a value is a float of Python, or a list of such."""
    if isinstance(value, Const):
        return isinstance(value.value, float)
    items = value if isinstance(value, Pack) else path.known(value, "@items") if value else None
    if not isinstance(items, Pack) or not items.items:
        return False
    return all(_floats(item, path) for item in items.items)


# What is read of tensors and layers


@attributes("dtype")
def dtype_of_tensor(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`x.dtype`, `layer.dtype`."""
    if thing.kind in ("KerasLayer", "KerasModel"):
        known = policy_name(path.known(thing, "@policy"), path)
        name = "float32" if (known or "").startswith("mixed") else known
        return None if name is None else Const(name)
    name = name_of(thing, path) if thing.kind in ("", "library", WEIGHT) else None
    return External(f"tensorflow.{name}") if name in FLOATS else None


@attributes("compute_dtype")
def compute_dtype_of_layer(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`layer.compute_dtype`."""
    if thing.kind not in ("KerasLayer", "KerasModel"):
        return None
    name = compute_dtype_of(thing, path)
    return None if name is None else Const(name)


attributes("_compute_dtype")(compute_dtype_of_layer)


@function(*everywhere("backend.floatx", "config.floatx"))
def floatx(call: Call) -> Value | None:
    """`keras.backend.floatx()`."""
    known = call.path.heap.get((-1, "@keras_floatx"))
    if known is None:
        return Const("float32")
    return known if text(known) and known != UNKNOWN else None
