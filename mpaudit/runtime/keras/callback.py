"""Watching one `fit` of a model from within it, as a callback of Keras."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import keras

from mpaudit.runtime import block, launch
from mpaudit.runtime.tracer import Tracer


class Callback(keras.callbacks.Callback):  # type: ignore[misc]
    """Watches each `fit` that it is given to, and writes a trace: `mpaudit.trace` around it.

        model.fit(x, y, callbacks=[mpaudit.keras.Callback("fit.mpa")])

    `output` is the file, `mpaudit-SCRIPT.PID.mpa` in this folder if left out; `path` is where the last
    trace lies. Policies and layers that were made before are seen when they are called. The train
    function of the model is made anew at the start and at the end: a graph that is watched is another
    one. Where the process is watched already (`mpaudit run`), nothing more is done, and said.

    Raises MpauditError at the start of `fit` where the file cannot be written.
    """

    _open: ClassVar[Callback | None] = None
    _supports_tf_logs = True  # asked by Keras 2, as is what begins with _implements below

    def __init__(self, output: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.path: Path | None = None
        self._output = None if output is None else Path(output)
        self._watching = ExitStack()

    def on_train_begin(self, _: Any = None) -> None:
        """Begin to watch; a `fit` that ended by an exception is over by then."""
        if Callback._open is not None:
            Callback._open.close()
        if (running := Tracer.running()) is not None:
            launch.note(f"Callback: this run is watched already, and writes {running.path}")
            return
        self.path = self._watching.enter_context(block.trace(self._output, None))
        Callback._open = self
        self.model.make_train_function(force=True)

    def on_train_end(self, _: Any = None) -> None:
        """End to watch."""
        if Callback._open is self:
            self.close()

    def _implements_no_batch_hook(self) -> bool:
        return False

    _implements_train_batch_hooks = _implements_no_batch_hook
    _implements_test_batch_hooks = _implements_no_batch_hook
    _implements_predict_batch_hooks = _implements_no_batch_hook

    def close(self) -> None:
        """End to watch, also where `fit` itself did not come to its end."""
        Callback._open = None
        self._watching.close()
        self.model.train_function = None  # the next `fit` makes one that is not watched
