"""For a line in a script of Keras: `model.fit(..., callbacks=[mpaudit.keras.Callback()])`.

Importing this module never imports Keras; to name `Callback` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpaudit.runtime.keras.callback import Callback

__all__ = ["Callback"]


def __getattr__(name: str) -> Any:
    if name == "Callback":
        from mpaudit.runtime.keras.callback import Callback

        return Callback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
