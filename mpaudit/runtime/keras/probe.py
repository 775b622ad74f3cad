"""Keras, watched from inside: installed right after the script imported it, before it is used."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mpaudit.errors import MpauditError
from mpaudit.runtime.tracer import Tracer


def install(tracer: Tracer) -> Callable[[], None]:
    """Watch Keras for `tracer`; the function that comes back hands over the rest and undoes all.

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
        return _nothing
    from mpaudit.runtime.keras.watch import watch

    return watch(tracer)


def _nothing() -> None:
    """There is nothing to undo."""
