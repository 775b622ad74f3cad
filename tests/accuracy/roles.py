"""Which expressions of a program hold a GradScaler, an optimizer, a region: by where they were made."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from .script import FUNCTIONS, Script, assignments, keyword, parameters

SCALERS = frozenset(
    f"torch.{module}GradScaler"
    for module in ("", "amp.", "cuda.amp.", "cpu.amp.", "amp.grad_scaler.", "cuda.amp.grad_scaler.")
)
AUTOCASTS = frozenset(
    f"torch.{module}autocast"
    for module in (
        "",
        "amp.",
        "cuda.amp.",
        "cpu.amp.",
        "amp.autocast_mode.",
        "cuda.amp.autocast_mode.",
    )
)
CLIPS = frozenset(
    f"torch.nn.utils.{module}{name}"
    for module in ("", "clip_grad.")
    for name in ("clip_grad_norm_", "clip_grad_value_")
)
KINDS = {"scale": "scale", "unscale_": "unscale", "step": "step", "update": "update"}

Slot = tuple[object, ...]
"""What can hold an object: ("name", scope, name) or ("attribute", name)."""


@dataclass(frozen=True, eq=False)
class Use:
    """One call of a scaler's method; `backward` is the `.backward()` on the result of scale()."""

    script: Script
    kind: str
    call: ast.Call
    scaler: str
    made: frozenset[ast.Call]
    argument: ast.expr | None
    backward: ast.Call | None = None

    @property
    def stmt(self) -> ast.stmt:
        return self.script.statement(self.call)

    @property
    def alone(self) -> bool:
        """Whether the call (or the backward on it) is a statement of its own."""
        stmt = self.stmt
        return (
            isinstance(stmt, ast.Expr)
            and stmt.value in (self.call, self.backward)
            and self.script.owns_lines(stmt)
        )

    @property
    def place(self) -> tuple[int, int]:
        node = self.backward or self.call
        return (node.end_lineno or 0, node.end_col_offset or 0)


class Program:
    """The files of one program, and the roles of their names."""

    def __init__(self, scripts: Sequence[Script], *, by_use: bool = False) -> None:
        self.scripts = list(scripts)
        self.by_use = by_use

    @cached_property
    def _functions(self) -> dict[str, list[tuple[Script, ast.FunctionDef]]]:
        """Functions by name; a class by the name of its class, as the function that builds it."""
        found: dict[str, list[tuple[Script, ast.FunctionDef]]] = {}
        for script in self.scripts:
            for node in ast.walk(script.tree):
                if isinstance(node, FUNCTIONS):
                    name = node.name
                    if name == "__init__" and (owner := script.class_of(node)):
                        name = owner.name
                    found.setdefault(name, []).append((script, node))
        return found

    def slot(self, script: Script, node: ast.AST) -> Slot | None:
        if isinstance(node, ast.Name):
            return ("name", script.scope(node), node.id)
        if isinstance(node, ast.Attribute):
            return ("attribute", node.attr)
        return None

    def holders(self, names: frozenset[str]) -> dict[Slot, frozenset[ast.Call]]:
        """Where the results of calls of `names` are held, followed through assignments and arguments."""
        held: dict[Slot, frozenset[ast.Call]] = {}
        others: set[Slot] = set()
        before = -1
        while before != (before := sum(map(len, held.values()))):
            others.clear()
            for script in self.scripts:
                for target, value in assignments(script.tree):
                    slot = self.slot(script, target)
                    if slot is None:
                        continue
                    made = self._made(script, value, names, held)
                    if made:
                        held[slot] = held.get(slot, frozenset()) | made
                    elif isinstance(value, ast.Call):
                        others.add(slot)
                for call in script.calls():
                    for parameter, value in self._passed(script, call):
                        made = self._made(script, value, names, held)
                        if made:
                            held[parameter] = held.get(parameter, frozenset()) | made
        return {slot: made for slot, made in held.items() if slot not in others}

    def _made(
        self,
        script: Script,
        value: ast.expr,
        names: frozenset[str],
        held: dict[Slot, frozenset[ast.Call]],
    ) -> frozenset[ast.Call]:
        match value:
            case ast.Call() if script.qualified(value.func) in names:
                return frozenset([value])
            case ast.Call(func=ast.Attribute(value=inner, attr="to" | "cuda")):
                return self._made(script, inner, names, held)
            case ast.IfExp(body=body, orelse=orelse):
                return self._made(script, body, names, held) | self._made(
                    script, orelse, names, held
                )
            case ast.BoolOp(values=values):
                return self._made(script, values[-1], names, held)
            case ast.Name() | ast.Attribute():
                slot = self.slot(script, value)
                return held.get(slot, frozenset()) if slot else frozenset()
        return frozenset()

    def _passed(self, script: Script, call: ast.Call) -> Iterator[tuple[Slot, ast.expr]]:
        """(slot of the parameter, argument) of calls of the program's own functions."""
        name = getattr(call.func, "attr", None) or getattr(call.func, "id", None)
        for _, function in self._functions.get(name, ()):
            takes = parameters(function)
            if takes and takes[0].arg in ("self", "cls"):
                takes = takes[1:]
            for parameter, value in zip(takes, call.args, strict=False):
                yield ("name", function, parameter.arg), value
            known = {parameter.arg for parameter in takes}
            for each in call.keywords:
                if each.arg in known:
                    yield ("name", function, each.arg), each.value

    @cached_property
    def scalers(self) -> dict[Slot, frozenset[ast.Call]]:
        found = self.holders(SCALERS)
        if not self.by_use:
            return found
        # A single file of a package is often handed its scaler from another file: what is scaled with
        # and run backward on, and never bound to anything else here, is one as well.
        bound = {
            self.slot(script, target)
            for script in self.scripts
            for target, value in assignments(script.tree)
            if isinstance(value, ast.Call)
        }
        for script in self.scripts:
            for call in script.calls():
                func = call.func
                if isinstance(func, ast.Attribute) and func.attr in ("scale", "unscale_"):
                    slot = self.slot(script, func.value)
                    if slot and slot not in found and slot not in bound:
                        if func.attr == "unscale_" or _backward(script, call):
                            found[slot] = frozenset([ast.Call(ast.Constant(str(slot[-1])), [], [])])
        return found

    @cached_property
    def uses(self) -> list[Use]:
        """Every use of a live scaler, by file and in source order."""
        found = []
        for script in self.scripts:
            here = []
            for call in script.calls():
                func = call.func
                if not isinstance(func, ast.Attribute) or func.attr not in KINDS:
                    continue
                slot = self.slot(script, func.value)
                made = self.scalers.get(slot, frozenset()) if slot else frozenset()
                if not made or not any(self.live(each) for each in made):
                    continue
                given = call.args[0] if call.args else None
                here.append(
                    Use(
                        script,
                        KINDS[func.attr],
                        call,
                        script.source(func.value),
                        made,
                        given,
                        _backward(script, call) if func.attr == "scale" else None,
                    )
                )
            found += sorted(here, key=lambda use: use.place)
        return found

    def live(self, made: ast.Call) -> bool:
        """Whether a scaler may be enabled: not `enabled=False`, by a literal or by a constant name."""
        enabled = keyword(made, "enabled")
        return not (enabled is not None and self.constant(enabled) in (False, None, 0))

    def constant(self, node: ast.expr) -> object:
        """The value of a literal or of a name that is only ever bound to one literal, else ..."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            bound = [
                value
                for script in self.scripts
                for target, value in assignments(script.tree)
                if isinstance(target, ast.Name) and target.id == node.id
            ]
            if len(bound) == 1 and isinstance(bound[0], ast.Constant):
                return bound[0].value
        return ...

    def of(self, *kinds: str) -> list[Use]:
        return [use for use in self.uses if use.kind in kinds]

    def same(self, use: Use, *kinds: str) -> list[Use]:
        """The other uses of a scaler that may be the same object."""
        return [
            each
            for each in self.uses
            if each is not use and each.made & use.made and each.kind in kinds
        ]

    def beside(self, use: Use, *kinds: str) -> list[Use]:
        """The other uses of the scaler in the same function and not in an exclusive branch."""
        function = use.script.function(use.call)
        return [
            each
            for each in self.same(use, *kinds)
            if each.script is use.script
            and each.script.function(each.call) is function
            and not use.script.exclusive(use.call, each.call)
        ]

    def clips(self, script: Script) -> list[ast.Call]:
        """The calls of torch's clip functions in a file."""
        return [call for call in script.calls() if script.qualified(call.func) in CLIPS]

    def regions(self, script: Script) -> Iterator[tuple[ast.With, ast.withitem, ast.Call]]:
        """(with statement, item, call) of every autocast region that is built where it is entered."""
        for node in ast.walk(script.tree):
            if isinstance(node, ast.With):
                for item in node.items:
                    call = item.context_expr
                    if isinstance(call, ast.Call) and script.qualified(call.func) in AUTOCASTS:
                        yield node, item, call


def _backward(script: Script, call: ast.Call) -> ast.Call | None:
    parent = script.parent(call)
    if isinstance(parent, ast.Attribute) and parent.attr == "backward":
        outer = script.parent(parent)
        if isinstance(outer, ast.Call):
            return outer
    return None


def after(one: Use, other: Use) -> bool:
    """Whether `one` comes after `other` in the source."""
    return one.place > other.place
