"""What is to be run: a script or a module, found and read before anything happens."""

from __future__ import annotations

import importlib.util
import io
import linecache
import sys
import tokenize
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from mpaudit.errors import MpauditError


@dataclass(frozen=True, slots=True)
class Target:
    """A program as `python` would run it.

    `argument` is what becomes `sys.argv[0]`, `folder` what becomes `sys.path[0]`; `spec` is that of
    a module run with -m. `text` is its source, decoded.
    """

    name: str
    filename: str
    argument: str
    folder: str
    text: str
    code: CodeType
    spec: ModuleSpec | None = None

    def module(self) -> ModuleType:
        """A fresh `__main__` for it, as the interpreter makes one."""
        module = ModuleType("__main__")
        module.__file__ = self.filename
        module.__spec__ = self.spec
        if self.spec is None:
            module.__loader__ = SourceFileLoader("__main__", self.filename)
        else:
            module.__loader__ = self.spec.loader
            module.__package__ = self.spec.parent
        vars(module).update(__builtins__=sys.modules["builtins"], __annotations__={})
        return module

    def remember(self) -> None:
        """Have tracebacks show the text that runs, also where it is not the file's."""
        lines = self.text.splitlines(keepends=True)
        linecache.cache[self.filename] = (len(self.text), None, lines, self.filename)


def script(path: str, source: str | None = None) -> Target:
    """The script at `path`; `source` is a text to run in place of the file's.

    Raises MpauditError if it is missing, a directory, or no Python.
    """
    file = Path(path)
    if file.is_dir():
        raise MpauditError(f"{path}: is a directory; give the script, or -m and a module's name")
    if not file.exists():
        raise MpauditError(f"{path}: there is no such script")
    text, code = _compiled(path, str(file.absolute()), source)
    folder = str(file.resolve().parent)
    return Target(file.name, str(file.absolute()), path, folder, text, code)


def module(name: str, source: str | None = None) -> Target:
    """The module `name`, or the `__main__` of a package, as `python -m` finds it."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as problem:
        raise MpauditError(f"-m {name}: {problem}") from problem
    if spec is None:
        raise MpauditError(f"-m {name}: there is no module of that name that can be run")
    if spec.origin is None or not spec.has_location:
        raise MpauditError(f"-m {name}: not a module written in Python")
    text, code = _compiled(f"-m {name}", spec.origin, source)
    return Target(name, spec.origin, spec.origin, str(Path.cwd()), text, code, spec)


def _compiled(shown: str, filename: str, source: str | None) -> tuple[str, CodeType]:
    try:
        data = Path(filename).read_bytes() if source is None else source.encode()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding) if source is None else source
        code = compile(data if source is None else source, filename, "exec", dont_inherit=True)
    except OSError as problem:
        raise MpauditError(f"{shown}: cannot be read ({problem.strerror})") from problem
    except SyntaxError as problem:
        where = f"{shown}:{problem.lineno}" if problem.lineno else shown
        raise MpauditError(
            f"{where}: not valid Python ({problem.msg}); nothing was run"
        ) from problem
    except ValueError as problem:  # NUL bytes, undecodable text
        raise MpauditError(f"{shown}: not a Python source file ({problem})") from problem
    return text, code
