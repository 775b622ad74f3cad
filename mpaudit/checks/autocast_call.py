"""Where a file names autocast, and how it spells what it hands over: what the checks of it share."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.source.api.torch_names import AUTOCASTS, LEGACY_AUTOCASTS, LEGACY_SCALERS, SCALERS
from mpaudit.source.text.names import Names
from mpaudit.source.trait.compat import attempted, expected

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


def mentions(module: Module) -> Iterator[tuple[ast.Name | ast.Attribute, str]]:
    """Every place that reads autocast, with its full name; not where it is tried whether torch has it.

    What it takes is the same in every release.
    """
    if not (module.mentions("autocast") and module.mentions("torch")):
        return
    names = Names.of(module)
    for node in names.reads():
        if isinstance(module.parents[node], ast.Attribute):
            continue
        meaning = names.resolve(node)
        if meaning in AUTOCASTS or meaning in LEGACY_AUTOCASTS:
            if not attempted(node, module) and not expected(node, module):
                yield node, meaning


def only_device(module: Module) -> str | None:
    """The one device type that the file's other regions and scalers name, None if there is none."""
    names = Names.of(module)
    found: set[str] = set()
    for node in module.every(ast.Call):
        meaning = names.resolve(node.func) or ""
        if meaning in LEGACY_AUTOCASTS:
            found.add(LEGACY_AUTOCASTS[meaning])
        elif meaning in LEGACY_SCALERS:
            found.add("cpu" if ".cpu." in meaning else "cuda")
        elif meaning in AUTOCASTS or meaning in SCALERS:
            given = [k.value for k in node.keywords if k.arg in ("device", "device_type")]
            first = [*node.args, *given][:1]
            if first and isinstance(first[0], ast.Constant) and isinstance(first[0].value, str):
                found.add(first[0].value.partition(":")[0])
    return found.pop() if len(found) == 1 else None
