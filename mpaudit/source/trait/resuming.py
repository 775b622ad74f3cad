"""Whether a program reads the state of an optimizer again: what is never resumed from needs no scaler.

Where the state is loaded is often out of sight of what is followed (a method that nobody calls, another
script), so the texts are asked. They need not say which optimizer it is: this only silences.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

from msgspec import Struct, field

from mpaudit.source.text.surrounding import Known, told

if TYPE_CHECKING:
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.project import Project

_LOADS = re.compile(r"(?:load|resum|restor)\w*\s*\(", re.IGNORECASE)
"""The end of a called name; where it begins is looked for then, which is several times faster."""
_HOLDER = re.compile(r"(?:(\w+)\s*|[\])]\s*)\.\s*\Z")
"""What `load_state_dict` is called on: its last name, or something that was picked or called."""
_OPTIMIZER = re.compile(r"optim|(?<![a-z])opts?(?![a-z]|\s*\.\s*\w)|solver|adam|sgd", re.IGNORECASE)
"""How optimizers are called; `opt.weights` is one of the options of a command line."""
_MODEL = re.compile(r"model|net(?![a-z])", re.IGNORECASE)
"""How models are called, even where they are picked from several by a name."""
_TAKEN_OUT = re.compile(r"optim\w*\s*=\s*\w*(?:ckpt|check|state|snap|saved|load)\w*\s*\[", re.I)
"""`optimizer = checkpoint["optimizer"]`, which was saved as it is."""
_WHOLE = re.compile(
    r"set_optimizer_state_dict|set_state_dict|\.load_state\(|optim_state_dict_to_load"
)
"""What libraries call it that read the states of everything."""
_KEY = re.compile(r"""(?:\[|\bget\()\s*(["'])([^"']+)\1\s*[\],)]""")
"""The key of an entry that is taken out of a checkpoint: `["optimizer"]`, `.get("optimizer")`."""
_REACH = 60
"""Characters before `load_state_dict` in which to look for what it is called on."""
_ARGUMENTS = 200
"""Characters of the arguments that are looked at."""


class _Loads(NamedTuple):
    """What texts load: an optimizer's state or perhaps one; the names of what else has its state loaded.

    `keys`: under which entries of a checkpoint an optimizer's state is looked for, where they say so.
    """

    optimizer: bool
    names: frozenset[str]
    keys: frozenset[str]


class _Seen(Struct):
    """What was worked out for a project: the answers by file, what each text loads."""

    answers: dict[str, _Loads | None] = field(default_factory=dict)
    loads: Known[_Loads] = field(default_factory=dict)


_known: WeakKeyDictionary[Project, _Seen] = WeakKeyDictionary()


def resumed(spelled: str, key: str | None, module: Module, project: Project) -> bool:
    """Whether a file around `module` loads an optimizer's state, perhaps of what is `spelled` so there.

    `key`: the entry of the checkpoint that it was put under, None where that is not known. Whoever
    takes it out of an entry of another name reads checkpoints that others wrote.
    """
    seen = _known.setdefault(project, _Seen())
    if module.filename not in seen.answers:
        found = told(module, project, _read, seen.loads)
        seen.answers[module.filename] = None if found is None else _all(found)
    loads = seen.answers[module.filename]
    if loads is None or loads.optimizer or spelled.rpartition(".")[2] in loads.names:
        return True
    return bool(loads.keys) if key is None else key in loads.keys


def _all(found: list[_Loads]) -> _Loads:
    return _Loads(
        any(each.optimizer for each in found),
        frozenset().union(*(each.names for each in found)),
        frozenset().union(*(each.keys for each in found)),
    )


def _read(text: str) -> _Loads:
    names: set[str] = set()
    keys: set[str] = set()
    sure = _TAKEN_OUT.search(text) is not None or _WHOLE.search(text) is not None
    for match in () if sure else _LOADS.finditer(text):
        given, start = _arguments(text, match.end()), _begin(text, match.start())
        called = text[start : match.end()]
        if text.endswith("def ", 0, start):  # what it loads, its body says
            continue
        if called.startswith("load_state_dict"):
            before = text[max(0, start - _REACH) : start]
            holder = _HOLDER.search(before)
            if holder is None:
                continue
            line = before.rpartition("\n")[2]
            if holder[1] is None or _is_each(holder[1], text):
                sure = True
            elif _OPTIMIZER.search(f"{line} {given}"):
                said = {match[2] for match in _KEY.finditer(given)}
                keys |= said
                sure = not said
            else:
                names.add(holder[1])
        elif _OPTIMIZER.search(f"{called} {given}"):
            sure = True
        if sure:
            break
    return _Loads(sure, frozenset(names), frozenset(keys))


def _begin(text: str, inside: int) -> int:
    """Where the word begins in which a place is."""
    while inside and (text[inside - 1].isalnum() or text[inside - 1] == "_"):
        inside -= 1
    return inside


def _arguments(text: str, start: int) -> str:
    """The arguments of a call, as far as they are looked at."""
    depth = 1
    for at in range(start, min(len(text), start + _ARGUMENTS)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start : start + _ARGUMENTS]


def _is_each(name: str, text: str) -> bool:
    """Whether a name stands for one of several things: in a loop, or picked by a name."""
    return (
        _MODEL.search(name) is None
        and re.search(
            rf"\bfor\b[^\n:]*\b{name}\b[^\n:]*\bin\b"
            rf"|\b{name}\s*=\s*(?:getattr\(|[\w.]+\.get\(|[\w.]+\[(?!['\"]))",
            text,
        )
        is not None
    )
