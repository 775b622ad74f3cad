"""Expressions: what they evaluate to on a path."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpaudit.source.engine import registry
from mpaudit.source.engine.fstring import joined
from mpaudit.source.engine.member import in_place
from mpaudit.source.engine.operators import Operators
from mpaudit.source.engine.path import Path, filled, lookup, unset
from mpaudit.source.engine.unfollowed import is_default
from mpaudit.source.engine.values import (
    NONE,
    TRUE,
    Bound,
    Choice,
    Class,
    Const,
    External,
    Function,
    Imported,
    Namespace,
    Pack,
    Partial,
    Thing,
    Value,
)
from mpaudit.source.text.walk import children

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module


MAX_TABLE = 4
"""So many entries of a table of functions are told apart."""


class Expressions(Operators):
    """Evaluates expressions. May raise Fork (an open condition) or Enter (a call to be followed)."""

    def evaluate(self, node: ast.expr, path: Path) -> Value:
        """The value of an expression on this path."""
        self.spend()
        method: Callable[[Any, Path], Value] | None = getattr(self, "_" + type(node).__name__, None)
        return method(node, path) if method else self._unknown(node, path)

    def _unknown(self, node: ast.expr, path: Path) -> Thing:
        for child in children(node):
            if isinstance(child, ast.expr):
                self.evaluate(child, path)
        return self.made(node, path)

    # Names and attributes

    def _Name(self, node: ast.Name, path: Path) -> Value:
        return self.variable(node.id, path)

    def variable(self, name: str, path: Path) -> Value:
        """What a name holds: in the function, the functions around it, the module, the builtins."""
        frame = path.frame
        for scope in frame.scopes:
            value = path.heap.look(scope, name)
            if value is not None:
                return self._found(value, path)
        if hasattr(builtins, name):
            return External(f"builtins.{name}")
        return Thing(self.identities.number("name", frame.module.filename, name), text=name)

    def _found(self, value: Value, path: Path) -> Value:
        if isinstance(value, Imported):
            value = self.imported(value, path)
        elif isinstance(value, Choice):
            settled = self.logic.settled(value, path)
            assert settled is not None
            value = settled
        return value

    def _Attribute(self, node: ast.Attribute, path: Path) -> Value:
        if node in path.frame.done:
            return path.frame.done[node]
        base = self.evaluate(node.value, path)
        if isinstance(base, Choice) and not self._is_called(node, path):
            found = self._of_either(base, node, path)
            if found is not None:
                return found
        return self.attribute(base, node.attr, node, path)

    def _of_either(self, base: Value, node: ast.Attribute, path: Path) -> Value | None:
        """What an option is, whichever of some objects holds it: no question is asked for it."""
        chosen = self.logic.settled(base, path)
        if isinstance(chosen, Choice):
            yes = self._of_either(chosen.yes, node, path)
            no = self._of_either(chosen.no, node, path) if yes is not None else None
            if yes is None or no is None:
                return None
            return yes if yes == no else Choice(chosen.condition, yes, no)
        if not isinstance(chosen, Thing) or chosen.kind or path.known(chosen, "@class"):
            return None
        return self.attribute(chosen, node.attr, node, path)

    def attribute(self, base: Value, name: str, node: ast.expr, path: Path) -> Value:
        """`base.name`; a method comes back bound to its receiver."""
        if isinstance(base, Choice):
            base = self._present(base, path)
        if isinstance(base, External):
            return External(f"{base.name}.{name}")
        if isinstance(base, Namespace):
            value = path.heap.get((base.uid, name))
            if value is not None:
                return self._found(value, path)
            found = self.submodule(base, name, path)
            return found or self.term(".", base_thing(self, base), Const(name))
        if isinstance(base, Class):
            value = lookup(path, base, name)
            if isinstance(value, Function) and External("builtins.classmethod") in value.decorators:
                return Bound(base, name, value)
            return value if value is not None else Bound(base, name)
        if isinstance(base, Thing):
            value = path.heap.get((base.uid, name))
            if isinstance(value, Choice) and unset(value):
                value = in_place(base, name, value, node, path, self.logic)
                if unset(value):
                    value = filled(value, self._member(base, name, node, path))
            if value is not None:
                return self._found(value, path)
            return self._member(base, name, node, path)
        if isinstance(base, (Function, Partial, Bound, Pack, Const)):
            return Bound(base, name)
        return self.made(node, path)

    def _present(self, value: Choice, path: Path) -> Value:
        """The object an attribute is taken of: it is not None, or the script would have died."""
        if self.logic.truth(value.condition, path) is None and NONE in (value.yes, value.no):
            path.facts[value.condition] = value.no == NONE
        return self.logic.pick(value, path)

    def _member(self, base: Thing, name: str, node: ast.expr, path: Path) -> Value:
        owner = path.known(base, "@class")
        if base.kind == "super":
            receiver, after = path.known(base, "@self"), path.known(base, "@after")
            for parent in after.bases if isinstance(after, Class) else ():
                found = lookup(path, parent, name) if isinstance(parent, Class) else None
                if receiver is not None and isinstance(found, Function):
                    return Bound(receiver, name, found)
            return Bound(base, name)
        if isinstance(owner, Class):
            found = lookup(path, owner, name)
            if isinstance(found, Function):
                return self._bind(base, owner, name, found, node, path)
            if found is not None and not (isinstance(found, Const) and is_default(base, path)):
                return found
        handled = self.library_attribute(base, name, path)
        if handled is not None:
            return handled
        if base.kind and (not isinstance(owner, Class) or self._is_called(node, path)):
            return Bound(base, name)
        return self.derive(self.term(".", base, Const(name)), (base,), path)

    @staticmethod
    def _is_called(node: ast.expr, path: Path) -> bool:
        parent = path.frame.module.parents.get(node)
        return isinstance(parent, ast.Call) and parent.func is node

    def _bind(
        self, base: Thing, owner: Class, name: str, found: Function, node: ast.expr, path: Path
    ) -> Value:
        for decorator in found.decorators:
            if decorator == External("builtins.staticmethod"):
                return found
            if decorator == External("builtins.classmethod"):
                return Bound(owner, name, found)
            if decorator in (External("builtins.property"), External("functools.cached_property")):
                return self.property_of(base, name, found, node, path)
        return Bound(base, name, found)

    def _Subscript(self, node: ast.Subscript, path: Path) -> Value:
        base = self.evaluate(node.value, path)
        key = self.evaluate(node.slice, path)
        return self.item(base, key, path)

    def item(self, base: Value, key: Value, path: Path) -> Value:
        """`base[key]`."""
        if isinstance(base, Choice):
            found = self._item_of_either(base, key, path)
            if found is not None:
                return found
            base = self.logic.pick(base, path)
        items = base if isinstance(base, Pack) else path.known(base, "@items")
        if isinstance(items, Pack) and isinstance(key, Const) and isinstance(key.value, int):
            try:
                return items.items[key.value]
            except IndexError:
                pass
        if isinstance(base, Thing):
            if isinstance(key, Const):
                stored = path.heap.get((base.uid, f"[{key.value!r}]"))
                if stored is not None:
                    return self._found(stored, path)
            chosen = self._looked_up(base, key, path)
            if chosen is not None:
                return chosen
            made = self.term("[]", base, key)
            each = path.known(base, "@each")
            if isinstance(each, Thing) and each.kind:  # one of many things that were made alike
                made = Thing(made.uid, each.kind, made.since)
                for name, value in path.heap.of(each.uid):
                    path.heap[(made.uid, name)] = value
            self.derive(made, (base,), path)
            return self.operated("[]", (base, key), made, path)
        return self.term("[]", base, key)

    def _item_of_either(self, base: Value, key: Value, path: Path) -> Value | None:
        """An item, whichever of some tensors or numbers it is taken of: no question is asked for it."""
        chosen = self.logic.settled(base, path)
        if isinstance(chosen, Choice):
            yes = self._item_of_either(chosen.yes, key, path)
            no = self._item_of_either(chosen.no, key, path) if yes is not None else None
            if yes is None or no is None:
                return None
            return yes if yes == no else Choice(chosen.condition, yes, no)
        if not isinstance(chosen, Thing) or chosen.kind or path.known(chosen, "@class"):
            return None
        return self.item(chosen, key, path)

    def _looked_up(self, table: Thing, key: Value, path: Path) -> Value | None:
        """What a small table of functions holds under a key that is not known yet."""
        if table.kind != "dict" or not isinstance(key, Thing):
            return None
        entries = [(name, v) for name, v in path.heap.of(table.uid) if name.startswith("[")]
        known = path.known(table, "@items")
        if not isinstance(known, Pack) or not 0 < len(entries) == len(known.items) <= MAX_TABLE:
            return None
        if not all(isinstance(value, (Function, Bound, Partial)) for _, value in entries):
            return None
        *others, (_, chosen) = entries
        for name, value in reversed(others):
            constant = Const(ast.literal_eval(name[1:-1]))
            chosen = Choice(self.term("==", key, constant), value, chosen)
        return self.logic.settled(chosen, path)

    # Literals and displays

    def _Constant(self, node: ast.Constant, _: Path) -> Value:
        return Const(node.value)

    def _Tuple(self, node: ast.Tuple, path: Path) -> Value:
        return Pack(self._elements(node.elts, path)[0])

    def _List(self, node: ast.List | ast.Set, path: Path) -> Value:
        items, known = self._elements(node.elts, path)
        made = self.made(node, path, kind="list")
        self.derive(made, items, path)
        return path.learn(made, items=Pack(items)) if known else made

    _Set = _List

    def _elements(self, nodes: list[ast.expr], path: Path) -> tuple[tuple[Value, ...], bool]:
        """The elements of a display, and whether these are all: `*rest` may be anything."""
        found: list[Value] = []
        known = True
        for node in nodes:
            value = self.evaluate(node, path)
            spread = value if isinstance(value, Pack) else path.known(value, "@items")
            if isinstance(node, ast.Starred) and isinstance(spread, Pack):
                found.extend(spread.items)
            else:
                found.append(value)
                known = known and not isinstance(node, ast.Starred)
        return tuple(found), known

    def _Starred(self, node: ast.Starred, path: Path) -> Value:
        return self.evaluate(node.value, path)

    def _Dict(self, node: ast.Dict, path: Path) -> Value:
        made = self.made(node, path, kind="dict")
        values: list[Value] = []
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            value = self.evaluate(value_node, path)
            values.append(value)
            key = self.evaluate(key_node, path) if key_node else None
            if isinstance(key, Const):
                path.heap[(made.uid, f"[{key.value!r}]")] = value
        path.learn(made, items=Pack(tuple(values)))
        return self.derive(made, tuple(values), path)

    def _Lambda(self, node: ast.Lambda, path: Path) -> Value:
        return self.function(node, path)

    def _JoinedStr(self, node: ast.JoinedStr, path: Path) -> Value:
        return joined(self, node, path) or self._unknown(node, path)

    # Comprehensions: their body is evaluated once, for one unknown item

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, path: Path
    ) -> Value:
        self._generators(node.generators, path)
        each = self.evaluate(node.elt, path)
        made = self.made(node, path, kind="list")
        path.learn(made, each=each)
        return self.derive(made, (each,), path)

    _ListComp = _SetComp = _GeneratorExp = _comprehension

    def _DictComp(self, node: ast.DictComp, path: Path) -> Value:
        self._generators(node.generators, path)
        self.evaluate(node.key, path)
        each = self.evaluate(node.value, path)
        made = self.made(node, path, kind="dict")
        path.learn(made, each=each)
        return self.derive(made, (each,), path)

    def _generators(self, generators: list[ast.comprehension], path: Path) -> None:
        for generator in generators:
            over = self.evaluate(generator.iter, path)
            self.assign(generator.target, self.each(over, generator.iter, path), path)
            for test in generator.ifs:
                self.evaluate(test, path)

    def _Yield(self, node: ast.Yield, path: Path) -> Value:
        if node.value is not None:
            self.evaluate(node.value, path)
        return self.made(node, path)

    # What statements and calls build on

    def function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, path: Path
    ) -> Function:
        """The function that a `def` or `lambda` makes here; a class body's names stay behind."""
        frame = path.frame
        scopes = frame.scopes[1:] if frame.in_class else frame.scopes
        decorators: tuple[Value, ...] = ()
        if not isinstance(node, ast.Lambda):
            decorators = tuple(self.evaluate(each, path) for each in node.decorator_list)
        owner = path.heap.get((frame.scopes[0], "@class")) if frame.in_class else None
        path.heap[(frame.scopes[0], "@captured")] = TRUE
        module: Module = frame.module
        return Function(
            node, module, scopes, owner if isinstance(owner, Class) else None, decorators
        )

    def assign(self, target: ast.expr, value: Value, path: Path) -> None:
        """Bind an assignment target."""
        frame = path.frame
        if isinstance(target, ast.Name):
            if target.id in frame.global_names:
                scope = frame.scopes[-1]
            elif target.id in frame.nonlocal_names:
                around = frame.scopes[1:] or frame.scopes
                scope = next((s for s in around if (s, target.id) in path.heap), around[0])
            else:
                scope = frame.scopes[0]
            path.heap[(scope, target.id)] = value
        elif isinstance(target, ast.Attribute):
            base = self.evaluate(target.value, path)
            if isinstance(base, Choice):
                base = self.logic.pick(base, path)
            if isinstance(base, (Thing, Class, Namespace)):
                path.heap[(base.uid, target.attr)] = value
            if isinstance(base, Thing):
                registry.kept(base, value, path)
        elif isinstance(target, ast.Subscript):
            base, key = self.evaluate(target.value, path), self.evaluate(target.slice, path)
            if isinstance(base, Thing) and isinstance(key, Const):
                path.heap[(base.uid, f"[{key.value!r}]")] = value
            registry.stored(self, target, base, key, value, path)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, self.made(target, path), path)
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target, value, path)

    def _unpack(self, target: ast.Tuple | ast.List, value: Value, path: Path) -> None:
        value = self.logic.settled(value, path) or value
        if isinstance(value, Choice):
            value = self.logic.pick(value, path)
        items = value if isinstance(value, Pack) else path.known(value, "@items")
        stars = [isinstance(element, ast.Starred) for element in target.elts]
        fits = isinstance(items, Pack) and len(items.items) == len(target.elts) and not any(stars)
        for index, element in enumerate(target.elts):
            if fits and isinstance(items, Pack):
                part = items.items[index]
            elif isinstance(value, Pack) and not any(stars):
                part = self.made(element, path)  # it raises: what a name holds then is not known
            else:  # behind a star it is counted from the end
                place = index - len(stars) if any(stars[:index]) else index
                part = self.item(value, Const(place), path)
            self.assign(element, part, path)


def base_thing(engine: Expressions, namespace: Namespace) -> Thing:
    """A namespace as an operand of a term."""
    return engine.term("namespace", Const(namespace.module.filename))
