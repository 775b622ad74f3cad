"""Doing something right after the script has imported a framework, and never before."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Arrival:
    """An import hook that calls back once a watched module has been imported completely.

    It finds nothing itself: the other finders do, and only the `exec_module` of the loader they
    name is followed, which afterwards is the loader's own again. A module that is there already
    counts at once.
    """

    def __init__(self, arrived: Mapping[str, Callable[[], None]]) -> None:
        self._arrived = dict(arrived)

    def install(self) -> None:
        """Begin to watch."""
        for name in [name for name in self._arrived if name in sys.modules]:
            self._arrived.pop(name)()
        sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Watch no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find a watched module, and follow its loader."""
        if name not in self._arrived:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._follow(name, spec.loader)
                return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if (arrived := self._arrived.pop(name, None)) is not None:
                arrived()

        loader.exec_module = exec_module
