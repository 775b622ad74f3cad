"""MP701: the AMP names of one device, deprecated since torch 2.4.

At most one problem per file, at the first use in the text, with one fix for all uses. Not reported
is code that asks for the version of torch or falls back where an import fails, and what has no
successor in the oldest torch that the project allows. The fix is left out where a use cannot be
rewritten for certain; the problem then says why.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mpaudit.finding import Problem, Related
from mpaudit.fix import Fix
from mpaudit.source.api.deprecated import DEPRECATED, MODULES, SINCE, Api
from mpaudit.source.engine.torch_version import torch_of
from mpaudit.source.migration.migrate import Imported, Use, migrate
from mpaudit.source.text.argument import UnrepairableError
from mpaudit.source.text.names import Binding, Names
from mpaudit.source.text.place import root_of
from mpaudit.source.text.requirement import Allowed
from mpaudit.source.text.star_import import adopt
from mpaudit.source.trait.compat import guarded

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

_MOST_RELATED = 8
_MOST_NAMED = 3
_CONSEQUENCE = "every call warns with torch 2.4 and newer, and a later torch may drop the name"
_AMP = re.compile(r"amp\b(?<=\bamp)")  # a word: the literal comes first, which is 10 times faster
_LAST_PARTS = frozenset(old.rpartition(".")[2] for old in DEPRECATED)


def check(module: Module) -> Iterator[tuple[Problem, Fix | None]]:
    """Yield the deprecated AMP names of a file as one problem, with the fix for all of them."""
    text = module.text
    if "torch" not in text or not ("autocast_" in text or _AMP.search(text)):
        return
    names = Names.of(module)
    if "import *" in module.text and "torch." in module.text:
        adopt(module, "torch")
    uses = list(_uses(module, names))
    imports = list(_imports(module, names, uses))
    if not uses and not imports:
        return
    allowed = torch_of(module)
    uses = [each for each in uses if _in_force(each.api, allowed)]
    uses.sort(key=lambda each: (each.node.lineno, each.node.col_offset))
    imports = [
        each
        for each in _imports(module, names, uses)
        if each.api is None or _in_force(each.api, allowed)
    ]
    places = sorted(
        {*(each.node for each in uses), *(each.statement for each in imports)},
        key=lambda node: (node.lineno, node.col_offset),
    )
    if not places:
        return
    fix: Fix | None = None
    unrepaired = ""
    related: list[Related] = []
    try:
        fix = migrate(module, uses, imports)
    except UnrepairableError as reason:
        unrepaired = f"; not repaired, because {reason}"
        if hasattr(reason.node, "lineno"):
            related.append(Related(module.span(reason.node), f"not repaired: {reason}"))
    kinds = _kinds(places, uses, imports)
    related += [Related(module.span(node), f"{module.source(node)} too") for node in places[1:]]
    yield (
        Problem(
            rule="deprecated-torch-amp",
            span=module.span(places[0]),
            message=_message(kinds),
            consequence=_CONSEQUENCE + unrepaired,
            related=tuple(related[:_MOST_RELATED]),
        ),
        fix,
    )


def _uses(module: Module, names: Names) -> Iterator[Use]:
    for node in names.reads():
        if isinstance(node, ast.Name) or node.attr in _LAST_PARTS:
            api = DEPRECATED.get(names.resolve(node) or "")
            if api and not _guarded(node, module, names):
                yield Use(node, api)


def _guarded(node: ast.AST, module: Module, names: Names) -> bool:
    """Whether the place, or the import that the name comes from, depends on the version."""
    return guarded(node, module) or any(
        guarded(binding.node, module)
        for binding in names.trail(node)
        if names.meaning(binding) in DEPRECATED or names.meaning(binding) in MODULES
    )


def _imports(module: Module, names: Names, uses: list[Use]) -> Iterator[Imported]:
    """The imports of deprecated names, and of the modules that the uses go through."""
    through: set[Binding] = {each for use in uses for each in names.trail(use.node)}
    dotted = any(names.resolve(root_of(use.node)) == "torch" for use in uses)
    for binding in names.all():
        alias = binding.node
        if not isinstance(alias, ast.alias):
            continue
        statement = module.parents[alias]
        api = None
        if isinstance(statement, ast.ImportFrom):
            meaning = str(binding.origin)
            api = DEPRECATED.get(meaning)
            counts = api is not None or (meaning in MODULES and binding in through)
            counts &= alias.name != "*" or binding in through
        else:
            named = alias.asname is not None or dotted
            counts = named and alias.name in MODULES and binding in through
        assert isinstance(statement, (ast.Import, ast.ImportFrom))
        if counts and not guarded(alias, module):
            yield Imported(statement, alias, binding, api)


def _in_force(api: Api, allowed: Allowed) -> bool:
    """Whether the name is deprecated, and has a successor, in the torch that the project allows."""
    if allowed.ceiling is not None and allowed.ceiling < SINCE:
        return False
    return allowed.floor is None or allowed.floor >= api.needs


def _kinds(
    places: list[ast.Name | ast.Attribute | ast.Import | ast.ImportFrom],
    uses: list[Use],
    imports: list[Imported],
) -> list[Api]:
    """The deprecated names in the order of the text, each once."""
    found: dict[str, Api] = {}
    for place in places:
        here = [use.api for use in uses if use.node is place]
        here += [each.api for each in imports if each.statement is place and each.api]
        found.update((api.old, api) for api in here if api.old not in found)
    return list(found.values())


def _message(kinds: list[Api]) -> str:
    shown = kinds[:_MOST_NAMED]
    old = _listed([each.old for each in shown], len(kinds) - len(shown))
    verb = "is" if len(kinds) == 1 else "are"
    new = _listed(list(dict.fromkeys(each.advice for each in shown)), 0)
    return f"{old} {verb} deprecated since torch {SINCE[0]}.{SINCE[1]}; write {new}"


def _listed(words: list[str], more: int) -> str:
    words = [*words, f"{more} more"] if more else words
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
