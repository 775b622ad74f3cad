"""From the dotted name of a module to the rules that it brings."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from mpaudit import rule
from mpaudit.errors import MpauditError
from mpaudit.extension import registry
from mpaudit.extension.registry import Loaded

_SOURCES = ("", "src")
"""Where, below the folder of a configuration, the project's own modules may lie."""
_HELP = "see docs/plugins.md"


def load(name: str, folder: Path) -> None:
    """Have the plugin `name` at hand, which a configuration in `folder` names.

    One that has changed since it was loaded is loaded anew. Raises MpauditError for a module that is not
    there, cannot be imported, is no plugin, or brings a rule that is broken or there already.
    """
    root = _root(name, folder)
    known = registry.known(name)
    if known is not None:
        if root is not None and not Path(known.origin).is_relative_to(root):
            raise MpauditError(
                f"{name} is loaded from {known.origin} already; there is another one in {root}"
            )
        if all(_digest(file) == seen for file, seen in known.files):
            return
        _forget(known)
    module = _imported(name, root, folder)
    plugin = _made(module, name, folder)
    _distinct(plugin)
    registry.put(plugin)


def _root(name: str, folder: Path) -> Path | None:
    """The folder of the project that holds a module of that name, None for one that is installed."""
    path = Path(*name.split("."))
    for each in _SOURCES:
        base = folder / each
        if (base / path).with_suffix(".py").is_file() or (base / path / "__init__.py").is_file():
            return base
    return None


def _imported(name: str, root: Path | None, folder: Path) -> ModuleType:
    with _first(root), redirect_stdout(sys.stderr):
        importlib.invalidate_caches()
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as problem:
            missing = problem.name or ""
            if missing == name or name.startswith(f"{missing}."):
                raise MpauditError(_not_found(name, folder)) from None
            raise MpauditError(_failed(name, problem)) from problem
        except (Exception, SystemExit) as problem:
            raise MpauditError(_failed(name, problem)) from problem


@contextmanager
def _first(root: Path | None) -> Iterator[None]:
    """Look for modules in a folder first. What is run later, a script among it, sees nothing of that.

    No bytecode is written beside them: it would stand for a source of the same size that replaces this
    one within a second.
    """
    before, silent = sys.path.copy(), sys.dont_write_bytecode
    if root is not None:
        sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, silent


def _not_found(name: str, folder: Path) -> str:
    parts = name.split(".")
    near = [
        ".".join([*parts[:-1], path.stem])
        for each in _SOURCES
        for path in sorted((folder / each).joinpath(*parts[:-1]).glob("*"))
        if path.suffix == ".py" or path.is_dir()
    ]
    close = get_close_matches(name, near, n=1, cutoff=0.7)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"neither in {folder}, nor in its src, nor installed"
    )
    return f"there is no module {name!r}; {hint}"


def _failed(name: str, problem: BaseException) -> str:
    said = " ".join(f"{type(problem).__name__}: {problem}".split())
    frames = traceback.extract_tb(problem.__traceback__)
    own = [
        each for each in frames if "importlib" not in each.filename and each.filename != __file__
    ]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    return f"{name} cannot be imported: {said}{place}"


def _made(module: ModuleType, name: str, folder: Path) -> Loaded:
    from mpaudit.plugin import Plugin

    origin = module.__file__
    plugin = getattr(module, "plugin", None)
    if origin is None or not isinstance(plugin, Plugin):
        what = (
            "a package without __init__.py" if origin is None else "no `plugin = Plugin(...)` in it"
        )
        raise MpauditError(f"{name} is no plugin: {what}; {_HELP}")
    if not plugin.pages:
        raise MpauditError(f"{name} is no plugin: it has no pages, so no rule; {_HELP}")
    pages = [Path(origin).parent / page for page in plugin.pages]
    files = [*_files(name), *map(str, pages)]
    return Loaded(
        name,
        origin,
        folder,
        tuple(_page(page, name) for page in pages),
        tuple(plugin.checks),
        tuple(plugin.protocols),
        tuple(word.encode() for word in plugin.words),
        tuple((file, _digest(file)) for file in dict.fromkeys(files)),
    )


def _page(path: Path, name: str) -> rule.Rule:
    try:
        return rule.parse(path.read_text(encoding="utf-8"), origin=str(path), plugin=name)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is no UTF-8 text"
        raise MpauditError(f"{name}: the page {path} cannot be read: {reason}") from None
    except ValueError as problem:
        raise MpauditError(f"{name}: {problem}") from None


def _files(name: str) -> Iterator[str]:
    """The files of the package that a plugin is in, as far as they are imported."""
    top = name.partition(".")[0]
    for module_name, module in sorted(sys.modules.items()):
        if module_name == top or module_name.startswith(f"{top}."):
            file = getattr(module, "__file__", None)
            if file is not None:
                yield file


def _digest(file: str) -> str:
    try:
        return blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


def _distinct(plugin: Loaded) -> None:
    """Raises MpauditError for a code or a name that means another rule already."""
    for new in plugin.rules:
        others: Sequence[rule.Rule] = [
            *rule.catalogue().values(),
            *(each for each in plugin.rules if each is not new),
        ]
        for other in others:
            if other.plugin == plugin.name and other not in plugin.rules:
                continue  # what it brought before it was loaded anew
            owner = f"of {other.plugin}" if other.plugin else "of mpaudit itself"
            for what, mine, theirs in (
                ("code", new.code, other.code),
                ("name", new.name, other.name),
            ):
                if mine == theirs:
                    raise MpauditError(
                        f"{plugin.name}: the {what} {mine} is taken: "
                        f"{other.code} {other.name} is a rule {owner}"
                    )


def _forget(plugin: Loaded) -> None:
    """Have a plugin imported anew, with the modules of its package."""
    registry.drop(plugin.name)
    top = plugin.name.partition(".")[0]
    for name in [each for each in sys.modules if each == top or each.startswith(f"{top}.")]:
        del sys.modules[name]
