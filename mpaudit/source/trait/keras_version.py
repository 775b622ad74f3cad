"""Which Keras is meant: 2 or 3, of which custom training loops need the opposite of each other."""

from __future__ import annotations

import re
from pathlib import Path

from mpaudit.source.text.memo import for_a_while
from mpaudit.source.text.module import Module
from mpaudit.source.text.requirement import KERAS, TENSORFLOW, Allowed, allowed

LEGACY = (
    "tf_keras.",
    "tensorflow.python.keras.",
    "tensorflow.compat.v1.keras.",
    "tensorflow_addons.",
)
"""Where Keras 2 is meant for certain."""
OLD_PARTS = (".experimental.", ".optimizers.legacy.")
"""Parts of names that only Keras 2 has."""

_THREE = {TENSORFLOW: (2, 16), KERAS: (3, 0)}
"""The first versions that bring Keras 3 along."""
_UNKNOWN = {TENSORFLOW: (3, 0), KERAS: (4, 0)}
"""The first versions of which nobody can know yet which Keras they bring."""
_SWITCHED = re.compile(r"TF_USE_LEGACY_KERAS\W+(?P<value>\w+)")
_COMPARED = re.compile(
    r"__version__\s*(?:[<>]|[=!]=)|__version__\.(?:split|startswith)|\bkeras_?3\b"
    r"|(?:version|parse)\(\s*(?:tf|keras|tensorflow)\.__version__",
    re.IGNORECASE,
)
_NEW = re.compile(
    r"\bkeras\.(?:ops|config|random|tree|distribution)\b|from keras import [^\n]*\bops\b|KERAS_BACKEND"
    r"|\bset_dtype_policy\b|\boptimizers\.LossScaleOptimizer\b"
)
"""What only Keras 3 has."""
_ON, _OFF = ("1", "true"), ("0", "false")


def generation(name: str, module: Module) -> int | None:
    """2 or 3 for what `module` calls by the full dotted `name`; None if that cannot be known.

    `tf_keras` is Keras 2. For `keras` and `tf.keras` the command line decides, then the requirements of
    the project, then what the file uses that only Keras 3 has. A file that compares versions is for
    both.
    """
    if name.startswith(LEGACY) or any(part in name for part in OLD_PARTS):
        return 2
    return _of_module(module, name.startswith("keras."))


@for_a_while(4096)
def _of_module(module: Module, standalone: bool) -> int | None:
    if module.target.keras is not None:
        return module.target.keras
    if _COMPARED.search(module.text):
        return None
    if not standalone and (switch := _SWITCHED.search(module.text)):
        value = switch["value"].lower()
        if value not in _OFF:
            return 2 if value in _ON else None
    stated = [
        (allowed(Path(module.filename), names), names)
        for names in ((KERAS, TENSORFLOW) if standalone else (TENSORFLOW, KERAS))
    ]
    known = [found for bounds, names in stated if (found := _within(bounds, names))]
    if known:
        return known[0]
    unbound = all(bounds == Allowed() for bounds, _ in stated)
    return 3 if unbound and _NEW.search(module.text) else None


def _within(stated: Allowed, names: tuple[str, ...]) -> int | None:
    """2 or 3 where all versions that are allowed are of one kind; None where none is, or they are new."""
    three, floor, ceiling = _THREE[names], stated.floor, stated.ceiling
    if floor is not None and (
        floor >= _UNKNOWN[names] or (ceiling is not None and ceiling < floor)
    ):
        return None
    if floor is not None and floor >= three:
        return 3
    return 2 if ceiling is not None and ceiling < three else None
