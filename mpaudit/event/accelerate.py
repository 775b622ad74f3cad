"""Training loops on Hugging Face Accelerate, which scales losses and steps optimizers by itself."""

from __future__ import annotations

from msgspec import Struct

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Span


class Accelerated(Struct, frozen=True):
    """An `Accelerator`, as far as it is known where an event happens.

    `scales` says whether it scales losses (`mixed_precision="fp16"`; None: not known), `chosen` whether
    the script says so and does not leave it to `accelerate launch`. `accumulates` says whether it was
    told to gather several micro-batches (None: so many as are not known), `gathering` whether the event
    happens in an `accumulate()` of this pass through the loop. `text` is how it is spelled there.
    """

    ref: Ref
    scales: bool | None = None
    chosen: bool = False
    accumulates: bool | None = False
    gathering: bool = False
    text: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Accelerated) and self._known() == other._known()

    def __hash__(self) -> int:
        return hash(self._known())

    def _known(self) -> tuple[object, ...]:
        return self.ref, self.scales, self.chosen, self.accumulates


class Prepared(Event, frozen=True, kw_only=True):
    """`accelerator.prepare(...)` was given `raw` and returned `prepared` for it."""

    accelerator: Accelerated
    raw: Ref
    prepared: Ref


class AcceleratorBackward(Event, frozen=True, kw_only=True):
    """`accelerator.backward(loss)`.

    `scalers` are the script's own scalers that the loss had been multiplied by. `divided` is where it
    was divided by the number of micro-batches, as the accelerator does it as well, `inside` the autocast
    region that it runs in.
    """

    accelerator: Accelerated
    loss: Ref
    scalers: tuple[Ref, ...] = ()
    divided: Span | None = None
    inside: Region | None = None


class PlainBackward(Event, frozen=True, kw_only=True):
    """`loss.backward()` in a script that has prepared something.

    `models` are the prepared models that the loss is known to come from, `scalers` the script's own
    scalers that it was multiplied by, `divided` is where it was divided by the number of micro-batches.
    `accelerator` is None where there are several.
    """

    accelerator: Accelerated | None
    loss: Ref
    models: tuple[Ref, ...] = ()
    scalers: tuple[Ref, ...] = ()
    divided: Span | None = None


class PreparedStep(Event, frozen=True, kw_only=True):
    """`optimizer.step()` of a prepared optimizer; `models` own its parameters (None: not known)."""

    accelerator: Accelerated
    optimizer: Ref
    models: tuple[Ref, ...] | None = None


class AcceleratorUnscaled(Event, frozen=True, kw_only=True):
    """The accelerator unscaled the gradients of all its optimizers, if `whole`.

    `clip` is the method that did ("clip_grad_norm_"), "" for `unscale_gradients()`.
    """

    accelerator: Accelerated
    clip: str = ""
    whole: bool = True
