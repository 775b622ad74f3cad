"""What a file mentions where, gathered in one walk: enough to judge whether its code matters."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from functools import lru_cache

from mpaudit.source.module import Module
from mpaudit.source.walk import children, walk

HELD = "(calls what it holds)"
"""Stands for a call of what is in a variable, a table or an attribute: it may be a model."""

KEEPS = "(keeps what it is given)"
"""Stands for storing a variable in an attribute, or in a container that is held in one."""
PRECISION = "(a precision in a dict)"
"""Stands for a dict with a precision's name among its keys: a configuration."""
KEEPERS = ("append", "add", "insert", "extend")

PRECISIONS = ("fp16", "bf16")

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Mentions:
    """What a function mentions: names that are not its own variables, attributes, and calls.

    `x.step(...)` mentions "step" and "step()", `x.update(y)` mentions "update" and "update(...)":
    what an ordinary word means shows in how it is called. `nn.Linear` mentions "nn.Class", and
    `torch.save` of an imported torch "torch.save". What is mentioned only as an attribute of an
    imported library is in `foreign` as well.
    """

    name: str
    owner: str | None
    words: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    own: frozenset[str] = frozenset()
    foreign: set[str] = field(default_factory=set)
    local: set[str] = field(default_factory=set)
    handed: set[str] = field(default_factory=set)
    """The names, and the attributes that are given arguments or that are not called at all."""
    idle: set[ast.expr] = field(default_factory=set)
    """What is called without arguments."""


@dataclass(slots=True)
class Outline:
    """The names a file's parts mention.

    `functions` are all functions by (class, name), the class None outside of one; `classes` map a
    name to the names of its bases; `assigned` maps the variables of the module body to what their
    values mention; `imports` are all `from ... import` statements.
    """

    functions: dict[tuple[str | None, str], Mentions] = field(default_factory=dict)
    classes: dict[str, set[str]] = field(default_factory=dict)
    assigned: dict[str, set[str]] = field(default_factory=dict)
    imports: list[ast.ImportFrom] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    plain: set[str] = field(default_factory=set)
    """The names of functions and methods that can be called without arguments."""


def outline(module: Module) -> Outline:
    """Walk a file once."""
    found = Outline()
    for top in module.tree.body:
        if isinstance(top, ast.Import):
            found.modules |= {alias.asname or alias.name.partition(".")[0] for alias in top.names}
    _visit(module.tree, (), None, found)
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
    return found


def said(node: ast.expr | ast.stmt, outline: Outline) -> Mentions:
    """What an expression or a statement of the file mentions."""
    found = Mentions("", None)
    for each in walk(node):
        _note(each, found, outline)
    found.foreign -= found.local
    return found


def _visit(node: ast.AST, inside: tuple[Mentions, ...], owner: str | None, found: Outline) -> None:
    """`inside` are the functions around, `owner` is the class whose body this is."""
    for mentions in inside:
        _note(node, mentions, found)
    if isinstance(node, ast.Attribute):
        if isinstance(node.ctx, ast.Store):
            found.stored.add(node.attr)
            found.plain.add(node.attr)
    elif isinstance(node, ast.ImportFrom):
        found.imports.append(node)
    elif isinstance(node, ast.Import):
        found.modules |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ClassDef):
        found.classes.setdefault(node.name, set()).update(*map(_names, node.bases))
        owner = node.name
    elif isinstance(node, AnyFunction):
        mentions = found.functions.setdefault((owner, node.name), Mentions(node.name, owner))
        spec = node.args
        parameters = frozenset(a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs))
        mentions.own |= parameters | frozenset(_assigned(node))
        if owner is None or len(spec.posonlyargs) + len(spec.args) - len(spec.defaults) <= 1:
            found.plain.add(node.name)
        inside, owner = (*inside, mentions), None
    for child in children(node):
        _visit(child, inside, owner, found)


def _note(node: ast.AST, mentions: Mentions, found: Outline) -> None:
    if isinstance(node, ast.Name):
        if node.id not in mentions.own:
            mentions.words.add(node.id)
            mentions.local.add(node.id)
            mentions.handed.add(node.id)
    elif isinstance(node, ast.Attribute):
        _note_attribute(node, node.attr, mentions, found)
        if node not in mentions.idle:
            mentions.handed.add(node.attr)
        if isinstance(node.value, (ast.Name, ast.Attribute)) and node.attr[:1].isupper():
            around = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            mentions.words.add(f"{around}.Class")
    elif isinstance(node, ast.Dict):
        if any(isinstance(each, ast.Constant) and each.value in PRECISIONS for each in node.keys):
            mentions.words.add(PRECISION)
    elif isinstance(node, ast.Assign):
        if any(isinstance(each, ast.Attribute) for each in node.targets):
            _note_kept([node.value], mentions)
    elif isinstance(node, ast.Call):
        function = node.func
        if not node.args and not node.keywords:
            mentions.idle.add(function)
        if isinstance(function, ast.Attribute) and function.attr in KEEPERS:
            _note_kept(node.args, mentions)
        if isinstance(function, (ast.Subscript, ast.Call)) or (
            isinstance(function, ast.Name)
            and (function.id in mentions.own or function.id == "getattr")
        ):
            mentions.words.add(HELD)
        elif isinstance(function, ast.Attribute):
            mentions.called.add(function.attr)
            called = f"{function.attr}({'...' if node.args else ''})"
            _note_attribute(function, called, mentions, found)


def _note_kept(values: list[ast.expr], mentions: Mentions) -> None:
    if any(isinstance(value, ast.Name) and value.id in mentions.own for value in values):
        mentions.words.add(KEEPS)


def _note_attribute(node: ast.Attribute, word: str, mentions: Mentions, found: Outline) -> None:
    root = node.value
    while isinstance(root, ast.Attribute):
        root = root.value
    library = isinstance(root, ast.Name) and root.id in found.modules
    mentions.words.add(word)
    (mentions.foreign if library else mentions.local).add(word)
    if library and isinstance(node.value, ast.Name):
        mentions.words.add(f"{node.value.id}.{word}")


def _assigned(function: AnyFunction) -> set[str]:
    """The names a function binds, its own functions and classes apart."""
    found: set[str] = set()
    others: set[str] = set()
    for node in walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            others.update(node.names)
    return found - others


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
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
