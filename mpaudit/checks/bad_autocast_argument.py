"""MP208: arguments that autocast refuses, or takes for something else.

`torch.autocast(device_type, dtype, enabled, cache_enabled)` wants the device as a plain type ("cuda"), and
its order is not that of the old `torch.cuda.amp.autocast(enabled, dtype, cache_enabled)`. Reported is what
the text decides: what an argument is follows from what is assigned to it (`mpaudit.source.trait.sort`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.checks.autocast_call import mentions, only_device
from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.torch_names import AUTOCASTS
from mpaudit.source.engine.torch_version import torch_of
from mpaudit.source.text.names import Names
from mpaudit.source.text.place import root_of
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.compat import guarded
from mpaudit.source.trait.sort import Sort, sort_of, stands_for

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_RULE = "bad-autocast-argument"
_MODERN = ("device_type", "dtype", "enabled", "cache_enabled")
_LEGACY = ("enabled", "dtype", "cache_enabled")
_DEVICES = ("device_type", "device")
NUMBERS_TAKEN = (2, 4)
"""From this release of torch on a device's number is let pass."""
_INDEXED = re.compile(r"(cpu|cuda|xpu|mps):(\d+|\{.+\})")
_WRONG_DEVICE = {"gpu": "cuda", "GPU": "cuda", "CUDA": "cuda", "CPU": "cpu"}
_DTYPE_NAMES = {
    "float16": "float16",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float32": "float32",
}
_CLASSES = {
    Sort.DEVICE: "torch.device",
    Sort.BOOL: "bool",
    Sort.DTYPE: "torch.dtype",
    Sort.NONE: "NoneType",
}

Found = tuple[Problem, Fix | None]


def check(module: Module) -> Iterator[Found]:
    """Yield the arguments that autocast cannot take."""
    for node, name in mentions(module):
        call = module.parents[node]
        if not isinstance(call, ast.Call) or any(isinstance(a, ast.Starred) for a in call.args):
            continue
        order = _MODERN if name in AUTOCASTS else _LEGACY
        if call.func is node:
            yield from _Arguments(module, call, call.args, order).check()
        elif (
            call.args
            and call.args[0] is node
            and Names.of(module).resolve(call.func) == "functools.partial"
        ):
            yield from _Arguments(module, call, call.args[1:], order, later=True).check()


def _spelled(text: ast.expr) -> str | None:
    """What a text says, with what is not known of an f-string as the program has it: "cuda:{rank}"."""
    if isinstance(text, ast.JoinedStr):
        return ast.unparse(text)[2:-1]
    return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None


class _Arguments:
    """One call, and which argument stands for what. `later`: `partial`, more may be added."""

    def __init__(
        self,
        module: Module,
        call: ast.Call,
        positional: list[ast.expr],
        order: tuple[str, ...],
        *,
        later: bool = False,
    ) -> None:
        self.module, self.call, self.later = module, call, later
        self.modern = order is _MODERN
        self.keywords = {k.arg: k for k in call.keywords if k.arg is not None}
        self.open = any(k.arg is None for k in call.keywords)
        self.given = dict(zip(order, positional, strict=False))
        self.positional = frozenset(self.given)
        self.given |= {name: k.value for name, k in self.keywords.items() if name in order}

    def check(self) -> Iterator[Found]:
        if self.modern:
            yield from self._device()
        else:
            yield from (self._ahead(k) for name, k in self.keywords.items() if name in _DEVICES)
        dtype = self.given.get("dtype")
        if dtype is not None:
            yield from self._dtype(dtype)
        enabled = self.given.get("enabled")
        if enabled is not None:
            yield from self._enabled(enabled)

    def _device(self) -> Iterator[Found]:
        device = self.given.get("device_type")
        if device is None:
            if "device" in self.keywords:
                yield self._misnamed(self.keywords["device"])
            elif not self.open and not self.later:
                yield self._missing()
            return
        sort = sort_of(device, self.module)
        if sort in _CLASSES:
            says = "it raises \"Expected `device_type` of type `str`, got: `<class '{}'>`\""
            fix = None
            if sort is Sort.DEVICE:
                fix = self._fix("Hand over the device's type", self._type_of(device))
            elif sort is Sort.BOOL:
                fix = self._name_the_device(device)
            yield self._problem(
                device,
                f"`{self._text(device)}` is a {_CLASSES[sort]}; autocast takes the device's type, "
                'such as "cuda"',
                says.format(_CLASSES[sort]),
                fix,
            )
        elif sort is Sort.TEXT:
            name = _spelled(stands_for(device, self.module))
            if name is not None:
                yield from self._device_name(device, name)

    def _device_name(self, node: ast.expr, name: str) -> Iterator[Found]:
        if name in _WRONG_DEVICE:
            right = _WRONG_DEVICE[name]
            consequence = (
                f'it raises "Expected one of cpu, cuda, ... at start of device string: {name}"'
            )
        elif _INDEXED.fullmatch(name) and not self._takes_numbers():
            right = name.partition(":")[0]
            consequence = (
                'it raises "User specified an unsupported autocast device_type" before torch 2.4; '
                f"newer releases leave out their checks of {right}, such as whether it is there"
            )
        else:
            return
        literal = isinstance(node, ast.Constant)
        quoted = self.module.source(node)[0] if literal else self.module.quote
        edit = Edit(*self.module.range(node), f"{quoted}{right}{quoted}")
        what = f'"{name}" is' if literal else f'`{self._text(node)}` is "{name}",'
        yield self._problem(
            node,
            f'{what} no device type; write "{right}"',
            consequence,
            self._fix(f'Write "{right}"', edit),
        )

    def _takes_numbers(self) -> bool:
        """Whether only releases are meant that take "cuda:0"."""
        floor = torch_of(self.module).floor
        known = floor is not None and floor >= NUMBERS_TAKEN
        return known or guarded(self.call, self.module)

    def _misnamed(self, keyword: ast.keyword) -> Found:
        start, _ = self.module.range(keyword)
        edits = [Edit(start, start + len("device"), "device_type")]
        if sort_of(keyword.value, self.module) is Sort.DEVICE:
            edits.append(self._type_of(keyword.value))
        return self._problem(
            keyword,
            "autocast has no argument `device`; it is called `device_type`",
            "it raises \"autocast.__init__() got an unexpected keyword argument 'device'\"",
            self._fix("Call it `device_type`", *edits),
        )

    def _ahead(self, keyword: ast.keyword) -> Found:
        """The device for an old autocast; what takes its place (MP701) is told it."""
        return self._problem(
            keyword,
            f"`{self._text(self.call.func)}` is for one device, and takes no `{keyword.arg}`",
            f"it raises \"autocast.__new__() got an unexpected keyword argument '{keyword.arg}'\"",
            None,
        )

    def _missing(self) -> Found:
        device = only_device(self.module)
        fix = None
        if device is not None and device not in self._beside():
            quote = self.module.quote
            _, after = self.module.range(self.call.func)
            at = self.module.text.index("(", after) + 1
            more = ", " if self.call.keywords else ""
            fix = self._fix("Name the device", Edit(at, at, f"{quote}{device}{quote}{more}"))
            fix = Fix(fix.message, fix.edits, Safety.UNSAFE)
        return self._problem(
            self.call,
            "autocast is not told which device to cast for",
            "it raises \"autocast.__init__() missing 1 required positional argument: 'device_type'\"",
            fix,
        )

    def _beside(self) -> set[object]:
        """The constants that other regions of the same `with` are called with: a device needs no second."""
        around = self.module.parents[self.module.parents[self.call]]
        items = around.items if isinstance(around, (ast.With, ast.AsyncWith)) else []
        calls = [each.context_expr for each in items if isinstance(each.context_expr, ast.Call)]
        given = [a for call in calls for a in (*call.args, *(k.value for k in call.keywords))]
        return {each.value for each in given if isinstance(each, ast.Constant)}

    def _dtype(self, dtype: ast.expr) -> Iterator[Found]:
        sort = sort_of(dtype, self.module)
        text = self._text(dtype)
        if sort is Sort.BOOL or (sort is None and self._is_switch(dtype)):
            fix = None
            if "dtype" in self.positional and "enabled" not in self.given:
                start, _ = self.module.range(dtype)
                fix = self._fix("Hand it over as `enabled`", Edit(start, start, "enabled="))
            where = "the second argument" if "dtype" in self.positional else "`dtype`"
            yield self._problem(
                dtype,
                f"`{text}` is a truth value, but {where} of autocast is the dtype",
                "it raises \"set_autocast_dtype(): argument 'dtype' (position 2) must be torch.dtype, "
                'not bool"',
                fix,
            )
        elif sort is Sort.TEXT:
            yield self._problem(
                dtype,
                f"`{text}` is a text, but autocast takes a torch.dtype",
                "it raises \"set_autocast_dtype(): argument 'dtype' (position 2) must be torch.dtype, "
                'not str"',
                self._spelled_out(dtype),
            )

    def _enabled(self, enabled: ast.expr) -> Iterator[Found]:
        if sort_of(enabled, self.module) is not Sort.DTYPE:
            return
        fix = None
        if "dtype" not in self.given:
            if "enabled" in self.positional:
                start, _ = self.module.range(enabled)
                edit = Edit(start, start, "dtype=")
            else:
                start, _ = self.module.range(self.keywords["enabled"])
                edit = Edit(start, start + len("enabled"), "dtype")
            fix = self._fix("Hand it over as `dtype`", edit)
        where = "the first argument" if not self.modern else "this argument"
        if "enabled" not in self.positional:
            where = "`enabled`"
        yield self._problem(
            enabled,
            f"`{self._text(enabled)}` is a dtype, but {where} of autocast switches it on and off",
            "it raises \"set_autocast_enabled(): argument 'enabled' (position 2) must be bool, not "
            'torch.dtype"; older versions of torch switch it on, with their default dtype',
            fix,
        )

    # What fixes are made of

    def _type_of(self, device: ast.expr) -> Edit:
        start, end = self.module.range(device)
        if isinstance(device, (ast.Name, ast.Attribute, ast.Call)):
            return Edit(end, end, ".type")
        return Edit(start, end, f"({self.module.source(device)}).type")

    def _name_the_device(self, switch: ast.expr) -> Fix | None:
        device = only_device(self.module)
        if device is None or "device_type" not in self.positional or len(self.given) != 1:
            return None
        start, _ = self.module.range(switch)
        quote = self.module.quote
        edit = Edit(start, start, f"{quote}{device}{quote}, enabled=")
        return Fix("Name the device, and hand the switch over as `enabled`", (edit,), Safety.UNSAFE)

    def _spelled_out(self, dtype: ast.expr) -> Fix | None:
        """`"float16"` -> `torch.float16`."""
        if not isinstance(dtype, ast.Constant) or dtype.value not in _DTYPE_NAMES:
            return None
        torch = self._torch()
        if torch is None:
            return None
        right = f"{torch}.{_DTYPE_NAMES[str(dtype.value)]}"
        return self._fix(f"Write {right}", Edit(*self.module.range(dtype), right))

    def _torch(self) -> str | None:
        function = self.call.func
        if not isinstance(function, (ast.Name, ast.Attribute)):
            return None
        root = root_of(function)
        names = Names.of(self.module)
        return root.id if names.resolve(root) == "torch" else names.spelling("torch", root)

    def _is_switch(self, node: ast.expr) -> bool:
        """Whether the same expression is `enabled=` elsewhere in the file."""
        text = ast.unparse(node)
        if isinstance(node, (ast.Constant, ast.Call)):
            return False
        return any(
            isinstance(each, ast.keyword)
            and each.arg == "enabled"
            and ast.unparse(each.value) == text
            for each in walk(self.module.tree)
        )

    def _text(self, node: ast.expr) -> str:
        return " ".join(self.module.source(node).split())

    def _fix(self, message: str, *edits: Edit) -> Fix:
        return Fix(message, edits, Safety.SAFE)

    def _problem(self, node: ast.AST, message: str, consequence: str, fix: Fix | None) -> Found:
        return Problem(_RULE, self.module.span(node), message, consequence), fix
