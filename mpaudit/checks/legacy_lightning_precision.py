"""MP704: Lightning's old words for the precision, 16 and "bf16", which hide what they mean.

By the origin of `Trainer`, `Fabric` and `LightningCLI`. Not reported is a project that allows a
Lightning older than 2.0, which does not know the new words, and a call whose arguments only
Lightning 1 has.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.finding import Problem
from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.text.names import Names
from mpaudit.source.text.requirement import allowed
from mpaudit.source.trait.compat import guarded
from mpaudit.source.trait.lightning_trainer import FABRIC, TRAINER, Made, made

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

LIGHTNING = ("lightning", "pytorch-lightning", "lightning-fabric")
_NEW_WORDS = (2, 0)
"""The first Lightning that has them."""
_LEGACY: dict[object, str] = {16: "16-mixed", "16": "16-mixed", "bf16": "bf16-mixed"}
_BESIDE: dict[object, str] = {32: "32-true", "32": "32-true", 64: "64-true", "64": "64-true"}
"""Words that are as old but say what they mean; they are changed along with the others."""
_OF_1 = re.compile(
    r"\bdef (training|validation|test)_epoch_end\b|\.(add|from)_argparse_args\b|\bDDPPlugin\b"
)
"""What only code of Lightning 1 has."""
_MAX_DEPTH = 3


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the calls that say the precision in an old word."""
    if "lightning" not in module.text or "precision" not in module.text:
        return
    names = Names.of(module)
    calls = [each for each in made(module, names) if not guarded(each.call, module)]
    found = [(each, words) for each in calls if (words := _words(each, names))]
    if not found or _OF_1.search(module.text):
        return
    stated = allowed(Path(module.filename), LIGHTNING)
    if stated.floor is not None and stated.floor < _NEW_WORDS:
        return
    for each, words in found:
        if each.arguments.keys() <= (FABRIC if each.is_fabric else TRAINER):
            yield _problem(each, words, module, names)


def _words(each: Made, names: Names) -> list[ast.Constant]:
    """The constants that may become the precision, if one of them is an old word."""
    given = each.arguments.get("precision")
    found = [*_constants(given, names)] if given is not None else []
    return found if any(_meaning(word) in _LEGACY for word in found) else []


def _constants(node: ast.expr, names: Names, depth: int = 0) -> Iterator[ast.Constant]:
    match node:
        case ast.Constant():
            yield node
        case ast.IfExp():
            yield from _constants(node.body, names, depth)
            yield from _constants(node.orelse, names, depth)
        case ast.Name() if depth < _MAX_DEPTH:
            for binding in names.bindings(node):
                if isinstance(binding.origin, ast.expr):
                    yield from _constants(binding.origin, names, depth + 1)


def _meaning(word: ast.Constant) -> object:
    """The value as Lightning takes it; True is 1 and no precision."""
    return word.value if not isinstance(word.value, bool) else None


def _problem(
    each: Made, words: list[ast.Constant], module: Module, names: Names
) -> tuple[Problem, Fix | None]:
    old = next(word for word in words if _meaning(word) in _LEGACY)
    new = _LEGACY[_meaning(old)]
    given = each.arguments["precision"]
    problem = Problem(
        "legacy-lightning-precision",
        module.span(given),
        f"the precision {module.source(old)} is an old word for `{new}`, which says that the weights "
        "stay float32",
        f"Lightning 2 warns at every start; `{new.replace('mixed', 'true')}`, which looks as much like it, "
        "makes the weights half",
    )
    inside = {*ast.walk(given)}
    far = [word for word in words if word not in inside]
    if far and not all(_only_for(name, module, names) for name in _held(given, names)):
        return problem, None
    safety = Safety.UNSAFE if any(_shared(word, module) for word in far) else Safety.SAFE
    edits = [
        Edit(*module.range(word), _written(word, after, module))
        for word in words
        if (after := {**_LEGACY, **_BESIDE}.get(_meaning(word)))
    ]
    return problem, Fix(f"Say {new}", tuple(edits), safety)


def _written(word: ast.Constant, new: str, module: Module) -> str:
    text = module.source(word)
    quote = text[-1] if isinstance(word.value, str) else module.quote
    return f"{quote}{new}{quote}"


def _held(node: ast.expr, names: Names, depth: int = 0) -> Iterator[ast.Name]:
    """The names that hand the precision on."""
    if isinstance(node, ast.IfExp):
        yield from _held(node.body, names, depth)
        yield from _held(node.orelse, names, depth)
    elif isinstance(node, ast.Name) and depth < _MAX_DEPTH:
        yield node
        for binding in names.bindings(node):
            if isinstance(binding.origin, ast.expr):
                yield from _held(binding.origin, names, depth + 1)


def _only_for(name: ast.Name, module: Module, names: Names) -> bool:
    """Whether a name holds nothing but the precision, and nobody else reads it."""
    return all(
        isinstance(binding.origin, (ast.Constant, ast.IfExp))
        and isinstance(parent := module.parents[reader], ast.keyword)
        and parent.arg == "precision"
        for binding in names.bindings(name)
        for reader in names.readers(binding)
    )


def _shared(word: ast.Constant, module: Module) -> bool:
    """Whether another file may import the name that holds a constant."""
    return isinstance(module.parents[module.statement(word)], ast.Module)
