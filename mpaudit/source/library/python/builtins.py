"""Python itself: builtins, functools, contextlib, containers."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.source.engine.path import unset
from mpaudit.source.engine.registry import (
    answer,
    answers,
    attributes,
    function,
    initialising,
    kind_of,
    method,
)
from mpaudit.source.engine.values import (
    FALSE,
    NONE,
    TRUE,
    Choice,
    Class,
    Const,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.library.torch.device import device_type

FINITE = ("nan", "inf", "finite")
DEVICES = ("cuda", "cuda:0", "cpu", "mps", "xpu")

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call


@function(*(f"{library}.is{what}" for library in ("torch", "math", "numpy") for what in FINITE))
def asked(call: Call) -> Value | None:
    """Whether a number is finite: of the same number the answer is the same."""
    value = call.argument(0)
    if not isinstance(value, Thing) or len(call.arguments) != 1 or call.keywords:
        return None
    return call.engine.derive(call.engine.term(call.name, value), (value,), call.path)


@function("functools.partial")
def partial(call: Call) -> Value | None:
    """`functools.partial(f, ...)`."""
    if not call.arguments or "**" in call.keywords:
        return None
    return Partial(call.arguments[0], call.arguments[1:], tuple(call.keywords.items()))


@function("contextlib.nullcontext", "contextlib.suppress", "torch.no_grad", "torch.enable_grad")
def idle_context(call: Call) -> Value:
    """A context that has nothing to do with precision."""
    return call.made("context")


@function("builtins.super")
def superclass(call: Call) -> Value | None:
    """`super()` inside a method."""
    frame = call.path.frame
    if frame.function is None or frame.function.owner is None:
        return None
    parameters = frame.function.node.args
    first = [*parameters.posonlyargs, *parameters.args][:1]
    receiver = call.path.heap.get((frame.scopes[0], first[0].arg)) if first else None
    if not isinstance(receiver, (Thing, Class)):
        return None
    made = call.made("super")
    call.path.heap[(made.uid, "@self")] = receiver
    call.path.heap[(made.uid, "@after")] = frame.function.owner
    return made


@method("super", "__init__")
def superclass_init(call: Call) -> Value | None:
    """`super().__init__()` of a library class whose instances a summary knows."""
    after = call.path.known(call.thing, "@after")
    initialising(call, call.path.known(call.thing, "@self"))
    return NONE if isinstance(after, Class) and kind_of(after)[1] is not None else None


@function("builtins.float", "builtins.int", "builtins.str", "builtins.bool")
def convert(call: Call) -> Value | None:
    """Conversions of literals are computed; those of unknown values keep their identity."""
    value = call.argument(0)
    if value is None:
        return None
    name = call.name.rpartition(".")[2]
    if name == "str" and isinstance(value, Thing) and value.kind == "device":
        return call.path.known(value, "@type")
    if isinstance(value, Const) and isinstance(value.value, (str, int, float)):
        try:
            return Const({"float": float, "int": int, "str": str, "bool": bool}[name](value.value))
        except (ValueError, OverflowError):
            return None
    if name == "bool":
        return value
    return call.engine.derive(call.engine.term(name, value), (value,), call.path)


@function("builtins.isinstance", "builtins.hasattr", "builtins.len", "torch.cuda.is_available")
def same_each_time(call: Call) -> Value:
    """Pure questions: asked twice of the same values, they have the same answer."""
    return answer(call) or call.engine.term(call.name, *call.arguments)


@answers("builtins.hasattr")
def holds(call: Call) -> Value | None:
    """`hasattr(self, "scaler")` of what was seen to be set, on all paths or on some."""
    base, name = call.argument(0), call.argument(1)
    if not isinstance(base, Thing) or not isinstance(name, Const):
        return None
    held = call.path.heap.get((base.uid, str(name.value)))
    return None if held is None else _is_set(held)


def _is_set(value: Value) -> Value:
    if isinstance(value, Choice):
        yes, no = _is_set(value.yes), _is_set(value.no)
        return yes if yes == no else Choice(value.condition, yes, no)
    return FALSE if unset(value) else TRUE


@function("builtins.range")
def counted(call: Call) -> None:
    """`range(1)`: how often a loop over it runs is known."""
    given = call.arguments
    numbers = [v.value for v in given if isinstance(v, Const) and isinstance(v.value, int)]
    if numbers and len(numbers) == len(given) and 0 not in numbers[2:]:
        call.path.learn(call.made(), length=Const(len(range(*numbers))))


@function("builtins.exec")
def executed(call: Call) -> Value:
    """`exec(open("configurator.py").read())` may set any constant of the module to something else."""
    path = call.path
    for name, value in list(path.heap.of(path.frame.scopes[-1])):
        if isinstance(value, Const) and name[0] not in "_@":
            number = call.engine.identities.number("executed", call.node, name)
            path.heap[(path.frame.scopes[-1], name)] = Thing(number, text=name)
    return NONE


@function("builtins.getattr")
def get_attribute(call: Call) -> Value | None:
    """`getattr(x, "name")`; by a name made at run time it is what an object held before this."""
    base, name = call.argument(0), call.argument(1)
    if not isinstance(name, Const) or not isinstance(name.value, str) or base is None:
        if call.path.known(base or NONE, "@class") is None or len(call.arguments) != 2:
            return None
        assert base is not None and name is not None
        made = call.engine.term("getattr", base, name)
        return call.engine.derive(made, (base,), call.path)
    return call.engine.attribute(base, name.value, call.node, call.path)


@function("builtins.list", "builtins.tuple", "builtins.sorted", "builtins.reversed", "builtins.set")
def copied(call: Call) -> Value | None:
    """A new container of the same items."""
    source = call.argument(0)
    made = call.made("list")
    if source is None:
        return call.path.learn(made, items=Pack(()))
    known = source if isinstance(source, Pack) else call.path.known(source, "@items")
    if isinstance(known, Pack) and not call.name.endswith("reversed"):
        call.path.learn(made, items=known)
    call.path.learn(made, each=call.path.known(source, "@each"))
    return call.engine.derive(made, (source,), call.path)


@function("builtins.enumerate")
def enumerated(call: Call) -> Value:
    """`enumerate(x)`."""
    made = call.made("list")
    source, start = call.argument(0), call.argument(1, "start")
    first = start.value if isinstance(start, Const) else 0 if start is None else None
    items = source if isinstance(source, Pack) else call.path.known(source or NONE, "@items")
    if isinstance(items, Pack) and isinstance(first, int):
        pairs = tuple(Pack((Const(i), item)) for i, item in enumerate(items.items, first))
        call.path.learn(made, items=Pack(pairs))
    return call.path.learn(made, enumerated=source, start=start)


@function("builtins.zip")
def zipped(call: Call) -> Value:
    """`zip(a, b)`."""
    made = call.made("list")
    columns = [a if isinstance(a, Pack) else call.path.known(a, "@items") for a in call.arguments]
    if columns and all(isinstance(column, Pack) for column in columns):
        rows = zip(*(c.items for c in columns if isinstance(c, Pack)), strict=False)
        call.path.learn(made, items=Pack(tuple(Pack(tuple(row)) for row in rows)))
    call.engine.derive(made, call.arguments, call.path)
    return call.path.learn(made, zipped=Pack(call.arguments))


@function("itertools.chain", "builtins.sum", "builtins.filter", "builtins.map", "builtins.iter")
def flattened(call: Call) -> Value:
    """What is computed from the items of its arguments."""
    each = [call.path.known(argument, "@each") for argument in call.arguments]
    return call.derived(*call.arguments, *(value for value in each if value is not None))


@method("list", "append", "extend", "add")
def append(call: Call) -> Value:
    """`items.append(x)`."""
    known = call.path.known(call.thing, "@items")
    if isinstance(known, Pack) and call.arguments and call.name == "append":
        call.path.learn(call.thing, items=Pack((*known.items, call.arguments[0])))
    elif call.arguments:
        call.path.heap.forget((call.thing.uid, "@items"))
        call.path.learn(call.thing, each=call.arguments[0])
    call.engine.derive(call.thing, call.arguments, call.path)
    return NONE


@method("dict", "values", "items", "get", "pop", "setdefault")
def dictionary(call: Call) -> Value | None:
    """Reading a dict whose keys are literals."""
    key = call.argument(0)
    if call.name in ("get", "pop", "setdefault"):
        if not isinstance(key, Const):
            return None
        held = call.path.heap.get((call.thing.uid, f"[{key.value!r}]"))
        if held is None and call.path.known(call.thing, "@items") is None:
            return None  # who knows what else is in it
        return held or call.argument(1)
    entries = {
        name: value for name, value in call.path.heap.of(call.thing.uid) if name.startswith("[")
    }
    if call.path.known(call.thing, "@items") is None:
        return None
    if call.name == "values":
        return Pack(tuple(entries.values()))
    return Pack(tuple(Pack((_key(name), value)) for name, value in entries.items()))


def _key(name: str) -> Value:
    """The key that stands in the name of an entry, as far as it is a literal."""
    try:
        return Const(ast.literal_eval(name[1:-1]))
    except ValueError:
        return Const(name[1:-1])


@method("", "get")
def got(call: Call) -> Value | None:
    """`config.get("device", "cuda")` of a mapping from out of sight: what is meant, or another."""
    key, otherwise = call.argument(0), call.argument(1)
    if key is None or not isinstance(otherwise, Const) or otherwise.value not in DEVICES:
        return None
    term = call.engine.term
    return Choice(term("holds", call.thing, key), term("[]", call.thing, key), otherwise)


@function("builtins.dict")
def make_dict(call: Call) -> Value | None:
    """`dict(a=1, b=2)`."""
    if call.arguments or "**" in call.keywords:
        return None
    made = call.made("dict")
    for name, value in call.keywords.items():
        call.path.heap[(made.uid, f"[{name!r}]")] = value
    call.path.learn(made, items=Pack(tuple(call.keywords.values())))
    return call.engine.derive(made, tuple(call.keywords.values()), call.path)


@function("copy.deepcopy", "copy.copy")
def copied_object(call: Call) -> Value | None:
    """A copy is another object of the same kind."""
    source = call.argument(0)
    if not isinstance(source, Thing):
        return source
    return _copied(call, source, call.made(source.kind), deep=call.name == "copy.deepcopy")


def _copied(call: Call, source: Thing, made: Thing, *, deep: bool) -> Thing:
    for name, value in call.path.heap.of(source.uid):
        if deep and name[0] == "[" and isinstance(value, Thing) and value.kind == "dict":
            number = call.engine.identities.number("copied", made.uid, name)
            value = _copied(call, value, Thing(number, "dict", made.since), deep=True)
        call.path.heap[(made.uid, name)] = value
    return made


@function("torch.device")
def device(call: Call) -> Value:
    """`torch.device("cuda")`."""
    made = call.made("device")
    known = device_type(call.argument(0, "type"), call.path)
    return call.path.learn(made, type=None if known == NONE else known)


@attributes("type")
def type_of_device(_: Calls, thing: Thing, path: Path) -> Value | None:
    """`device.type`."""
    return path.known(thing, "@type") if thing.kind == "device" else None
