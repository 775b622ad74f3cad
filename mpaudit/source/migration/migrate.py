"""Rewriting a file from the device-specific AMP names to those of `torch.amp`, all uses at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING

from msgspec import Struct

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source.api.deprecated import DEPRECATED, MODULES, Api
from mpaudit.source.migration import migrate_call, migrate_import
from mpaudit.source.text.argument import UnrepairableError, given
from mpaudit.source.text.names import Binding, Names
from mpaudit.source.text.new_line import add_after, add_before, add_module
from mpaudit.source.text.place import Place, place_of, root_of
from mpaudit.source.text.walk import walk
from mpaudit.source.trait.default_dtype import DEFAULT, devices_with_another_dtype

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


class Use(Struct, frozen=True):
    """A place that reads a deprecated name: the Name or the whole dotted Attribute."""

    node: ast.Name | ast.Attribute
    api: Api


class Imported(Struct, frozen=True):
    """An import of a deprecated name, or (`api` is None) of a module that holds such names."""

    statement: ast.Import | ast.ImportFrom
    alias: ast.alias
    binding: Binding
    api: Api | None


def migrate(module: Module, uses: list[Use], imports: list[Imported]) -> Fix:
    """The one fix for all `uses` and `imports` of a file.

    It is UNSAFE where another file may see a difference: a name that is imported here and not
    used, or one that is handed on as a value. SAFE takes it that no other file runs these regions
    inside an autocast region of another dtype; where this file has one, the dtype is written out.
    Raises UnrepairableError where a use cannot be rewritten.
    """
    migration = _Migration(module, uses)
    migration.move_imports(imports)
    migration.move_aliases()
    for use in uses:
        migration.rewrite(use)
    safety = Safety.UNSAFE if migration.doubts else Safety.SAFE
    return Fix("use torch.amp and name the device", tuple(migration.edits), safety)


class _Migration:
    def __init__(self, module: Module, uses: list[Use]) -> None:
        self.module = module
        self.names = Names.of(module)
        self.uses = {use.node: use.api for use in uses}
        self.roots = {root_of(use.node) for use in uses}
        self.moved: set[Binding] = set()  # their names mean the new thing from now on
        self.edits: list[Edit] = []
        self.doubts = False

    # imports and aliases

    def move_imports(self, imports: list[Imported]) -> None:
        """Let the imports bring the new names, each statement once."""
        statements: dict[ast.ImportFrom, list[ast.alias]] = {}
        stars: dict[ast.alias, list[Imported]] = {}
        for each in imports:
            if each.api:
                self._check_member(each, each.api)
            elif not self._leads_only_to_uses(each.binding):
                continue
            self.moved.add(each.binding)
            if each.alias.name == "*":
                stars.setdefault(each.alias, []).append(each)
            elif isinstance(each.statement, ast.Import):
                new = MODULES[each.alias.name]
                self.edits.append(migrate_import.replace_dotted(self.module, each.alias, new))
            elif each.statement.module == "torch":
                self._rename_function(each)
            else:
                statements.setdefault(each.statement, []).append(each.alias)
        for statement, aliases in statements.items():
            old = f"{statement.module}.{aliases[0].name}"
            package = (MODULES.get(old) or DEPRECATED[old].new).rpartition(".")[0]
            self.edits += migrate_import.move(self.module, statement, aliases, package)
        for alias, members in stars.items():
            self._name_members(alias, members)

    def _name_members(self, alias: ast.alias, members: list[Imported]) -> None:
        """`from torch.cuda.amp import *`: what is used of it, by name."""
        statement = members[0].statement
        assert isinstance(statement, ast.ImportFrom)
        self.doubts = True  # another file may get the rest from here
        read = {each.name for each in self.names.all() if each.node is alias and self._read(each)}
        used = sorted({each.binding.name for each in members})
        if read - {*used} or "amp_definitely_not_available" in self.module.text:
            line = f"from torch.amp import {', '.join(used)}"
            self.edits.append(add_after(self.module, statement, line))
            return
        self.edits.append(migrate_import.replace_module(self.module, statement, "torch.amp"))
        self.edits.append(Edit(*self.module.range(alias), ", ".join(used)))

    def _read(self, binding: Binding) -> bool:
        return bool(self.names.readers(binding))

    def move_aliases(self) -> None:
        """`amp = torch.cuda.amp` and `cast = torch.cuda.amp.autocast` get the new thing."""
        for node in self.uses:
            for binding in self.names.trail(node):
                origin, meaning = binding.origin, self.names.meaning(binding)
                if not isinstance(origin, ast.Attribute) or binding.scope.is_class:
                    continue
                if origin in self.uses and place_of(origin, self.module) is Place.ALIAS:
                    self._refuse_if_exported(binding)
                    self.moved.add(binding)
                elif meaning in MODULES and self._leads_only_to_uses(binding):
                    root = root_of(origin)
                    if self.names.resolve(root) == "torch":
                        self.moved.add(binding)
                        self._replace(origin, f"{root.id}{MODULES[meaning].removeprefix('torch')}")

    def _leads_only_to_uses(self, binding: Binding) -> bool:
        """Whether a module's name may change its meaning: nothing else hangs on it."""
        if self.names.meaning(binding) == "torch":
            return True  # `import torch.cuda.amp`: the name itself stays what it is
        readers = self.names.readers(binding)
        certain = all(self.names.resolve(reader) in MODULES for reader in readers)
        return certain and all(reader in self.roots for reader in readers)

    def _check_member(self, each: Imported, api: Api) -> None:
        """Refuse where other files count on this import, doubt where they might."""
        binding = each.binding
        if binding.scope.is_module:
            self._refuse_if_exported(binding)
            if each.alias.asname == each.alias.name:
                raise UnrepairableError("other files import it from here", each.alias)
        readers = self.names.readers(binding)
        if not readers and binding.scope.is_module and binding.name not in self._quoted:
            self.doubts = True
        for reader in readers:
            if reader not in self.uses and not self._takes_both(reader, api):
                raise UnrepairableError("the same name means something else as well", reader)

    def _refuse_if_exported(self, binding: Binding) -> None:
        package = PurePath(self.module.filename).name == "__init__.py"
        if binding.scope.is_module and (package or binding.name in self._exported):
            raise UnrepairableError("other files import it from here", binding.node)

    def _takes_both(self, reader: ast.Name, api: Api) -> bool:
        """Whether this text works with any scaler class: torch.amp's takes "cuda" for granted."""
        if not api.is_scaler or api.device != "cuda":
            return False
        call = self.module.parents[reader]
        return place_of(reader, self.module) in {Place.TYPE, Place.TEST} or (
            isinstance(call, ast.Call) and call.func is reader and not call.args
        )

    def _rename_function(self, each: Imported) -> None:
        """`from torch import get_autocast_gpu_dtype`: the new name, here and where it is read."""
        new = (each.api.new if each.api else "").rpartition(".")[2]
        if not each.alias.asname:
            rivals = {api.old for api in self.uses.values() if api.new == f"torch.{new}"}
            if new in self.names.scope.names or len(rivals) > 1:
                raise UnrepairableError(f"{new} is taken", each.alias)
            for reader in self.names.readers(each.binding):
                self._replace(reader, new)
        self.edits.append(migrate_import.replace_dotted(self.module, each.alias, new))

    # uses

    def rewrite(self, use: Use) -> None:
        """Edits for one place that reads a deprecated name."""
        node, api = use.node, use.api
        place, parent = place_of(node, self.module), self.module.parents[node]
        if re.sub(r"\s|\\|#.*|[()]", "", self.module.source(node)) != ast.unparse(node):
            raise UnrepairableError("its place in the text is not known", node)  # old f-strings
        if isinstance(node, ast.Name) and not self.moved.issuperset(
            each for each in self.names.bindings(node) if not each.empty
        ):
            raise UnrepairableError("it got its name in an unusual way", node)
        if place in {Place.CALL, Place.PARTIAL} and isinstance(parent, ast.Call):
            self._call(node, api, parent, first=1 if place is Place.PARTIAL else 0)
        elif place is Place.ALIAS and any(each.origin is node for each in self.moved):
            self._replace(node, self._spelling(node, api))
        elif place is Place.DECORATOR and api.keyword:
            self._replace(node, self._spelling(node, api))
            end = self.module.range(node)[1]
            device = migrate_call.device(self.module, node, api)
            self.edits.append(Edit(end, end, f"({device})"))
        elif place in {Place.TYPE, Place.TEST}:
            self._replace(node, self._spelling(node, api))
            self.doubts |= api.is_autocast and place is Place.TYPE
        elif place is Place.BASE and isinstance(parent, ast.ClassDef):
            _check_subclass(parent, api)
            self._replace(node, self._spelling(node, api))
            self.doubts = True
        elif place is Place.MEMBER and isinstance(parent, ast.Attribute) and api.is_scaler:
            if parent.attr in {"__init__", "__new__"}:
                raise UnrepairableError("its constructor is called by name", node)
            self._replace(node, self._spelling(node, api))
            self.doubts = True
        elif place in {Place.ALIAS, Place.VALUE}:
            self._hand_on(node, api)
        else:
            raise UnrepairableError("it is used in a way that has no modern spelling", node)

    def _call(
        self, node: ast.Name | ast.Attribute, api: Api, call: ast.Call, *, first: int
    ) -> None:
        more = self._dtype(node, call, api, first)
        self._replace(node, self._spelling(node, api))
        self.edits += migrate_call.hand_over(self.module, call, api, first=first, more=more)
        if first and api.is_autocast:  # may later be called with a positional `enabled`
            self.doubts |= given(call, "enabled", api.parameters, first) is None

    def _hand_on(self, node: ast.Name | ast.Attribute, api: Api) -> None:
        """A name that is passed on: the device has to travel with it."""
        self.doubts |= api.parameters is not None and not self._called_by_keywords(node)
        new = self._spelling(node, api)
        if api.is_scaler and api.device == "cuda":
            self._replace(node, new)  # "cuda" is what torch.amp.GradScaler takes for granted
            return
        if not self._may_travel(node):
            raise UnrepairableError("it is passed on as a value", node)
        root = root_of(node)
        partial = self.names.spelling("functools.partial", root)
        if partial is None:
            functools = self.names.spelling("functools", root) or self._functools(root)
            partial = f"{functools}.partial"
        device = migrate_call.device(self.module, node, api)
        self._replace(node, f"{partial}({new or self.module.source(node)}, {device})")

    def _may_travel(self, node: ast.expr) -> bool:
        """Whether what is done with a value goes for a partial as well as for a class."""
        parent = self.module.parents[node]
        match parent:
            case ast.Call():
                name = self.names.resolve(parent.func) or ""
                return not name.startswith(("builtins.", "inspect."))
            case ast.Assign() | ast.AnnAssign():
                return not isinstance(self.module.parents[parent], ast.ClassDef)
            case ast.Dict():
                return node in parent.values
        kinds = ast.arguments | ast.keyword | ast.IfExp | ast.Return | ast.List | ast.Tuple
        return isinstance(parent, (kinds, ast.BoolOp, ast.Lambda))

    def _functools(self, root: ast.Name) -> str:
        """Import functools, once, and say what it is called where `root` stands."""
        if "functools" in self.names.spelled:
            raise UnrepairableError("it is passed on as a value", root)
        edit = add_module(self.module, "functools")
        if edit not in self.edits:
            self.edits.append(edit)
        return "functools"

    def _called_by_keywords(self, node: ast.expr) -> bool:
        """Whether it only goes to a name of this function, and that is called by keywords or bare."""
        child, parent = node, self.module.parents[node]
        while isinstance(parent, ast.IfExp) and parent.test is not child:
            child, parent = parent, self.module.parents[parent]
        if not isinstance(parent, ast.Assign) or len(parent.targets) != 1:
            return False
        (target,) = parent.targets
        if not isinstance(target, ast.Name) or target.id in self.names.scope.names:
            return False
        return all(
            isinstance(call := self.module.parents[reader], ast.Call)
            and call.func is reader
            and not call.args
            for binding in self.names.bindings(target)
            for reader in self.names.readers(binding)
        )

    def _replace(self, node: ast.AST, new: str | None) -> None:
        if new is not None:
            self.edits.append(Edit(*self.module.range(node), new))

    def _spelling(self, node: ast.Name | ast.Attribute, api: Api) -> str | None:
        """How the new name is written where `node` stands; None where the text stays."""
        root = root_of(node)
        known = self.names.resolve(root) == "torch"
        if isinstance(node, ast.Name):
            return None
        if not known and self.moved.intersection(self.names.bindings(root)):
            return None
        if "#" in self.module.source(node):
            raise UnrepairableError("a comment stands inside it", node)
        torch = root.id if known else self._torch(root)
        return f"{torch}.{api.new.partition('.')[2]}"

    def _torch(self, root: ast.Name) -> str:
        """What torch is called where `root` stands; it is imported there if it has no name yet."""
        if name := self.names.spelling("torch", root):
            return name
        if "torch" in self.names.scope.names:
            raise UnrepairableError("torch means something else here", root)
        statement = self.module.statement(self.names.bindings(root)[0].node)
        self.edits.append(add_before(self.module, statement, "import torch"))
        return "torch"

    def _dtype(self, node: ast.AST, call: ast.Call, api: Api, first: int) -> str:
        """`dtype=torch.float16` where the current default may be another one.

        The old autocast pins the dtype, the new one asks for the default of the moment, which an
        enclosing region with another dtype has changed.
        """
        if not api.is_autocast or api.device not in self._another_dtype:
            return ""
        enabled = given(call, "enabled", api.parameters, first)
        if isinstance(enabled, ast.Constant) and enabled.value is False:
            return ""
        if given(call, "dtype", api.parameters, first) is not None:
            return ""
        root = root_of(node)
        torch = root.id if self.names.resolve(root) == "torch" else None
        torch = torch or self.names.spelling("torch", root)
        if torch is None or any(keyword.arg is None for keyword in call.keywords):
            self.doubts = True
            return ""
        return f"dtype={torch}.{DEFAULT[api.device][0]}"

    @cached_property
    def _another_dtype(self) -> set[str]:
        return devices_with_another_dtype(self.module)

    @cached_property
    def _exported(self) -> set[str]:
        """The names in `__all__`."""
        found: set[str] = set()
        for binding in self.names.scope.names.get("__all__", ()):
            statement = self.module.statement(binding.node)
            found.update(text for text in _texts(statement))
        return found

    @cached_property
    def _quoted(self) -> set[str]:
        """The names that annotations in quotes mention."""
        return {
            word
            for node in walk(self.module.tree)
            for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None))
            if isinstance(annotation, ast.expr)
            for text in _texts(annotation)
            for word in re.findall(r"\w+", text)
        }


def _texts(node: ast.AST) -> Iterator[str]:
    for each in walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value


def _check_subclass(node: ast.ClassDef, api: Api) -> None:
    """A subclass keeps its meaning only if it does not lean on the old order of arguments."""
    own = any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in node.body)
    named = not any(
        isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and each.func.attr == "__init__"
        and each.args
        for each in walk(node)
    )
    if not (api.is_scaler and api.device == "cuda" and own and named):
        raise UnrepairableError("a class derives from it", node)
