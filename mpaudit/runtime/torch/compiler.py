"""torch.compile beside the probe: compiled code stays compiled, and remapped code runs eagerly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mpaudit.runtime.torch.watch import Watch


class Compiler:
    """Keeps the compiler away from the probe's own functions, which it cannot trace."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._stance: Any = None
        watch.patches.wrap(torch, "compile", self._compile)
        watch.patches.also(self._restore)

    def force_eager(self) -> None:
        """A cuda call was remapped: what is compiled runs eagerly, under CUDA's cast policy."""
        self._watch.eager = True
        if self._watch.compiles:
            self._set_stance()

    def _compile(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._watch.compiles:
            self._watch.compiles = True
            with self._watch.guard("torch.compile"):
                self._watch.patches.hide_from_compiler()
                for told in self._watch.on_compile:
                    told()
                if self._watch.eager:
                    self._set_stance()
        return original(*args, **kwargs)

    def _set_stance(self) -> None:
        if hasattr(torch.compiler, "set_stance"):  # from torch 2.6 on
            self._stance = torch.compiler.set_stance("force_eager")

    def _restore(self) -> None:
        if self._stance is not None:
            torch.compiler.set_stance("default")
