"""The switches of TF32 and where a module uses them.

torch 2.9 brought `fp32_precision` switches for each backend; the older ones, `allow_tf32` and
`set_float32_matmul_precision`, write the new state as well, but not the other way round.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct

from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names

MATMUL, CONV = "matmul", "conv"
GROUPS = {MATMUL: ("matmul",), CONV: ("conv", "rnn")}
"""What one old switch is about, and the parts of it that have a new switch of their own."""

SET, GET = "torch.set_float32_matmul_precision", "torch.get_float32_matmul_precision"
OLD = {
    "torch.backends.cuda.matmul.allow_tf32": MATMUL,
    "torch.backends.cudnn.allow_tf32": CONV,
    SET: MATMUL,
    GET: MATMUL,
}
NEW = {
    "torch.backends.fp32_precision": ("matmul",),
    "torch.backends.cuda.matmul.fp32_precision": ("matmul",),
    "torch.backends.cudnn.fp32_precision": ("conv", "rnn"),
    "torch.backends.cudnn.conv.fp32_precision": ("conv",),
    "torch.backends.cudnn.rnn.fp32_precision": ("rnn",),
}
OLD_WORDS = {"highest": False, "high": True, "medium": True}
NEW_WORDS = {"ieee": False, "tf32": True, "bf16": None}


class Use(Struct, frozen=True):
    """A place that reads or writes a switch: the attribute, or the call of the function.

    `on` says whether it switches TF32 on, None where that is not known; `word` is the literal.
    """

    node: ast.Attribute | ast.Call
    name: str
    writes: bool
    on: bool | None
    word: str | None
    text: str

    @property
    def order(self) -> tuple[int, int]:
        """Where it stands in the text."""
        return self.node.lineno, self.node.col_offset

    @property
    def groups(self) -> tuple[str, ...]:
        """The old switches that it concerns."""
        if self.name in OLD:
            return (OLD[self.name],)
        return tuple(group for group, parts in GROUPS.items() if set(parts) & set(NEW[self.name]))

    def sets(self, part: str) -> bool:
        """Whether this new switch is about a part of a group."""
        return part in NEW[self.name]


def uses(module: Module) -> Iterator[Use]:
    """Every place of a module that uses a switch of TF32."""
    names = Names.of(module)
    for node in module.every(ast.Attribute):
        if node.attr in ("allow_tf32", "fp32_precision"):
            name = names.resolve(node)
            if name in OLD or name in NEW:
                assert name is not None
                yield _switch(node, name, module)
    for call in module.every(ast.Call):
        name = names.resolve(call.func)
        if name in (SET, GET):
            assert name is not None
            word = _word(call.args[0] if call.args else None)
            on = OLD_WORDS.get(word or "")
            yield Use(call, name, name == SET, on, word, module.source(call))


def _switch(node: ast.Attribute, name: str, module: Module) -> Use:
    value = _assigned(node, module)
    word = _word(value)
    on = NEW_WORDS.get(word or "") if name in NEW else None
    if name in OLD and isinstance(value, ast.Constant) and isinstance(value.value, bool):
        on = value.value
    writes = not isinstance(node.ctx, ast.Load)
    text = module.source(node)
    if isinstance(value, ast.Constant):
        text = f"{text} = {module.source(value)}"
    return Use(node, name, writes, on, word, text)


def _assigned(node: ast.Attribute, module: Module) -> ast.expr | None:
    parent = module.parents[node]
    return parent.value if isinstance(parent, ast.Assign) and node in parent.targets else None


def _word(value: ast.expr | None) -> str | None:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
