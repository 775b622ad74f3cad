"""What a file mentions where, gathered in one walk: enough to judge whether its code matters."""

from __future__ import annotations

import ast
from sys import intern

from msgspec import Struct, field

from mpaudit.source.text.foreign import foreign
from mpaudit.source.text.memo import by_node
from mpaudit.source.text.module import Module
from mpaudit.source.text.walk import children, walk

HELD = "(calls what it holds)"
"""Stands for a call of what is in a variable, a table or an attribute: it may be a model."""

KEEPS = "(keeps what it is given)"
"""Stands for storing a variable in an attribute, or in a container that is held in one."""
CLOSES = "(steps and updates it)"
"""Stands for calling `step(...)` and `update()` of one thing: a scaler that closes an iteration, perhaps."""
PRECISION = "(a precision in a dict)"
"""Stands for a dict with a precision's name among its keys: a configuration."""
KEEPERS = ("append", "add", "insert", "extend")

PRECISIONS = ("fp16", "bf16")

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef
_TOLD = frozenset([ast.Attribute, ast.Call, ast.Dict, ast.Assign, ast.Global, ast.Nonlocal])
"""What says something by itself, names apart, as `_note` tells."""
_SURROUNDING = frozenset([ast.Call, ast.arg, ast.AnnAssign, ast.FunctionDef, ast.AsyncFunctionDef])
_NONE: set[str] = set()
"""Stands in for every set that is empty, and stays so: thousands of them take some megabytes."""
ASKING = ("isinstance", "issubclass")


class Mentions(Struct):
    """What a function mentions: names that are not its own variables, attributes, and calls.

    `x.step(...)` mentions "step" and "step()", `x.update(y)` mentions "update" and "update(...)":
    what an ordinary word means shows in how it is called. `nn.Linear` mentions "nn.Class", and
    `torch.save` of an imported torch "torch.save"; so does `steps.run` of a module of the project. What is
    mentioned only as an attribute of an imported module is in `foreign` as well, and so is what only says
    of which type something is, in an annotation or to `isinstance`: nothing is done with it.
    """

    name: str
    owner: str | None
    words: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    handed: set[str] = field(default_factory=set)
    """The names, and the attributes that are given arguments or that are not called at all."""

    def close(self) -> None:
        """Keep only what is asked for once the whole file is known, in no more room than it takes."""
        self.called = self.own = self.local = _NONE
        self.words, self.handed = set(self.words), set(self.handed)
        self.foreign = set(self.foreign) if self.foreign else _NONE


class Outline(Struct):
    """The names a file's parts mention.

    `functions` are all functions by (class, name), the class None outside of one; `classes` map a
    name to the names of its bases; `assigned` maps the variables of the module body to what their
    values mention; `imports` are all `from ... import` statements, `passed` those at the top, whose names
    others may import from here. `whole` are the names by which modules are imported as such, `parts` those
    imported from others that no library is: modules as well, perhaps.
    """

    functions: dict[tuple[str | None, str], Mentions] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    assigned: dict[str, set[str]] = field(default_factory=dict)
    imports: list[ast.ImportFrom] = field(default_factory=list)
    passed: list[ast.ImportFrom] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    whole: dict[str, str] = field(default_factory=dict)
    parts: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)
    """The names of functions and methods that can be called without arguments."""


class _Places(Struct):
    """Nodes of which their surroundings say what they are there for."""

    idle: set[ast.expr] = field(default_factory=set)
    """What is called without arguments."""
    types: set[ast.AST] = field(default_factory=set)
    """What says of which type something is."""

    def surround(self, node: ast.AST) -> None:
        """Look at what is below a node, before that is visited."""
        if isinstance(node, ast.Call):
            if not node.args and not node.keywords:
                self.idle.add(node.func)
            elif isinstance(node.func, ast.Name) and node.func.id in ASKING:
                self.types.update(part for each in node.args[1:] for part in walk(each))
        elif isinstance(node, (ast.arg, ast.AnnAssign)) and node.annotation is not None:
            self.types.update(walk(node.annotation))
        elif isinstance(node, AnyFunction) and node.returns is not None:
            self.types.update(walk(node.returns))


class _Body(Struct):
    """A function that is walked: which names are its own, and what depends on that."""

    mentions: Mentions
    bound: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    """What it declares to be bound outside."""
    names: set[str] = field(default_factory=set)
    types: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    stepped: set[str] = field(default_factory=set)
    updated: set[str] = field(default_factory=set)
    """What `step` and `update` are called of, as the text of that."""

    def settle(self) -> None:
        """Add to what is mentioned what only the whole function shows."""
        mentions = self.mentions
        others = self.names - mentions.own
        mentions.words |= others
        mentions.local |= others
        mentions.handed |= others
        mentions.words |= self.types
        mentions.foreign |= self.types
        if "getattr" in self.called or not mentions.own.isdisjoint(self.called):
            mentions.words.add(HELD)
        if not mentions.own.isdisjoint(self.kept):
            mentions.words.add(KEEPS)
        if not self.stepped.isdisjoint(self.updated):
            mentions.words.add(CLOSES)


def outline(module: Module) -> Outline:
    """Walk a file once."""
    found = Outline()
    for top in module.tree.body:
        if isinstance(top, ast.Import):
            found.modules |= {alias.asname or alias.name.partition(".")[0] for alias in top.names}
        elif isinstance(top, ast.ImportFrom):
            found.passed.append(top)
            if top.level or not foreign((top.module or "").partition(".")[0]):
                found.parts |= {alias.asname or alias.name for alias in top.names}
    for body in _walked(module.tree, found):
        body.mentions.own |= body.bound - body.elsewhere
        body.settle()
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign):
            value = said(statement.value, found)
            for target in statement.targets:
                for name in _names(target):
                    found.assigned.setdefault(name, set()).update(value.words)
    for mentions in found.functions.values():
        if mentions.called & found.stored:
            mentions.words.add(HELD)
        mentions.foreign -= mentions.local
        mentions.close()
    return found


def said(node: ast.expr | ast.stmt, outline: Outline) -> Mentions:
    """What an expression or a statement of the file mentions."""
    body, places = _Body(Mentions("", None)), _Places()
    for each in walk(node):
        places.surround(each)
        _note(each, body, outline, places)
    body.settle()
    body.mentions.foreign -= body.mentions.local
    return body.mentions


def _walked(tree: ast.Module, found: Outline) -> list[_Body]:
    """The functions of a file, outer ones first; what does not depend on their names is in `found`."""
    bodies: list[_Body] = []
    places = _Places()
    inside: tuple[_Body, ...] = ()
    owner: str | None = None  # the class whose body it is
    waiting: list[tuple[ast.AST, tuple[_Body, ...], str | None]] = [(tree, inside, owner)]
    while waiting:
        node, inside, owner = waiting.pop()
        kind = type(node)
        if kind in _SURROUNDING:
            places.surround(node)
        if kind in _TOLD:
            for body in inside:
                _note(node, body, found, places)
        if isinstance(node, ast.Attribute):
            if isinstance(node.ctx, ast.Store):
                found.stored.add(node.attr)
                found.plain.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found.imports.append(node)
        elif isinstance(node, ast.Import):
            found.modules |= {alias.name.partition(".")[0] for alias in node.names}
            found.whole.update((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ClassDef):
            found.classes.setdefault(node.name, set()).update(*map(_names, node.bases))
            owner = node.name
        elif isinstance(node, AnyFunction):
            place = (owner, node.name)
            body = _Body(found.functions.setdefault(place, Mentions(node.name, owner)))
            spec = node.args
            body.bound.update(a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs))
            if owner is None or len(spec.posonlyargs) + len(spec.args) - len(spec.defaults) <= 1:
                found.plain.add(node.name)
            bodies.append(body)
            inside, owner = (*inside, body), None
        for child in reversed(children(node)):
            if type(child) is ast.Name:  # half of all nodes are names and literals
                for body in inside:
                    _note_name(child, body, places)
            elif type(child) is not ast.Constant:
                waiting.append((child, inside, owner))
    return bodies


def _note_name(node: ast.Name, body: _Body, places: _Places) -> None:
    if node in places.types:
        body.types.add(node.id)
        return
    body.names.add(node.id)
    if isinstance(node.ctx, ast.Store):
        body.bound.add(node.id)


def _note(node: ast.AST, body: _Body, found: Outline, places: _Places) -> None:
    """Note what a node says."""
    mentions = body.mentions
    if isinstance(node, ast.Name):
        _note_name(node, body, places)
    elif node in places.types:
        if isinstance(node, ast.Attribute):
            body.types.add(node.attr)
    elif isinstance(node, ast.Attribute):
        _note_attribute(node, node.attr, mentions, found)
        if node not in places.idle:
            mentions.handed.add(node.attr)
        if isinstance(node.value, (ast.Name, ast.Attribute)) and node.attr[:1].isupper():
            around = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            mentions.words.add(intern(f"{around}.Class"))
    elif isinstance(node, ast.Call):
        function = node.func
        if isinstance(function, ast.Name):
            body.called.add(function.id)
        elif isinstance(function, ast.Attribute):
            if function.attr in KEEPERS:
                _note_kept(node.args, body)
            elif function.attr == "step" and node.args:
                body.stepped.add(ast.dump(function.value))
            elif function.attr == "update" and not node.args:
                body.updated.add(ast.dump(function.value))
            mentions.called.add(function.attr)
            called = intern(f"{function.attr}({'...' if node.args else ''})")
            _note_attribute(function, called, mentions, found)
        elif isinstance(function, (ast.Subscript, ast.Call)):
            mentions.words.add(HELD)
    elif isinstance(node, ast.Dict):
        if any(isinstance(each, ast.Constant) and each.value in PRECISIONS for each in node.keys):
            mentions.words.add(PRECISION)
    elif isinstance(node, ast.Assign):
        if any(isinstance(each, ast.Attribute) for each in node.targets):
            _note_kept([node.value], body)
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        body.elsewhere.update(node.names)


def _note_kept(values: list[ast.expr], body: _Body) -> None:
    body.kept.update(value.id for value in values if isinstance(value, ast.Name))


def _note_attribute(node: ast.Attribute, word: str, mentions: Mentions, found: Outline) -> None:
    root = node.value
    while isinstance(root, ast.Attribute):
        root = root.value
    library = isinstance(root, ast.Name) and root.id in found.modules
    mentions.words.add(word)
    (mentions.foreign if library else mentions.local).add(word)
    if isinstance(node.value, ast.Name) and (library or node.value.id in found.parts):
        mentions.words.add(intern(f"{node.value.id}.{word}"))


@by_node
def generates(function: ast.AST) -> bool:
    """Whether calling a function makes a generator: it yields itself, not in a function inside."""
    inside = list(children(function))
    while inside:
        node = inside.pop()
        if isinstance(node, (ast.Yield, ast.YieldFrom)):
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            inside.extend(children(node))
    return False


def is_short(function: ast.AST) -> bool:
    """Whether a function only returns what an expression says."""
    body = getattr(function, "body", None)
    if not isinstance(body, list):
        return False
    said = [each for each in body if not isinstance(each, ast.Expr)]
    return len(said) == 1 and isinstance(said[0], ast.Return)


@by_node
def left_to_heirs(function: ast.AST) -> bool:
    """Whether a method says only that a class that inherits it is to define it."""
    body = getattr(function, "body", None)
    if not isinstance(body, list) or not isinstance(body[-1], ast.Raise):
        return False
    said = [s for s in body[:-1] if not isinstance(getattr(s, "value", None), ast.Constant)]
    raised = body[-1].exc.func if isinstance(body[-1].exc, ast.Call) else body[-1].exc
    return not said and getattr(raised, "id", "") == "NotImplementedError"


def _names(node: ast.AST) -> set[str]:
    attributes = {n.attr for n in walk(node) if isinstance(n, ast.Attribute)}
    return attributes | {n.id for n in walk(node) if isinstance(n, ast.Name)}
