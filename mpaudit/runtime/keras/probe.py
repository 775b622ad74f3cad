"""Keras, watched from inside: installed right after the script imported it, before it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mpaudit.errors import MpauditError
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.tracer import Tracer

if TYPE_CHECKING:
    from mpaudit.runtime.keras.family import Family


PACKAGES = ("keras", "tf_keras")


def install(
    tracer: Tracer,
    rehearsal: Plan | None = None,
    remedy: Advice | None = None,
    packages: Sequence[str] = PACKAGES,
) -> Callable[[], None]:
    """Watch Keras for `tracer`; the function that comes back hands over the rest and undoes all.

    A `rehearsal` that is a trial ends the process after its steps; a `remedy` is put into effect.

    Keras 3 on TensorFlow is watched, and Keras 2 (tf_keras): those of `packages` that are imported.
    TensorFlow imports one of them by itself, so that a script may well have both: called again when
    the other arrives, this follows that one as well. With another backend of Keras 3 nothing is
    watched, and the trace says so.
    """
    tracer.note("framework", "keras")
    families = list(_families(tracer, [name for name in packages if name in sys.modules]))
    if not families:
        return _nothing
    from mpaudit.runtime.keras.watch import Watch

    running = Watch.of(tracer)
    watch = running or Watch(tracer, rehearsal, remedy)
    for family in families:
        watch.follow(family)
    return _nothing if running else watch.end


def _families(tracer: Tracer, packages: Sequence[str]) -> Iterator[Family]:
    """What can be watched of them."""
    if "keras" in packages:
        import keras

        backend = keras.backend.backend()
        tracer.note("keras_backend", backend)
        if backend == "tensorflow":
            from mpaudit.runtime.keras.keras3 import Keras3

            yield Keras3()
        else:
            theirs = "; what its steps do is seen by the probe of torch"
            told = f"layers of Keras on {backend} are not watched, those on TensorFlow are"
            told += theirs if backend == "torch" else ""
            tracer.note("versions", {**(tracer.fact("versions") or {}), "keras": keras.__version__})
            tracer.failed("Keras", MpauditError(told))
    if "tf_keras" in packages:
        from mpaudit.runtime.keras.keras2 import Keras2

        yield Keras2()


def _nothing() -> None:
    """There is nothing to undo."""
