"""Training steps that a library owns: Lightning and Fabric scale, unscale and step themselves."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref, Region
from mpaudit.finding import Related


class OwnedBackward(Event, frozen=True, kw_only=True):
    """`self.manual_backward(loss)`, `fabric.backward(loss)`.

    `owner` is the LightningModule or the Fabric; `scaled` says whether its gradients carry a
    loss scale from here on (None: not known), `because` where that was chosen; `inside` is the autocast
    region that the script runs it in.
    """

    owner: Ref
    scaled: bool | None
    because: tuple[Related, ...] = ()
    inside: Region | None = None


class RawBackward(Event, frozen=True, kw_only=True):
    """`loss.backward()` where libraries are in view that want to run it themselves.

    `owners` are they, each spelled as it can be reached there ("" where it cannot).
    """

    loss: Ref
    owners: tuple[Ref, ...]


class OwnedUnscaled(Event, frozen=True, kw_only=True):
    """The library divides the gradients by its scale, whoever asked for it."""

    owner: Ref


class OwnedStep(Event, frozen=True, kw_only=True):
    """The optimizer steps through the library `library` ("Lightning", "Fabric").

    `required` says that gradients of a plain `loss.backward()` are refused or come out wrong (None: not
    known), `because` where the precision was chosen.
    """

    owner: Ref
    optimizer: Ref
    library: str
    required: bool | None
    because: tuple[Related, ...] = ()


class OwnedClip(Event, frozen=True, kw_only=True):
    """Gradients are clipped by the library's own function, which leaves the scale to the caller."""

    owner: Ref
    how: str
