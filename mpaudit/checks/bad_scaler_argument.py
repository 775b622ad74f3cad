"""MP120: arguments that a GradScaler takes for something else, or refuses.

`torch.amp.GradScaler(device, init_scale, ...)` begins with the device, the old `torch.cuda.amp.GradScaler(
init_scale, ...)` does not, and neither checks what it is given. Reported is what the text decides
(`mpaudit.source.trait.sort`), also where the version of torch is asked: what they take was the same in every
release.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.checks.autocast_call import only_device
from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.torch_names import LEGACY_SCALERS, SCALERS, SHARDED_SCALERS
from mpaudit.source.text.names import Names
from mpaudit.source.trait.compat import attempted, expected
from mpaudit.source.trait.sort import Sort, sort_of

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_FACTORS = ("growth_factor", "backoff_factor", "growth_interval", "enabled")
_LEGACY = ("init_scale", *_FACTORS)
_MODERN = ("device", *_LEGACY)
_SHARDED = (
    "device",
    "init_scale",
    "backoff_factor",
    "growth_factor",
    "growth_interval",
    "enabled",
    "process_group",
)
_ORDERS = {
    **dict.fromkeys(LEGACY_SCALERS, _LEGACY),
    **dict.fromkeys(SCALERS, _MODERN),
    **dict.fromkeys(SHARDED_SCALERS, _SHARDED),
}
_NO_NUMBER = "it raises \"full(): argument 'fill_value' (position 2) must be Number, not {}\""

Found = tuple[Problem, Fix | None]


def check(module: Module) -> Iterator[Found]:
    """Yield the arguments that a GradScaler cannot be meant to take."""
    if "GradScaler" not in module.text:
        return
    names = Names.of(module)
    for node in names.reads():
        call = module.parents[node]
        if not isinstance(call, ast.Call) or call.func is not node:
            continue
        order = _ORDERS.get(names.resolve(node) or "")
        starred = any(isinstance(each, ast.Starred) for each in call.args)
        if order is None or starred or attempted(node, module) or expected(node, module):
            continue
        yield from _Arguments(module, call, order).check()


class _Arguments:
    """One call, and which argument stands for what."""

    def __init__(self, module: Module, call: ast.Call, order: tuple[str, ...]) -> None:
        self.module, self.call, self.order = module, call, order
        self.keywords = {each.arg: each for each in call.keywords if each.arg is not None}
        self.given = dict(zip(order, call.args, strict=False))
        self.placed = frozenset(self.given)
        self.given |= {name: each.value for name, each in self.keywords.items()}

    def check(self) -> Iterator[Found]:
        for name, keyword in self.keywords.items():
            if name not in self.order:
                yield self._refused(name, keyword)
        device, scale = self.given.get("device"), self.given.get("init_scale")
        if device is not None and "device" in self.order:
            yield from self._device(device)
        if scale is not None:
            yield from self._scale(scale)

    def _refused(self, name: str, keyword: ast.keyword) -> Found:
        fix = None
        if name == "device_type" and self.order is not _LEGACY and "device" not in self.given:
            start, _ = self.module.range(keyword)
            fix = self._fix("Call it `device`", Edit(start, start + len(name), "device"))
        elif name in ("device", "device_type") and self.order is _LEGACY:
            fix = self._without(keyword)
        known = "`device`" if name == "device_type" and self.order is not _LEGACY else None
        return self._problem(
            keyword,
            f"GradScaler has no argument `{name}`" + (f"; it is called {known}" if known else ""),
            f"it raises \"GradScaler.__init__() got an unexpected keyword argument '{name}'\"",
            fix,
        )

    def _device(self, device: ast.expr) -> Iterator[Found]:
        text = self._text(device)
        if sort_of(device, self.module) is Sort.BOOL:
            yield self._problem(
                device,
                f"`{text}` is taken for the device: it does not switch the scaler on or off",
                "the scaler is enabled whatever the value, and begins at a scale of 65536",
                self._named(device, "device", "enabled"),
            )
        elif _is_number(device, self.module):
            yield self._problem(
                device,
                f"`{text}` is taken for the device: it is not the initial scale",
                "the scale begins at 65536 all the same",
                self._named(device, "device", "init_scale"),
            )

    def _scale(self, scale: ast.expr) -> Iterator[Found]:
        text, sort = self._text(scale), sort_of(scale, self.module)
        if sort is Sort.BOOL:
            yield self._problem(
                scale,
                f"`{text}` is taken for the initial scale: it does not switch the scaler on or off",
                "the scaler is enabled whatever the value: True begins at a scale of 1, which is none, "
                "and False at 0, with which every step is skipped for ever",
                self._named(scale, "init_scale", "enabled"),
            )
        elif sort in (Sort.TEXT, Sort.DEVICE) and "init_scale" in self.placed:
            kind = "str" if sort is Sort.TEXT else "torch.device"
            fix = None
            if self.order is _LEGACY and len(self.call.args) == 1:
                fix = self._without(scale)
            yield self._problem(
                scale,
                f"`{text}` is taken for the initial scale: this GradScaler takes no device",
                _NO_NUMBER.format(kind) + " at the first `scale()`",
                fix,
            )

    # What fixes are made of

    def _named(self, argument: ast.expr, taken: str, meant: str) -> Fix | None:
        """`GradScaler(flag)` -> `GradScaler("cuda", enabled=flag)`; what follows must have a name."""
        place = self.order.index(taken)
        if len(self.call.args) != place + 1 or meant in self.given or taken not in self.placed:
            return None
        mark = self.module.quote
        first = ""
        if taken == "device":
            first = f"{mark}{only_device(self.module) or 'cuda'}{mark}, "
        start, _ = self.module.range(argument)
        return self._fix(f"Hand it over as `{meant}`", Edit(start, start, f"{first}{meant}="))

    def _without(self, argument: ast.expr | ast.keyword) -> Fix | None:
        parts: list[ast.expr | ast.keyword] = [*self.call.args, *self.call.keywords]
        ordered = sorted(parts, key=lambda each: self.module.range(each)[0])
        place = ordered.index(argument)
        start, end = self.module.range(argument)
        if place + 1 < len(ordered):
            end = self.module.range(ordered[place + 1])[0]
        elif place:
            start = self.module.range(ordered[place - 1])[1]
        return self._fix("Leave it out", Edit(start, end, ""))

    def _text(self, node: ast.expr) -> str:
        return " ".join(self.module.source(node).split())

    def _fix(self, message: str, *edits: Edit) -> Fix:
        return Fix(message, edits, Safety.SAFE)

    def _problem(self, node: ast.AST, message: str, consequence: str, fix: Fix | None) -> Found:
        span = self.module.span(node)
        return Problem("bad-scaler-argument", span, message, consequence), fix


def _is_number(node: ast.expr, module: Module, steps: int = 4) -> bool:
    """Whether an expression is made of literal numbers, directly or by the name of a constant."""
    if steps == 0:
        return False
    match node:
        case ast.Constant(value=value):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case ast.BinOp(left=left, right=right):
            return all(_is_number(each, module, steps - 1) for each in (left, right))
        case ast.Call(func=function, args=[argument]):
            numbers = ("builtins.float", "builtins.int")
            called = Names.of(module).resolve(function)
            return called in numbers and _is_number(argument, module, steps - 1)
        case ast.Name():
            origins = [each.origin for each in Names.of(module).bindings(node)]
            return bool(origins) and all(
                isinstance(each, ast.expr) and _is_number(each, module, steps - 1)
                for each in origins
            )
    return False
