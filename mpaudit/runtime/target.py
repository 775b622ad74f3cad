"""What is to be run: a script, a module or a text, found and read before anything happens."""

from __future__ import annotations

import importlib.util
import io
import linecache
import shutil
import sys
import tokenize
from importlib.machinery import BuiltinImporter, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

from msgspec import Struct

from mpaudit.errors import MpauditError

How = Literal["script", "module", "code"]
"""What `python NAME`, `python -m NAME` and `python -c NAME` take NAME for."""
_TEXT = "<string>"  # the file that Python says a text of -c is in


class Target(Struct, frozen=True):
    """A program as `python` would run it.

    `argument` is what becomes `sys.argv[0]`, `folder` what becomes `sys.path[0]`; `spec` is that of
    a module run with -m. `text` is its source, decoded. `name` is for the name of a trace.
    """

    name: str
    filename: str
    argument: str
    folder: str
    text: str
    code: CodeType
    spec: ModuleSpec | None = None

    @property
    def has_file(self) -> bool:
        """Whether it comes from a file: a text of -c does not."""
        return self.filename != _TEXT

    def module(self) -> ModuleType:
        """A fresh `__main__` for it, as the interpreter makes one."""
        module = ModuleType("__main__")
        module.__spec__ = self.spec
        if self.spec is not None:
            module.__loader__ = self.spec.loader
            module.__package__ = self.spec.parent
        elif self.has_file:
            module.__loader__ = SourceFileLoader("__main__", self.filename)
        else:
            module.__loader__ = BuiltinImporter
        if self.has_file:
            module.__file__ = self.filename
        vars(module).update(__builtins__=sys.modules["builtins"], __annotations__={})
        return module

    def remember(self) -> None:
        """Have tracebacks show the text that runs, also where it is not the file's."""
        if self.has_file:  # of a text of -c Python shows no lines
            lines = self.text.splitlines(keepends=True)
            linecache.cache[self.filename] = (len(self.text), None, lines, self.filename)


def script(path: str, source: str | None = None) -> Target:
    """The script at `path`; `source` is a text to run in place of the file's.

    A name that is no file here may be that of an installed program: torchrun, accelerate. Raises
    MpauditError if it is missing, a directory, or no Python.
    """
    file = Path(path)
    if file.is_dir():
        raise MpauditError(f"{path}: is a directory; give the script, or -m and a module's name")
    if not file.exists():
        installed = _installed(path) if file.name == path else None
        if installed is None or not _is_python(installed):
            raise MpauditError(f"{path}: there is no such script")
        file, path = Path(installed), installed
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


def code(text: str) -> Target:
    """The program that `python -c TEXT` runs. Raises MpauditError if it is no Python."""
    _, compiled = _compiled("-c", _TEXT, text)
    return Target("command", _TEXT, "-c", "", text, compiled)


def _installed(program: str) -> str | None:
    """The program of that name: that of this environment, also where nobody has activated it."""
    ours = str(Path(sys.executable).parent)
    return shutil.which(program, path=ours) or shutil.which(program)


def _is_python(path: str) -> bool:
    with Path(path).open("rb") as file:
        return b"python" in file.readline(1000)


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
