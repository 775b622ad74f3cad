"""Where summaries are kept and found: by dotted name, by kind of receiver and method, by kind called."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from mpaudit.source.engine.values import Bound, Class, Const, External, Thing, Value

if TYPE_CHECKING:
    from mpaudit.source.engine.call import Calls
    from mpaudit.source.engine.path import Path
    from mpaudit.source.engine.request import Call

Summary = Callable[["Call"], Value | None]
Attribute = Callable[["Calls", Thing, "Path"], Value | None]
Other = Callable[["Calls", Thing, str, "Path"], Value | None]
Augmented = Callable[["Calls", ast.AugAssign, Value, Value, "Path"], None]
Binary = Callable[["Calls", ast.BinOp | ast.AugAssign, Value, Value, "Path"], None]
Stored = Callable[["Calls", ast.Subscript, Value, Value, Value, "Path"], None]
Member = Callable[[Thing, Value, "Path"], None]
Entry = Callable[[Thing, Class, "Path"], None]
Operation = Callable[["Calls", str, tuple[Value, ...], Thing, "Path"], None]

S = TypeVar("S", bound=Summary)

_functions: dict[str, Summary] = {}
_prefixes: list[tuple[str, Summary]] = []
_found: dict[str, Summary | None] = {}
"""The summaries of the functions that were called, by either."""
_methods: dict[tuple[str, str], Summary] = {}
_called: dict[str, Summary] = {}
_entered: dict[str, Callable[[Call], None]] = {}
_initialised: dict[str, Callable[[Call, Thing], None]] = {}
_attributes: dict[str, list[Attribute]] = {}
_others: dict[str, Other] = {}
_augmented: list[Augmented] = []
_binaries: list[Binary] = []
_stores: list[Stored] = []
_members: list[Member] = []
_entries: list[Entry] = []
_operations: list[Operation] = []
_answers: dict[str, list[Summary]] = {}
_bases: dict[str, tuple[str, Callable[[Call, Thing, str], None] | None]] = {}

UNTOLD = ("", "library")
"""The kinds that say nothing of what an object can do: of a class of a library nobody knows."""
ACCELERATED = frozenset(
    ["prepare", "backward", "clip_grad_norm_", "clip_grad_value_", "accumulate", "autocast"]
)
"""Methods by which an Accelerator that nobody has seen being made is taken for one."""

HARMLESS = (
    "torch.",
    "builtins.",
    "numpy.",
    "math.",
    "time.",
    "os.",
    "json.",
    "random.",
    "logging.",
    "tqdm.",
    "wandb.",
    "collections.",
    "itertools.",
    "copy.",
    "pathlib.",
    "datetime.",
    "warnings.",
    "torchmetrics.",
    "torchinfo.",
    "sklearn.",
    "tensorflow.",
    "keras.",
    "tf_keras.",
)


def function(*names: str) -> Callable[[S], S]:
    """Register a summary for library functions or classes; "torch.optim.*" stands for all below."""

    def register(summary: S) -> S:
        for name in names:
            if name.endswith("*"):
                _prefixes.append((name[:-1], summary))
            else:
                _functions[name] = summary
        _found.clear()
        return summary

    return register


def method(kind: str, *names: str) -> Callable[[S], S]:
    """Register a summary for methods of things of a kind; kind "" is a thing nothing is known of."""

    def register(summary: S) -> S:
        _methods.update({(kind, name): summary for name in names})
        return summary

    return register


def called(kind: str) -> Callable[[S], S]:
    """Register a summary for calling a thing of a kind."""

    def register(summary: S) -> S:
        _called[kind] = summary
        return summary

    return register


def entered(kind: str) -> Callable[[Callable[[Call], None]], Callable[[Call], None]]:
    """Register what is told when a project's own object of a kind is called and followed."""

    def register(tell: Callable[[Call], None]) -> Callable[[Call], None]:
        _entered[kind] = tell
        return tell

    return register


def entering(call: Call, kind: str) -> None:
    """Tell the summaries that a call of a project's own object is about to be followed."""
    if kind in _entered:
        _entered[kind](call)


def initialised(kind: str) -> Callable[[Callable[[Call, Thing], None]], None]:
    """Register what is told when `super().__init__(...)` of a project's own object of a kind runs."""

    def register(tell: Callable[[Call, Thing], None]) -> None:
        _initialised[kind] = tell

    return register


def initialising(call: Call, instance: Value | None) -> None:
    """Tell the summaries of `super().__init__(...)` in a project's own class."""
    if isinstance(instance, Thing) and instance.kind in _initialised:
        _initialised[instance.kind](call, instance)


def attributes(name: str) -> Callable[[Attribute], Attribute]:
    """Register what the attribute `name` of a thing is."""

    def register(attribute: Attribute) -> Attribute:
        _attributes.setdefault(name, []).append(attribute)
        return attribute

    return register


def others(kind: str) -> Callable[[Other], Other]:
    """Register what attributes of things of a kind are that are none of its known methods."""

    def register(other: Other) -> Other:
        _others[kind] = other
        return other

    return register


def on_augmented(hook: Augmented) -> Augmented:
    """Register a hook for `target op= value`."""
    _augmented.append(hook)
    return hook


def on_binary(hook: Binary) -> Binary:
    """Register a hook for `left op right` and `target op= value` where they stand in the source."""
    _binaries.append(hook)
    return hook


def on_stored(hook: Stored) -> Stored:
    """Register a hook for `base[key] = value`."""
    _stores.append(hook)
    return hook


def on_member(hook: Member) -> Member:
    """Register a hook for `owner.name = value`."""
    _members.append(hook)
    return hook


def on_entry(hook: Entry) -> Entry:
    """Register a hook for a method that is followed by itself, on an instance as `__init__` leaves it."""
    _entries.append(hook)
    return hook


def on_operation(hook: Operation) -> Operation:
    """Register a hook for operators and subscripts: "Add", "USub", "[]", the operands, the result."""
    _operations.append(hook)
    return hook


def answers(name: str) -> Callable[[Summary], Summary]:
    """Register what may know the answer of a pure question: "builtins.isinstance"."""

    def register(known: Summary) -> Summary:
        _answers.setdefault(name, []).append(known)
        return known

    return register


def answer(call: Call) -> Value | None:
    """The answer of a pure question, None where nothing knows it."""
    for known in _answers.get(call.name, ()):
        value = known(call)
        if value is not None:
            return value
    return None


def base(kind: str, *names: str, adopt: Callable[[Call, Thing, str], None] | None = None) -> None:
    """Say that instances of project classes derived from these library classes are of `kind`."""
    _bases.update(dict.fromkeys(names, (kind, adopt)))


def summary(call: Call, function: Value) -> Value | None:
    """The result of a call that a summary knows, None for all others."""
    if isinstance(function, External):
        name = function.name
        if name not in _found:
            below = (s for prefix, s in _prefixes if name.startswith(prefix))
            _found[name] = _functions.get(name) or next(below, None)
        known = _found[name]
        return known(call) if known else None
    receiver = call.receiver
    if isinstance(receiver, Thing):
        role = _role(call, receiver)
        known = _methods.get((role, call.name)) or _methods.get(("", call.name))
        return known(call) if known else None
    if isinstance(function, Bound):
        known = _methods.get((type(receiver).__name__, call.name))
        return known(call) if known else None
    if isinstance(function, Thing):
        known = _called.get(function.kind)
        if known:
            call.receiver = function
            return known(call)
    return None


def _role(call: Call, receiver: Thing) -> str:
    """The kind of a receiver: as made, else as its use in the file gives it away."""
    if receiver.kind in ("super", "instance"):
        return receiver.kind
    if receiver.kind not in UNTOLD:
        return receiver.kind
    roles = call.engine.roles(call.path)
    if not isinstance(call.node.func, ast.Attribute):
        known = call.name in ACCELERATED and not roles.accelerators.isdisjoint(
            _spelled(call, receiver)
        )
        return "Accelerator" if known else receiver.kind
    if call.path.known(receiver, "@accelerator") is not None:
        return "Prepared"
    if call.name in ACCELERATED and ast.unparse(call.node.func.value) in roles.accelerators:
        return "Accelerator"
    if call.name in ("scale", "unscale_", "step", "update", "is_enabled", "get_scale"):
        if ast.unparse(call.node.func.value) in roles.scalers:
            call.engine.identities.decisive |= {receiver, call.engine.term("is None", receiver)}
            return "GradScaler"
    if call.name in ("step", "zero_grad") and ast.unparse(call.node.func.value) in roles.optimizers:
        return "Optimizer"
    return receiver.kind


def _spelled(call: Call, receiver: Thing) -> Iterator[str]:
    """How a method spells what its own object holds, where a bound method of that is called."""
    path, function = call.path, call.path.frame.function
    if function is None or isinstance(function.node, ast.Lambda):
        return
    first = next(iter((*function.node.args.posonlyargs, *function.node.args.args)), None)
    own = path.heap.get((path.frame.scopes[0], first.arg)) if first is not None else None
    if first is None or not isinstance(own, Thing) or path.known(own, "@class") is None:
        return
    operation, *operands = call.engine.identities.description(receiver.uid)
    if operation == "." and operands[0] == own and isinstance(operands[1], Const):
        yield f"{first.arg}.{operands[1].value}"
    for name, value in path.heap.of(own.uid):
        if value == receiver and name[0] not in "@[":
            yield f"{first.arg}.{name}"


def attribute(engine: Calls, base: Thing, name: str, path: Path) -> Value | None:
    """An attribute that a summary knows."""
    for known in _attributes.get(name, ()):
        value = known(engine, base, path)
        if value is not None:
            return value
    other = _others.get(base.kind)
    if other is None or (base.kind, name) in _methods:
        return None
    return other(engine, base, name, path)


def augmented(engine: Calls, node: ast.AugAssign, left: Value, right: Value, path: Path) -> None:
    """Tell the summaries of an augmented assignment."""
    applied(engine, node, left, right, path)
    for hook in _augmented:
        hook(engine, node, left, right, path)


def operated(
    engine: Calls, operation: str, operands: tuple[Value, ...], made: Thing, path: Path
) -> Thing:
    """Tell the summaries of an operator or a subscript. Returns the result."""
    for hook in _operations:
        hook(engine, operation, operands, made, path)
    return made


def applied(
    engine: Calls, node: ast.BinOp | ast.AugAssign, left: Value, right: Value, path: Path
) -> None:
    """Tell the summaries of an operator between two operands in the source."""
    for hook in _binaries:
        hook(engine, node, left, right, path)


def kept(owner: Thing, value: Value, path: Path) -> None:
    """Tell the summaries of `owner.name = value`."""
    for hook in _members:
        hook(owner, value, path)


def entry(instance: Thing, owner: Class, path: Path) -> None:
    """Tell the summaries that a method of `instance` is followed whose caller nobody has seen."""
    for hook in _entries:
        hook(instance, owner, path)


def stored(
    engine: Calls, target: ast.Subscript, base: Value, key: Value, value: Value, path: Path
) -> None:
    """Tell the summaries of `base[key] = value`."""
    for hook in _stores:
        hook(engine, target, base, key, value, path)


def kind_of(owner: Class, seen: frozenset[int] = frozenset()) -> tuple[str, str | None]:
    """The kind of a project class' instances and the library class it comes from."""
    for parent in owner.bases:
        if isinstance(parent, External) and parent.name in _bases:
            return _bases[parent.name][0], parent.name
        if isinstance(parent, Class) and parent.uid not in seen:
            kind, name = kind_of(parent, seen | {owner.uid})
            if kind:
                return kind, name
    return "", None


def stated_kind(name: str) -> str:
    """The kind of a value that is annotated with the library class `name`, "" if it says nothing."""
    kind = _bases.get(name, ("", None))[0]
    return kind if kind in ("GradScaler", "Optimizer", "Accelerator") else ""


def adopt(call: Call, made: Thing, name: str) -> None:
    """Let the summary of the library class `name` look at an instance of a project class."""
    hook = _bases[name][1]
    if hook is not None:
        hook(call, made, name)


def harmless(name: str) -> bool:
    """Whether a library function leaves scalers, optimizers and devices of models alone."""
    return name.startswith(HARMLESS)
