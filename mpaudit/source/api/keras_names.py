"""The names Keras goes by."""

from __future__ import annotations

ROOTS = (
    "keras",
    "tensorflow.keras",
    "tf_keras",
    "tensorflow.python.keras",
    "tensorflow.compat.v1.keras",
    "tensorflow.compat.v2.keras",
    "tensorflow_core.keras",
)
LEGACY = ("tf_keras.", "tensorflow.python.keras.", "tensorflow.compat.v1.keras.")
"""Where Keras 2 is meant for certain."""


def everywhere(*names: str) -> tuple[str, ...]:
    """`names` below every root that Keras goes by."""
    return tuple(f"{root}.{name}" for root in ROOTS for name in names)


def last(name: str) -> str:
    """The last part of a dotted name."""
    return name.rpartition(".")[2]
