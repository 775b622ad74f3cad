"""Which framework a run is of, where a script has imported more than one.

TensorFlow comes along with much that a script of torch imports, TensorBoard's writer for instance: what
is imported says little, what is called first says it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Claims:
    """What each probe would note if the run were its own; that of the framework that is used counts.

    As long as none is used, it is that of the probe that came last.
    """

    def __init__(self, note: Callable[[str, Any], None]) -> None:
        self._note = note
        self._claims: dict[str, dict[str, Any]] = {}
        self._used: str | None = None

    def claim(self, framework: str, **facts: Any) -> None:
        """A probe is there, and has these facts besides the name of its framework."""
        self._claims.setdefault(framework, {"framework": framework}).update(facts)
        if self._used in (None, framework):
            self._tell(framework)

    def used(self, framework: str) -> None:
        """A layer or an optimizer of a framework is at work."""
        if self._used is None:
            self._used = framework
            self._tell(framework)

    def _tell(self, framework: str) -> None:
        for key, value in self._claims.get(framework, {}).items():
            self._note(key, value)
