"""What a module has of its own and what an optimizer steps, whether torch made them or Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch

Pair = tuple[torch.Tensor, "torch.Tensor | None"]
"""A parameter and its gradient."""


class Foreign(Protocol):
    """Modules and optimizers that run on torch, and keep what they have elsewhere than torch's."""

    def path(self, module: Any) -> str | None:
        """The path of a module of its kind, None for those of torch."""
        ...

    def pretends(self, args: Sequence[Any]) -> bool:
        """Whether modules are called with `args` only to find out shapes."""
        ...

    def parameters(self, module: Any) -> Mapping[str, torch.Tensor]:
        """A module's own parameters by their name in it."""
        ...

    def within(self, module: Any) -> Iterable[torch.Tensor]:
        """Those that are trained, with those of the modules in it."""
        ...

    def contains(self, module: Any) -> bool:
        """Whether there are modules in a module."""
        ...

    def stepped(self, optimizer: Any) -> Sequence[Pair] | None:
        """What an optimizer of its kind steps, None for those of torch."""
        ...

    def home(self, parameter: torch.Tensor) -> tuple[str, str] | None:
        """The path of the module that has a parameter, and the name it has there."""
        ...


class Own:
    """Asks `foreign`, if there are such modules, and torch."""

    def __init__(self) -> None:
        self.foreign: Foreign | None = None

    def path(self, module: Any) -> str | None:
        """The path that a module has whatever holds it, None if it has it from its holders."""
        return None if self.foreign is None else self.foreign.path(module)

    def pretends(self, args: Sequence[Any]) -> bool:
        """As `Foreign.pretends`."""
        return self.foreign is not None and self.foreign.pretends(args)

    def parameters(self, module: Any) -> Mapping[str, torch.Tensor | None]:
        """A module's own parameters by name."""
        if self.foreign is not None and self.foreign.path(module) is not None:
            return self.foreign.parameters(module)
        found: Mapping[str, torch.Tensor | None] = module._parameters
        return found

    def within(self, module: Any) -> Iterable[torch.Tensor]:
        """The parameters of a module and of all modules in it."""
        if self.foreign is not None and self.foreign.path(module) is not None:
            return self.foreign.within(module)
        found: Iterable[torch.Tensor] = module.parameters()
        return found

    def contains(self, module: Any) -> bool:
        """Whether there are modules in a module."""
        if self.foreign is not None and self.foreign.path(module) is not None:
            return self.foreign.contains(module)
        return bool(module._modules)

    def pairs(self, optimizer: Any) -> Sequence[Pair]:
        """The parameters of an optimizer with their gradients."""
        found = None if self.foreign is None else self.foreign.stepped(optimizer)
        if found is not None:
            return found
        return [(each, each.grad) for group in optimizer.param_groups for each in group["params"]]

    def count(self, optimizer: Any) -> int:
        """How many those are."""
        found = None if self.foreign is None else self.foreign.stepped(optimizer)
        if found is not None:
            return len(found)
        count = 0
        for group in optimizer.param_groups:
            count += len(group["params"])
        return count

    def home(self, parameter: torch.Tensor) -> tuple[str, str] | None:
        """As `Foreign.home`."""
        return None if self.foreign is None else self.foreign.home(parameter)
