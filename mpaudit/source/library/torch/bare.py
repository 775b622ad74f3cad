"""Loss scaling in programs that never ask for low precision."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mpaudit.event import ScaledBare
from mpaudit.source.engine.result import on_result
from mpaudit.source.engine.values import Thing, Value
from mpaudit.source.text.reach import reached
from mpaudit.source.text.walk import walk

if TYPE_CHECKING:
    from mpaudit.source.engine.request import Call
    from mpaudit.source.text.module import Module
    from mpaudit.source.text.project import Project

MAX_TEXT = 40
_LOW = re.compile(
    r"autocast|\bhalf\b|float16|MixedPrecision|mixed_precision|apex\.amp|^initialize\(\)$"
    r"|\baccelerate\b|lightning|deepspeed|\bFabric\b|HalfTensor"
)
"""Whatever makes a model compute in low precision has one of these names."""
_KNOWN: WeakKeyDictionary[Project, dict[str, bool]] = WeakKeyDictionary()
_ASKING: WeakKeyDictionary[Project, dict[str, bool]] = WeakKeyDictionary()


@on_result(functions=(), methods=("scale",))
def scaled(call: Call, _: Value, __: Value) -> None:
    """`scaler.scale(loss)` where no file of the program mentions anything of low precision."""
    receiver = call.receiver
    if not isinstance(receiver, Thing) or receiver.kind != "GradScaler":
        return
    if call.path.known(receiver, "@off") is not None or call.path.regions:
        return
    project = call.engine.relevance.project
    if all(_bare(frame.module, project) for frame in call.path.frames):
        call.emit(ScaledBare(at=call.span, occasional=call.occasional, scaler=call.ref(receiver)))


def _bare(module: Module, project: Project) -> bool:
    """Whether neither a file, which is asked first, nor what it imports asks for low precision."""
    known = _KNOWN.setdefault(project, {})
    if module.filename not in known:
        known[module.filename] = not _asks(module, project) and _alone(module, project)
    return known[module.filename]


def _alone(module: Module, project: Project) -> bool:
    files = reached(module, project)
    return files is not None and not any(_asks(each, project) for each in files)


def _asks(module: Module, project: Project) -> bool:
    """Whether a file itself asks for low precision; of files that many import, that is found out once."""
    known = _ASKING.setdefault(project, {})
    if module.filename not in known:
        known[module.filename] = module.glance(
            lambda its: any(_LOW.search(word) for word in _words(its))
        )
    return known[module.filename]


def _words(module: Module) -> Iterator[str]:
    """The names and the short texts of a file; comments and imports that nothing uses do not count."""
    passes_on = module.filename.endswith("__init__.py")
    for node in walk(module.tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call):
            yield f"{getattr(node.func, 'attr', getattr(node.func, 'id', ''))}()"
        elif isinstance(node, ast.alias):
            bound = node.asname or node.name.partition(".")[0]
            if passes_on or bound in module.spelled or bound == "*":
                yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value if len(node.value) < MAX_TEXT else ""
