"""Keras, watched from inside: installed right after the script imported it, before it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mpaudit.errors import MpauditError
from mpaudit.runtime.advice import Advice
from mpaudit.runtime.rehearsal import Plan
from mpaudit.runtime.tracer import Tracer


def install(
    tracer: Tracer, rehearsal: Plan | None = None, remedy: Advice | None = None
) -> Callable[[], None]:
    """Watch Keras for `tracer`; the function that comes back hands over the rest and undoes all.

    A `rehearsal` that is a trial ends the process after its steps; a `remedy` is put into effect.

    Keras 3 on TensorFlow is watched. With another backend, or with Keras 2 (tf_keras), nothing is,
    and the trace says so.
    """
    if "keras" not in sys.modules:
        tracer.failed("Keras", MpauditError("Keras 2 (tf_keras) is not watched, Keras 3 is"))
        return _nothing
    if tracer.fact("framework") == "keras":  # tf_keras arrived as well
        return _nothing
    import keras

    tracer.note("framework", "keras")
    backend = keras.backend.backend()
    tracer.note("versions", {**(tracer.fact("versions") or {}), "keras": keras.__version__})
    tracer.note("keras_backend", backend)
    if backend != "tensorflow":
        theirs = "; what its steps do is seen by the probe of torch" if backend == "torch" else ""
        told = f"layers of Keras on {backend} are not watched, those on TensorFlow are{theirs}"
        tracer.failed("Keras", MpauditError(told))
        return _nothing
    from mpaudit.runtime.keras.watch import watch

    return watch(tracer, rehearsal, remedy)


def _nothing() -> None:
    """There is nothing to undo."""
