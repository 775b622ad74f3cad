"""What a file does with apex.amp, and the same written with torch.amp: shown, never applied."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.migration.apex_loop import Loop, loop_of
from mpaudit.source.repair.registry import alone, block_of, indentation, lines_of
from mpaudit.source.text.argument import UnrepairableError, given
from mpaudit.source.text.names import Names
from mpaudit.source.text.place import root_of

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module

AMP = "apex.amp"
_INITIALIZE = ("models", "optimizers", "enabled", "opt_level")
_LEVELS = ("O1", "O2")
"""Levels that scale the loss and keep float32 weights."""
_STATE = ("state_dict", "load_state_dict")


class Use(Struct, frozen=True):
    """A place that reads something of apex.amp, by its last name."""

    node: ast.Name | ast.Attribute
    name: str


def uses(names: Names) -> list[Use]:
    """The places that read what apex.amp holds, in the order of the text."""
    found = [
        Use(node, name.removeprefix(f"{AMP}."))
        for node in names.reads()
        if (name := names.resolve(node) or "").startswith(f"{AMP}.")
    ]
    return sorted(found, key=lambda use: (use.node.lineno, use.node.col_offset))


def imports(module: Module, names: Names) -> list[ast.Import | ast.ImportFrom]:
    """The statements that import apex.amp or what it holds, in the order of the text."""
    found: set[ast.AST] = set()
    for binding in names.all():
        if isinstance(alias := binding.node, ast.alias):
            statement = module.parents[alias]
            plain = isinstance(statement, ast.Import)
            whole = alias.name if plain else str(binding.origin)
            if whole == AMP or whole.startswith(f"{AMP}."):
                found.add(statement)
    statements = [each for each in found if isinstance(each, (ast.Import, ast.ImportFrom))]
    return sorted(statements, key=lambda each: each.lineno)


def rewrite(
    module: Module, found: list[Use], brought: list[ast.Import | ast.ImportFrom]
) -> Fix | None:
    """The whole of it with torch.amp; None where some use of apex.amp has no plain counterpart."""
    try:
        edits = _Rewriting(module, found).edits(brought)
    except UnrepairableError:
        return None
    return Fix("autocast and GradScaler in place of apex.amp", tuple(edits), Safety.SUGGESTION)


class _Rewriting:
    def __init__(self, module: Module, found: list[Use]) -> None:
        self.module = module
        self.names = Names.of(module)
        self.found = found
        self.torch = "torch"

    def edits(self, brought: list[ast.Import | ast.ImportFrom]) -> list[Edit]:
        """All edits of the file. Raises UnrepairableError where one of them cannot be made."""
        start, scaled = self._of("initialize"), self._of("scale_loss")
        known = {"initialize", "scale_loss", "master_params", *_STATE}
        if len(start) > 1 or any(use.name not in known for use in self.found):
            raise UnrepairableError("apex.amp is used in another way", self.found[0].node)
        edits = [self._without(statement) for statement in brought]
        if not any(each.id == "torch" for each in self._names()):
            edits.append(Edit(edits[0].start, edits[0].start, f"import torch{self.module.newline}"))
        if not self.found:
            return edits
        if len(start) != 1 or not scaled:
            raise UnrepairableError("it is made or used in another file", self.found[0].node)
        loops = [loop_of(self.module, use.node) for use in scaled]
        scaler, made = self._initialized(start[0], loops)
        asks = "enabled=" in made[0].content
        masters, model = self._of("master_params"), self._model(start[0])
        for loop in loops:
            edits += loop.edits(scaler, model, masters, asks=asks)
        for use in self.found:
            if use.name in _STATE:
                edits.append(Edit(*self.module.range(use.node), f"{scaler}.{use.name}"))
        (whole,) = made  # an import that stands in its `if` goes with it
        return [each for each in edits if not _within(each, whole)] + made

    def _of(self, name: str) -> list[Use]:
        return [use for use in self.found if use.name == name]

    def _names(self) -> list[ast.Name]:
        found = [each for each in ast.walk(self.module.tree) if isinstance(each, ast.Name)]
        return [each for each in found if self.names.resolve(each) == "torch"]

    def _call(self, use: Use) -> ast.Call:
        call = self.module.parents[use.node]
        if not isinstance(call, ast.Call) or call.func is not use.node:
            raise UnrepairableError("it is passed on as a value", use.node)
        return call

    def _model(self, use: Use) -> str:
        model = given(self._call(use), "models", _INITIALIZE)
        if not isinstance(model, (ast.Name, ast.Attribute)):
            raise UnrepairableError("it has several models", use.node)
        return self.module.source(model)

    def _initialized(self, use: Use, loops: list[Loop]) -> tuple[str, list[Edit]]:
        """What the scaler is called, and the edits that make it."""
        call, statement = self._call(use), self.module.statement(use.node)
        optimizer, level = (given(call, name, _INITIALIZE) for name in ("optimizers", "opt_level"))
        if not isinstance(optimizer, (ast.Name, ast.Attribute)) or len(call.keywords) > 3:
            raise UnrepairableError("it has several optimizers, or options of its own", call)
        if {k.arg for k in call.keywords} - {*_INITIALIZE, "verbosity"} or not isinstance(
            statement, ast.Assign
        ):
            raise UnrepairableError("it has options of its own", call)
        text = self.module.source(optimizer)
        if any(loop.optimizer != text for loop in loops):
            raise UnrepairableError("it has several optimizers", call)
        if isinstance(level, ast.Constant) and level.value not in _LEVELS:
            raise UnrepairableError("its level is another", call)
        enabled = given(call, "enabled", _INITIALIZE)
        condition = self.module.source(enabled) if enabled is not None else ""
        around = self.module.parents[statement]
        place: ast.stmt = statement
        if isinstance(around, ast.If):
            others = [each for each in around.body if each is not statement]
            if around.orelse or condition or not all(_imports_only(each) for each in others):
                raise UnrepairableError("it is made under a condition, among other things", call)
            condition, place = self.module.source(around.test), around
        scaler = self._scaler(text, place, loops)
        argument = f", enabled={condition}" if condition else ""
        quote = self.module.quote
        line = f"{scaler} = {self.torch}.amp.GradScaler({quote}cuda{quote}{argument})"
        if not alone(self.module, place):
            raise UnrepairableError("it shares its line", place)
        text = f"{indentation(self.module, place)}{line}{self.module.newline}"
        return scaler, [Edit(*lines_of(self.module, place), text)]

    def _scaler(self, optimizer: str, place: ast.stmt, loops: list[Loop]) -> str:
        """A name for the scaler that all of the loops can see."""
        owner = optimizer.rpartition(".")[0]
        if owner == "self":
            return "self.scaler"
        homes = {_function(self.module, loop.statement) for loop in loops}
        home = _function(self.module, place)
        if owner or "scaler" in self.names.spelled or not homes <= {home}:
            if home is None and not owner and "scaler" not in self.names.spelled:
                return "scaler"  # made at the top of the file: every function sees it
            raise UnrepairableError("the scaler has to be handed to where it is used", place)
        return "scaler"

    def _without(self, statement: ast.Import | ast.ImportFrom) -> Edit:
        """Take an import out, with the `try` or `if` that stands around nothing else."""
        kept = [each for each in statement.names if each.name not in ("amp", "apex", AMP)]
        if isinstance(statement, ast.ImportFrom) and statement.module == AMP:
            kept = []
        if statement.names[0].name == "apex" and self._for_more(statement):
            raise UnrepairableError("apex is used for more", statement)
        if kept:
            names = ", ".join(self.module.source(each) for each in kept)
            head = (
                "import" if isinstance(statement, ast.Import) else f"from {statement.module} import"
            )
            return Edit(*self.module.range(statement), f"{head} {names}")
        outer: ast.stmt = statement
        while block_of(self.module, outer) == [outer] or _is_attempt(self.module.parents[outer]):
            parent = self.module.parents[outer]
            if not isinstance(parent, (ast.If, ast.Try)) or getattr(parent, "finalbody", []):
                break
            if isinstance(parent, ast.If) and parent.orelse:
                break
            outer = parent
        if not alone(self.module, outer) or block_of(self.module, outer) == [outer]:
            raise UnrepairableError("its import shares a line", statement)
        return Edit(*lines_of(self.module, outer), "")

    def _for_more(self, statement: ast.stmt) -> bool:
        """Whether the name that `import apex` brings leads to something else as well."""
        readers = [
            reader
            for binding in self.names.all()
            if self.module.parents.get(binding.node) is statement
            for reader in self.names.readers(binding)
        ]
        return {*readers} != {root_of(use.node) for use in self.found}


def _within(inner: Edit, outer: Edit) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _is_attempt(node: ast.AST) -> bool:
    return isinstance(node, ast.Try) and all(_imports_only(each) for each in node.body)


def _imports_only(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Try):
        return all(_imports_only(each) for each in statement.body)
    return isinstance(statement, (ast.Import, ast.ImportFrom))


def _function(module: Module, node: ast.AST) -> ast.AST | None:
    while not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        parent = module.parents.get(node)
        if parent is None:
            return None
        node = parent
    return node
