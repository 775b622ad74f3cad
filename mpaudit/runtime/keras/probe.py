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
    the other arrives, this follows that one as well. Where Keras 3 is on torch, the torch probe is
    told what Keras knows. With another backend nothing is watched, and the trace says so.
    """
    tracer.claims.claim("keras")
    there = [name for name in packages if name in sys.modules]
    if "keras" in there and (end := _on_torch(tracer, remedy)) is not None:
        return end
    families = list(_families(tracer, there))
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
            from mpaudit.runtime.keras.on_tensorflow import Keras3OnTensorFlow

            yield Keras3OnTensorFlow()
        else:
            told = (
                f"layers of Keras on {backend} are not watched, those on TensorFlow and torch are"
            )
            tracer.note("versions", {**(tracer.fact("versions") or {}), "keras": keras.__version__})
            tracer.failed("Keras", MpauditError(told))
    if "tf_keras" in packages:
        from mpaudit.runtime.keras.keras2 import Keras2

        yield Keras2()


def _on_torch(tracer: Tracer, remedy: Advice | None) -> Callable[[], None] | None:
    """What ends the watch of a Keras 3 on torch; None where it is on something else."""
    import keras

    if keras.backend.backend() != "torch":
        return None
    from mpaudit.runtime.torch.watch import Watch

    tracer.note("keras_backend", "torch")
    watch = Watch.of(tracer)
    if watch is None:
        raise RuntimeError("torch itself is not watched")
    from mpaudit.runtime.keras.on_torch.watch import follow

    return follow(watch, remedy)


def _nothing() -> None:
    """There is nothing to undo."""
