"""What differs between Keras 3 and Keras 2: all the rest of the probe is written against this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, Literal, Protocol

from mpaudit.runtime.keras.patch import Patches

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a method is called with, `self` aside."""

Casting = Literal["input", "parameter"]
"""What a layer casts before its own code runs, or while it does."""


class Family(Protocol):
    """One generation of Keras: its classes, and where it keeps what the probe looks at.

    Classes and names of methods are what is wrapped; a class comes before those that derive from it.
    """

    number: int  # of the generation, as events have it
    name: str  # of the package
    version: str

    layer: Any
    model: Any
    sequential: Any
    functional: Any
    softmax: Any
    policy: Any
    loss: Any
    loss_by_name: Any  # the loss made of a function or of its name
    plain: tuple[Any, ...]  # optimizers
    scaling: tuple[Any, ...]  # LossScaleOptimizers

    named_early: bool  # whether a layer has its path when it is called only to find out shapes

    apply: str  # the method by which an optimizer is given gradients
    scale_loss: str
    casting: Mapping[tuple[Any, str], Casting]  # methods, and what is cast in them
    unscale: str | None  # the method that divides gradients, where applying them does not

    def flatten(self, structure: Any) -> list[Any]:
        """The leaves of nested arguments."""
        ...

    def mapped(self, function: Callable[[Any], Any], structure: Any) -> Any:
        """`function` of each leaf, in the same structure."""
        ...

    # Policies

    def follow_policy(self, patches: Patches, told: Callable[[str], None]) -> None:
        """Have `told` called with the name of each global policy that the script sets."""
        ...

    def global_policy(self) -> str:
        """The name of the policy in force, without setting one by asking."""
        ...

    def policy_of(self, layer: Any) -> str:
        """The name of a layer's own policy, also where it has a part of a `DTypePolicyMap`."""
        ...

    def repolicy(self, layer: Any, policy: str) -> None:
        """Give a layer another policy; its variables stay."""
        ...

    # Layers

    def internal(self, kind: Any) -> bool:
        """Whether a layer of this class that is being made is not the user's: an input, a metric."""
        ...

    def hidden(self, layer: Any) -> str | None:
        """Why the calls of a layer cannot be seen, None if they can."""
        ...

    def symbolic(self, leaves: Sequence[Any]) -> bool:
        """Whether a layer is called only to find out shapes; `leaves` are its arguments."""
        ...

    def loop(self) -> CodeType:
        """The function in which a recurrent layer calls its cell, at first outside the loop in it."""
        ...

    def path(self, layer: Any, known: Callable[[Any], str]) -> str:
        """The path of a layer that is being called; `known` gives that of one around it."""
        ...

    def contains(self, layer: Any) -> bool:
        """Whether there are layers in a layer."""
        ...

    def takes(self, layer: Any) -> str | None:
        """The dtype to which a layer casts numbers that it is given, None if it leaves them alone."""
        ...

    def variables(self, layer: Any) -> tuple[list[Any], list[Any]]:
        """The layer's own variables: the trainable ones, and the others."""
        ...

    def stored(self, variable: Any) -> str:
        """The dtype in which a variable is kept, whatever it is cast to when it is read."""
        ...

    def value(self, variable: Any) -> Any:
        """What a variable holds, as a tensor in that dtype."""
        ...

    def handle(self, variable: Any) -> Any:
        """The resource of a variable of TensorFlow, on the replica that is computed now."""
        ...

    def maker(self, output: Any) -> Any:
        """The layer that made an output of a functional model."""
        ...

    def cast(self) -> Any:
        """The function through which layers and what they call cast."""
        ...

    # Optimizers

    def listed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Arguments of `apply` that can be looked at twice: no iterators."""
        ...

    def pairs(self, optimizer: Any, arguments: Arguments) -> tuple[list[Any], Sequence[Any]]:
        """The gradients that `apply` is given, and their variables as far as they are known."""
        ...

    def scales(self, optimizer: Any) -> bool:
        """Whether an optimizer has a loss scale."""
        ...

    def unscaled(self, optimizer: Any) -> bool:
        """Whether gradients that it is given are divided by the loss scale already."""
        ...

    def scale(self, optimizer: Any) -> Any:
        """The loss scale in force, a number or a tensor; None where it is to be made yet."""
        ...

    def progress(self, optimizer: Any) -> Any:
        """A tensor that tells, when compared with itself after an attempt, how that ended."""
        ...

    def applied(self, optimizer: Any, before: Any, after: Any) -> Any:
        """Whether an attempt between two values of `progress` was applied: a boolean tensor."""
        ...

    def start(self, optimizer: Any) -> tuple[float, int | None]:
        """The initial loss scale, and the applied steps after which it grows (None: never)."""
        ...

    def restart(self, optimizer: Any, scale: float | None, growth: int | None) -> None:
        """Have a LossScaleOptimizer that was just made begin otherwise, as far as a value is given."""
        ...
