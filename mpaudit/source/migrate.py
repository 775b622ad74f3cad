"""Rewriting a file from the device-specific AMP names to those of `torch.amp`, all uses at once."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from mpaudit.fix import Edit, Fix, Safety
from mpaudit.source import migrate_call, migrate_import
from mpaudit.source.deprecated_api import DEPRECATED, MODULES, Api
from mpaudit.source.migrate_call import UnrepairableError
from mpaudit.source.names import Binding, Names
from mpaudit.source.place import Place, place_of, root_of

if TYPE_CHECKING:
    from mpaudit.source.module import Module

_AUTOCAST = frozenset({"torch.autocast", "torch.amp.autocast", "torch.amp.autocast_mode.autocast"})
_DEFAULT = {"cuda": ("float16", "half"), "cpu": ("bfloat16",)}


@dataclass(frozen=True, slots=True)
class Use:
    """A place that reads a deprecated name: the Name or the whole dotted Attribute."""

    node: ast.Name | ast.Attribute
    api: Api


@dataclass(frozen=True, slots=True)
class Imported:
    """An import of a deprecated name, or (`api` is None) of a module that holds such names."""

    statement: ast.Import | ast.ImportFrom
    alias: ast.alias
    binding: Binding
    api: Api | None


def migrate(module: Module, uses: list[Use], imports: list[Imported]) -> Fix:
    """The one fix for all `uses` and `imports` of a file.

    It is UNSAFE where another file may see a difference: a name that is imported here and not used, or
    one that is handed on as a value. Raises UnrepairableError where a use cannot be rewritten.
    """
    migration = _Migration(module, uses)
    migration.rewrite_imports(imports)
    migration.rewrite_module_aliases()
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
        self.moved: set[Binding] = set()  # their names mean the new module or class from now on
        self.edits: list[Edit] = []
        self.doubts = False
        self.pinned = self._devices_with_another_dtype()

    # imports and aliases

    def rewrite_imports(self, imports: list[Imported]) -> None:
        """Move the imports, each statement once."""
        statements: dict[ast.ImportFrom, list[ast.alias]] = {}
        for each in imports:
            if each.api is None:
                if not self._moves(each.binding):
                    continue
                self.moved.add(each.binding)
            else:
                self._check_member(each, each.api)
            if isinstance(each.statement, ast.Import):
                new = MODULES[each.alias.name]
                self.edits.append(migrate_import.replace_dotted(self.module, each.alias, new))
            elif each.api and each.api.new.count(".") == 1:  # a function of torch itself
                self._rename(each, each.api)
            else:
                statements.setdefault(each.statement, []).append(each.alias)
        for statement, aliases in statements.items():
            new = f"{statement.module}.{aliases[0].name}"
            new = MODULES[new] if new in MODULES else DEPRECATED[new].new
            package = new.rpartition(".")[0]
            self.edits.extend(migrate_import.move(self.module, statement, aliases, package))

    def rewrite_module_aliases(self) -> None:
        """`amp = torch.cuda.amp` becomes `amp = torch.amp` if it serves nothing else."""
        for node in self.uses:
            for binding in self.names.trail(node):
                origin = binding.origin
                if (
                    isinstance(origin, ast.Attribute)
                    and binding not in self.moved
                    and self.names.meaning(binding) in MODULES
                    and self._moves(binding)
                    and self.names.resolve(root_of(origin)) == "torch"
                ):
                    self.moved.add(binding)
                    new = MODULES[self.names.meaning(binding) or ""].removeprefix("torch")
                    text = f"{root_of(origin).id}{new}"
                    self.edits.append(Edit(*self.module.range(origin), text))

    def _moves(self, binding: Binding) -> bool:
        """Whether a module's name may change its meaning: it only leads to what is rewritten."""
        alias = binding.node
        if isinstance(alias, ast.alias) and "." in alias.name and not alias.asname:
            return True  # `import torch.cuda.amp` binds torch
        readers = self.names.readers(binding)
        certain = all(self.names.resolve(reader) in MODULES for reader in readers)
        return certain and all(reader in self.roots for reader in readers)

    def _check_member(self, each: Imported, api: Api) -> None:
        """Refuse where other files count on this import, doubt where they might."""
        binding, alias = each.binding, each.alias
        if binding.scope.is_module and (
            PurePath(self.module.filename).name == "__init__.py"
            or binding.name in self._exported
            or alias.asname == alias.name
        ):
            raise UnrepairableError("other files import it from here", alias)
        readers = self.names.readers(binding)
        if not readers and binding.scope.is_module and binding.name not in self._quoted:
            self.doubts = True
        for reader in readers:
            if reader not in self.uses and not self._takes_both(reader, api):
                raise UnrepairableError("the same name has another meaning as well", reader)

    def _takes_both(self, reader: ast.Name, api: Api) -> bool:
        """Whether this text works with any scaler class: torch.amp's takes "cuda" for granted."""
        if not api.is_scaler or api.device != "cuda":
            return False
        place = place_of(reader, self.module)
        call = self.module.parents[reader]
        return place in {Place.TYPE, Place.TEST} or (
            place is Place.CALL and isinstance(call, ast.Call) and not call.args
        )

    def _rename(self, each: Imported, api: Api) -> None:
        """`from torch import get_autocast_gpu_dtype`: the new name, here and where it is read."""
        new = api.new.rpartition(".")[2]
        if not each.alias.asname:
            if self.names.scope.names.get(new) or sum(use.new == api.new for use in self._kinds) > 1:
                raise UnrepairableError(f"{new} is taken", each.alias)
            for reader in self.names.readers(each.binding):
                self.edits.append(Edit(*self.module.range(reader), new))
        self.edits.append(migrate_import.replace_dotted(self.module, each.alias, new))

    # uses

    def rewrite(self, use: Use) -> None:
        """Edits for one place that reads a deprecated name."""
        node, api = use.node, use.api
        place, parent = place_of(node, self.module), self.module.parents[node]
        new = self._spelling(node, api)
        if place is Place.ALIAS and self.names.readers(self._alias(node)):
            self._replace(node, new)
        elif place in {Place.CALL, Place.PARTIAL} and isinstance(parent, ast.Call):
            first = 1 if place is Place.PARTIAL else 0
            more = self._dtype(parent, api, first)
            self._replace(node, new)
            self.edits += migrate_call.hand_over(self.module, parent, api, first=first, more=more)
            if first and api.is_autocast and migrate_call.given(parent, api, "enabled", 1) is None:
                self.doubts = True  # the partial may be called with a positional `enabled`
        elif place is Place.DECORATOR and api.keyword:
            self._replace(node, new)
            end = self.module.range(node)[1]
            quote = self.module.quote
            self.edits.append(Edit(end, end, f"(device_type={quote}{api.device}{quote})"))
        elif place in {Place.TYPE, Place.TEST}:
            self._replace(node, new)
            self.doubts |= api.is_autocast and place is Place.TYPE
        elif place is Place.BASE and isinstance(parent, ast.ClassDef):
            self._check_subclass(parent, api)
            self._replace(node, new)
            self.doubts = True
        elif place is Place.MEMBER and isinstance(parent, ast.Attribute) and api.is_scaler:
            if parent.attr in {"__init__", "__new__"}:
                raise UnrepairableError("its constructor is called by name", node)
            self._replace(node, new)
            self.doubts = True
        elif place in {Place.ALIAS, Place.VALUE}:
            self._hand_on(node, api, new)
        else:
            raise UnrepairableError("it is used in a way that has no modern spelling", node)

    def _hand_on(self, node: ast.Name | ast.Attribute, api: Api, new: str | None) -> None:
        """A name that is passed on: the device has to travel with it."""
        self.doubts |= api.parameters is not None
        if api.is_scaler and api.device == "cuda":
            self._replace(node, new)  # "cuda" is what torch.amp.GradScaler takes for granted
            return
        root = root_of(node)
        partial = self.names.spelling("functools.partial", root)
        if partial is None and (functools := self.names.spelling("functools", root)):
            partial = f"{functools}.partial"
        if partial is None:
            raise UnrepairableError("it is passed on as a value", node)
        quote = self.module.quote
        device = f"{'device_type=' if api.keyword else ''}{quote}{api.device}{quote}"
        text = new or self.module.source(node)
        self.edits.append(Edit(*self.module.range(node), f"{partial}({text}, {device})"))

    def _alias(self, node: ast.AST) -> Binding:
        """The binding of the plain name that an alias assignment gives."""
        statement = self.module.parents[node]
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if isinstance(target, ast.Name):
            for binding in self.names.bindings(target):
                if binding.origin is node and not binding.scope.is_class:
                    if binding.name in self._exported:
                        raise UnrepairableError("other files import it from here", node)
                    return binding
        return Binding("", node, self.names.scope)

    def _check_subclass(self, node: ast.ClassDef, api: Api) -> None:
        """A subclass keeps its meaning only if it never leans on the old order of arguments."""
        calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
        supers = [
            call
            for call in calls
            if isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        ]
        own = any(isinstance(e, ast.FunctionDef) and e.name == "__init__" for e in node.body)
        plain = all(not call.args for call in supers)
        if not (api.is_scaler and api.device == "cuda" and own and plain):
            raise UnrepairableError("it is the base of a class", node)

    def _replace(self, node: ast.AST, new: str | None) -> None:
        if new is not None:
            self.edits.append(Edit(*self.module.range(node), new))

    def _spelling(self, node: ast.Name | ast.Attribute, api: Api) -> str | None:
        """How the new name is written where `node` stands; None where the text stays."""
        root = root_of(node)
        if isinstance(node, ast.Name) or any(each in self.moved for each in self.names.bindings(root)):
            is_torch = self.names.resolve(root) == "torch"
            if not is_torch:
                return None
        if "#" in self.module.source(node):
            raise UnrepairableError("a comment stands inside it", node)
        return f"{self._torch(root)}.{api.new.partition('.')[2]}"

    def _torch(self, root: ast.Name) -> str:
        """What torch is called where `root` stands; it is imported there if it has no name yet."""
        if self.names.resolve(root) == "torch":
            return root.id
        if name := self.names.spelling("torch", root):
            return name
        if "torch" in self.names.scope.names:
            raise UnrepairableError("torch means something else here", root)
        statement = self.module.statement(self.names.bindings(root)[0].node)
        self.edits.append(migrate_import.add_before(self.module, statement, "import torch"))
        return "torch"

    # what must be said so that nothing changes

    def _dtype(self, call: ast.Call, api: Api, first: int) -> str:
        """`dtype=torch.float16` where the current default may be another one.

        The old autocast pins the dtype, the new one asks for the default of the moment, which an
        enclosing region with another dtype has changed.
        """
        enabled = migrate_call.given(call, api, "enabled", first)
        off = isinstance(enabled, ast.Constant) and enabled.value is False
        if not api.is_autocast or api.device not in self.pinned or off:
            return ""
        if migrate_call.given(call, api, "dtype", first) is not None:
            return ""
        root = root_of(call.args[0] if first else call.func)
        torch = root.id if self.names.resolve(root) == "torch" else None
        torch = torch or self.names.spelling("torch", root)
        if torch is None or any(keyword.arg is None for keyword in call.keywords):
            self.doubts = True
            return ""
        return f"dtype={torch}.{_DEFAULT[api.device][0]}"

    def _devices_with_another_dtype(self) -> set[str]:
        """The devices whose autocast dtype this file may set to something else than the default."""
        found: set[str] = set()
        for call in ast.walk(self.module.tree):
            if not isinstance(call, ast.Call):
                continue
            name = self.names.resolve(call.func) or ""
            api = DEPRECATED.get(name)
            if name.startswith("torch.set_autocast_") and name.endswith("dtype"):
                found |= {api.device} if api else set(_DEFAULT)
            elif name in _AUTOCAST or (api and api.is_autocast):
                old = api or Api(name, name, "", (1, 10), ("device_type", "dtype"))
                dtype = migrate_call.given(call, old, "dtype")
                device = migrate_call.given(call, old, "device_type") if api is None else None
                known = device.value if isinstance(device, ast.Constant) else None
                places = {api.device} if api else {known} if isinstance(known, str) else set(_DEFAULT)
                found |= {each for each in places if self._differs(dtype, each)}
        return found

    def _differs(self, dtype: ast.expr | None, device: str) -> bool:
        if dtype is None:
            return False
        return self.names.resolve(dtype) not in {f"torch.{n}" for n in _DEFAULT.get(device, ())}

    @property
    def _kinds(self) -> set[Api]:
        return set(self.uses.values())

    @property
    def _exported(self) -> set[str]:
        """The names in `__all__`."""
        return _texts(
            each.value
            for each in ast.walk(self.module.tree)
            if isinstance(each, ast.Assign | ast.AugAssign) and "__all__" in _targets(each)
        )

    @property
    def _quoted(self) -> set[str]:
        """The names that annotations in quotes mention."""
        return {word for text in _texts([self.module.tree]) for word in text.replace(".", " ").split()}
