"""Loss scaling in Keras: optimizers that are wrapped, gradients on their way, what Keras 3 dropped."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref


class OptimizerWrapped(Event, frozen=True, kw_only=True):
    """A LossScaleOptimizer was made around `inner`, by the code (`by_hand`) or by `compile`.

    `nested` says whether `inner` is a LossScaleOptimizer itself (None: not known). `inner` is None where
    it is not known. `unpoliced` says that no policy can be set in the program.
    """

    optimizer: Ref
    inner: Ref | None
    nested: bool | None
    by_hand: bool = True
    unpoliced: bool = False


class TapeGradientsUnscaled(Event, frozen=True, kw_only=True):
    """`optimizer.get_unscaled_gradients(gradients)` of Keras 2: `result` are the gradients divided."""

    optimizer: Ref
    gradients: Ref
    result: Ref


class TapeGradientsClipped(Event, frozen=True, kw_only=True):
    """Gradients of a tape were clipped to `result`; `how` is the function that did it."""

    how: str
    gradients: Ref
    result: Ref


class LegacyScaling(Event, frozen=True, kw_only=True):
    """A method or argument of loss scaling was used that Keras 3 does not have.

    `what` is the method's or argument's name. `raises` says whether Keras 3 refuses it by an error; if
    not, it takes it for something else.
    """

    optimizer: Ref
    what: str
    raises: bool = True
