"""Edits of a call's arguments: the device comes in, old positional arguments get their names."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mpaudit.fix import Edit
from mpaudit.source.text.argument import UnrepairableError, arguments

if TYPE_CHECKING:
    from mpaudit.source.api.deprecated import Api
    from mpaudit.source.text.module import Module


def device(module: Module, node: ast.AST, api: Api) -> str:
    """The device of `api` as an argument that is written where `node` stands."""
    quote = module.quote
    around = _f_string(module, node)
    if around is not None:  # before Python 3.12 the marks of the f-string may not stand inside it
        text = module.source(around)
        free = [mark for mark in ("'", '"') if mark not in text]
        if not free:
            raise UnrepairableError("it stands in an f-string with both quotation marks", node)
        quote = free[0]
    quoted = f"{quote}{api.device}{quote}"
    return f"device_type={quoted}" if api.keyword else quoted


def _f_string(module: Module, node: ast.AST) -> ast.JoinedStr | None:
    """The outermost f-string around `node`."""
    found = None
    parent = module.parents.get(node)
    while parent is not None and not isinstance(parent, ast.stmt):
        found = parent if isinstance(parent, ast.JoinedStr) else found
        parent = module.parents.get(parent)
    return found


def hand_over(
    module: Module, call: ast.Call, api: Api, *, first: int = 0, more: str = ""
) -> list[Edit]:
    """Edits that give `call` the device of `api`, and `more` behind it ("dtype=torch.float16").

    `first` is where the old API's own arguments begin: 1 in `partial(autocast, ...)`. Raises
    UnrepairableError where the arguments cannot be told apart.
    """
    own = call.args[first:]
    if any(keyword.arg in {"device", "device_type"} for keyword in call.keywords):
        place = ""  # written for the new API already
    else:
        place = device(module, call, api)
    if own and isinstance(own[0], ast.Constant) and isinstance(own[0].value, str):
        if own[0].value != api.device or len(call.args) + len(call.keywords) > first + 1:
            raise UnrepairableError("its first argument is a text", call)
        return []
    if api.parameters and any(isinstance(each, ast.Starred) for each in own) and api.is_autocast:
        raise UnrepairableError("its arguments come from a starred expression", call)
    prefixes = _prefixes(own, api, call)
    inserted = ", ".join(each for each in (place, more) if each)
    begin, spans = arguments(module, call)
    at = first + (len(own) if api.keyword else 0)
    edits: dict[int, str] = {}
    if inserted and at < len(spans):
        edits[spans[at][0]] = f"{inserted}, "
    elif inserted:
        edits[spans[-1][1] if spans else begin] = f", {inserted}" if spans else inserted
    for span, argument, prefix in zip(spans[first:], own, prefixes, strict=False):
        if prefix:
            edits[span[0]] = edits.get(span[0], "") + prefix
            if isinstance(argument, ast.NamedExpr) and module.text[span[0]] != "(":
                raise UnrepairableError("a := stands among its arguments", call)
    return [Edit(at, at, content) for at, content in edits.items()]


def _prefixes(own: list[ast.expr], api: Api, call: ast.Call) -> list[str]:
    """`enabled=` and so on for each positional argument; nothing where the order is kept."""
    if api.parameters is None or any(isinstance(each, ast.Starred) for each in own):
        return [""] * len(own)
    if len(own) > len(api.parameters):
        raise UnrepairableError("it has more arguments than the old API takes", call)
    return [f"{name}=" for name, _ in zip(api.parameters, own, strict=False)]
