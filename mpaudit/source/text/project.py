"""The files around a script: which module an import means, read when it is first needed."""

# ruff: noqa: PTH110, PTH118, PTH120 - places are asked for by the thousand, and a Path is slow to make

from __future__ import annotations

from collections.abc import Callable, Iterator
from os.path import dirname, exists, join
from pathlib import Path
from sys import intern

from msgspec import Struct, field

from mpaudit.config import Target
from mpaudit.source.text.foreign import foreign
from mpaudit.source.text.module import Module
from mpaudit.source.text.parsing import UnparsableError

_MAX_LEVELS = 8


class Trail(Struct):
    """Absolute paths: of modules that were read, of what was only asked for, there or not, and of
    folders of which all scripts were read.
    """

    read: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    roots: set[str] = field(default_factory=set)


class Project:
    """Finds and parses the modules that files of one run import from each other.

    `target` is what the user says that they are for, the same for all, or by file. `trail` is what was
    learnt of other files, by the absolute path of the file that imports.
    """

    def __init__(self, target: Target | Callable[[Path], Target] | None = None) -> None:
        stated = target or Target()
        self.target = (lambda _: stated) if isinstance(stated, Target) else stated
        self.trail: dict[str, Trail] = {}
        self._modules: dict[Path, Module | None] = {}
        self._noted = Trail()
        self._exists: dict[str, bool] = {}
        self._nowhere: dict[tuple[str, str], tuple[str, ...]] = {}
        """What was asked for from a folder upwards where a package lies in none, as most libraries."""
        self._names: dict[Path, str] = {}
        self._found: dict[tuple[str, str, int], Module | None] = {}
        self.imported: dict[Path, dict[Path, frozenset[str]] | None] = {}
        """What `mpaudit.source.text.surrounding` has read of files, by the root of a program."""

    def again(self) -> Project:
        """A project that has read what this one has, and that knows no name yet."""
        other = Project(self.target)
        other._modules.update(self._modules)
        other._exists, other.imported = self._exists, self.imported
        return other

    def anew(self) -> Project:
        """A project that has read nothing, and knows the same names."""
        other = Project(self.target)
        other._names = self._names
        return other

    def add(self, path: Path, module: Module | None = None) -> None:
        """Make a file known by the name the user gave it, with its module if it was parsed."""
        self._names[path.absolute()] = str(path)
        if module is not None:
            module.target, module.project = self.target(path), self
            self._modules[path.absolute()] = module
            self._found.clear()

    def checked(self, filename: str) -> Module | None:
        """The module of a file that the user asked to check and that was read; None for others."""
        path = Path(filename).absolute()
        return self._modules.get(path) if path in self._names else None

    def find(self, name: str, importer: Module, level: int = 0) -> Module | None:
        """The project module that `importer` means by `name`; None for a library, or nothing."""
        asked = (importer.filename, name, level)
        if asked not in self._found:
            before, self._noted = self._noted, self.noted(importer)
            self._found[asked] = self._find(name, importer, level)
            self._noted = before
        return self._found[asked]

    def noted(self, module: Module) -> Trail:
        """What was learnt of other files for a module."""
        return self.trail.setdefault(str(Path(module.filename).absolute()), Trail())

    def _find(self, name: str, importer: Module, level: int) -> Module | None:
        top = name.partition(".")[0]
        if not level and foreign(top):
            return None
        base = dirname(Path(importer.filename).absolute())
        if level:
            for _ in range(level - 1):
                base = dirname(base)
            return self._at(base, name)
        for root in self._roots(base, top):
            found = self._at(root, name)
            if found is not None and found is not importer:  # a script named as its folder
                return found
        return None

    def _roots(self, base: str, top: str) -> Iterator[str]:
        """The folders that hold a package, from `base` upwards."""
        start, asked, found = (base, top), list[str](), False
        if start in self._nowhere:
            self._noted.asked.update(self._nowhere[start])
            return

        def there(path: str) -> bool:
            asked.append(intern(path))
            return self._there(path)

        for _ in range(1 + _MAX_LEVELS):
            below = join(base, "")  # to join each of them would take most of the time
            for root, inside in ((base, below), (f"{below}src", join(below, "src", ""))):
                if there(f"{inside}{top}.py") or there(f"{inside}{top}"):
                    found = True
                    yield root
            if there(f"{below}.git") or there(f"{below}pyproject.toml"):
                break
            if base == dirname(base):
                break
            base = dirname(base)
        if not found:
            self._nowhere[start] = tuple(asked)

    def _at(self, base: str, name: str) -> Module | None:
        target = join(base, *name.split(".")) if name else base
        for candidate in (f"{target}.py" if name else None, join(target, "__init__.py")):
            if candidate is not None and self._there(candidate):
                self._noted.read.add(intern(candidate))
                return self.module(Path(candidate))
        return None

    def _there(self, path: str) -> bool:
        path = intern(path)  # every file of a folder asks for the same
        self._noted.asked.add(path)
        known = self._exists.get(path)
        if known is None:
            known = self._exists[path] = exists(path)
        return known

    def module(self, path: Path) -> Module | None:
        """The module in a file, None where it cannot be read as Python."""
        path = path.absolute()
        if path not in self._modules:
            try:
                module = self._modules[path] = Module.read(path, self._names.get(path))
                module.target, module.project = self.target(path), self
            except (UnparsableError, OSError):
                self._modules[path] = None
        return self._modules[path]
