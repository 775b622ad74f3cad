"""Repairing the layer that a model ends in: its activation, and the dtype it computes in."""

from __future__ import annotations

import ast

from mpaudit.finding import Span
from mpaudit.fix import Edit
from mpaudit.source.api.keras_names import ROOTS
from mpaudit.source.library.keras.layers import ACTIVATION_AT, NATURES
from mpaudit.source.text.module import Module
from mpaudit.source.text.names import Names


def repair_layer(module: Module, span: Span, *, drop: bool, half: bool) -> list[Edit] | None:
    """Drop the activation, set `dtype="float32"`, or both; None where that cannot be done."""
    if span.filename != module.filename:
        return None
    node = module.node_at(span, ast.Call)
    if not isinstance(node, ast.Call):
        return None
    meaning = Names.of(module).resolve(node.func) or ""
    if meaning.rpartition(".")[2] in NATURES:
        return _drop_operation(module, node) if not half else None
    if not meaning.startswith(tuple(f"{root}.layers." for root in ROOTS)):
        return None
    name = meaning.rpartition(".")[2]
    if drop and name in ("Softmax", "Activation"):
        return _neutralise(module, node, name, half=half)
    dtype = next((k for k in node.keywords if k.arg in ("dtype", "dtype_policy")), None)
    edits: list[Edit] = []
    activation = _activation(node, name) if drop else None
    if drop and activation is None:
        return None
    if half and dtype is not None:
        if not isinstance(dtype.value, ast.Constant):
            return None
        edits.append(Edit(*module.range(dtype.value), _quoted(module, "float32")))
    if half and dtype is None:
        given = f"dtype={_quoted(module, 'float32')}"
        if activation is not None:
            return [Edit(*module.range(activation), given)]
        added = append_argument(module, node, given)
        return None if added is None else [added]
    if activation is not None:
        removed = _remove(module, node, activation)
        if removed is None:
            return None
        edits.append(removed)
    return edits


def _quoted(module: Module, text: str) -> str:
    return f"{module.quote}{text}{module.quote}"


def _activation(node: ast.Call, name: str) -> ast.expr | ast.keyword | None:
    """The argument that holds the activation, where it is spelled out and can be dropped."""
    found: ast.expr | ast.keyword | None
    found = next((k for k in node.keywords if k.arg == "activation"), None)
    position = ACTIVATION_AT.get(name)
    if found is None and position is not None and len(node.args) == position + 1:
        found = node.args[position]
    value = found.value if isinstance(found, ast.keyword) else found
    if isinstance(value, ast.Constant) and value.value in NATURES:
        return found
    if isinstance(value, ast.Attribute) and value.attr in NATURES:
        return found
    return None


def _arguments(node: ast.Call) -> list[ast.expr | ast.keyword]:
    found: list[ast.expr | ast.keyword] = [*node.args, *node.keywords]
    return sorted(found, key=lambda each: (each.lineno, each.col_offset))


def _remove(module: Module, node: ast.Call, argument: ast.expr | ast.keyword) -> Edit | None:
    """Remove an argument along with the comma before it (or, if it is the first, after it)."""
    arguments = _arguments(node)
    index = arguments.index(argument)
    start, end = module.range(argument)
    if index > 0:
        _, start = module.range(arguments[index - 1])
    elif len(arguments) > 1:
        end, _ = module.range(arguments[1])
    edit = Edit(start, end, "")
    return None if "#" in module.text[start:end] else edit


def append_argument(module: Module, node: ast.Call, argument: str) -> Edit | None:
    """Add an argument to a call, on a line of its own where the others have one; None if it cannot be."""
    arguments = _arguments(node)
    _, end = module.range(node)
    if not arguments:
        return Edit(end - 1, end - 1, argument)
    first, last = module.range(arguments[-1])
    row = module.position(first).row
    line, _ = module.line_range(row)
    indent = module.text[line:first]
    if not indent.strip() and row > node.lineno:
        return Edit(last, last, f",{module.newline}{indent}{argument}")
    if isinstance(arguments[-1], ast.GeneratorExp):
        return None
    return Edit(last, last, f", {argument}")


def _neutralise(module: Module, node: ast.Call, name: str, *, half: bool) -> list[Edit] | None:
    """`Softmax()` and `Activation("softmax")` give way to a linear activation, or go."""
    if not half and _removable(module, node):
        return _remove_layer(module, node)
    dtype = f", dtype={_quoted(module, 'float32')}" if half else ""
    kept = [k for k in node.keywords if k.arg not in ("activation", "axis", "dtype")]
    if not half:
        kept = [k for k in node.keywords if k.arg not in ("activation", "axis")]
    others = "".join(f", {module.source(keyword)}" for keyword in kept)
    function = module.source(node.func)
    if name == "Softmax":
        spelled = _activation_layer(module, node.func)
        if spelled is None:
            return None
        function = spelled
    elif len(node.args) > 1 or _activation(node, name) is None:
        return None
    text = f"{function}({_quoted(module, 'linear')}{dtype}{others})"
    return [Edit(*module.range(node), text)]


def _activation_layer(module: Module, softmax: ast.expr) -> str | None:
    """How the file can spell the layer `Activation`, going by how it spells `Softmax`."""
    if isinstance(softmax, ast.Attribute):
        return f"{module.source(softmax.value)}.Activation"
    names = Names.of(module)
    if isinstance(softmax, ast.Name):
        for root in ROOTS:
            known = names.spelling(f"{root}.layers.Activation", softmax)
            if known is not None:
                return known
    return None


def _removable(module: Module, node: ast.Call) -> bool:
    parent = module.parents[node]
    if isinstance(parent, ast.Call) and parent.func is node:
        return len(parent.args) == 1 and not parent.keywords
    return False


def _remove_layer(module: Module, node: ast.Call) -> list[Edit]:
    """`Softmax()(x)` -> `x`."""
    outer = module.parents[node]
    assert isinstance(outer, ast.Call)
    return [Edit(*module.range(outer), module.source(outer.args[0]))]


def _drop_operation(module: Module, node: ast.Call) -> list[Edit] | None:
    """`tf.nn.softmax(x)` -> `x`."""
    values = [*node.args, *(k.value for k in node.keywords if k.arg in ("logits", "x"))]
    if len(values) != 1:
        return None
    text = module.source(values[0])
    if not isinstance(values[0], (ast.Name, ast.Call, ast.Attribute, ast.Subscript)):
        text = f"({text})"
    return [Edit(*module.range(node), text)]
