"""Training on a DeepSpeed engine: who runs backward, and who steps."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref
from mpaudit.finding import Related


class EngineBackward(Event, frozen=True, kw_only=True):
    """`engine.backward(loss)`."""

    engine: Ref


class EngineRawBackward(Event, frozen=True, kw_only=True):
    """`loss.backward()` of a loss that comes out of an engine; `engine` is None if it comes out of none.

    The engine is spelled as it can be reached there ("" where it cannot). `divided` says that the loss
    may have been divided for the accumulation, `scaled` that somebody else's scale may be on it, and
    `unseen` that the loss comes from a caller nobody has seen.
    """

    loss: Ref
    engine: Ref | None
    divided: bool = False
    scaled: bool = False
    unseen: bool = False


class EngineStep(Event, frozen=True, kw_only=True):
    """A step: `engine.step()`, or that of an `optimizer` by itself.

    `engine` is None where the optimizer belongs to no engine; `given` says that the optimizer is the one
    that the engine was given, not the one that came back. `required` says that a plain
    `loss.backward()` is refused or comes out wrong (None: not known), because of `because`.
    """

    engine: Ref | None
    optimizer: Ref | None = None
    given: bool = False
    required: bool | None = None
    wraps: bool | None = None
    because: tuple[Related, ...] = ()
    unseen: bool = False


class EngineConfigured(Event, frozen=True, kw_only=True):
    """A library is given a DeepSpeed configuration as a dict: whether `fp16` and `bf16` are both on in it.

    `other` is where the second one stands. `maker` is the name of what asks for one precision in its own
    argument `switch`, while the configuration, a dict or a file, switches the other one on.
    """

    both: bool
    other: Related | None = None
    maker: str = ""
    switch: str = ""
