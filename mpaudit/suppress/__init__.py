"""Findings that the code's author has silenced, by comments that name the rules.

    scaler.step(optimizer)  # mpaudit: ignore[missing-scaler-update] the caller updates
    scaler.step(optimizer)  # noqa: MP104
    # mpaudit: disable[MP104]  ...  # mpaudit: enable[MP104]
    # mpaudit: file-ignore[MP104]

Only comments count: a string that holds the same text silences nothing. A `noqa` without codes is
other tools' and silences nothing here.
"""

from mpaudit.suppress.add import added
from mpaudit.suppress.reading import Suppression, Suppressions, read
from mpaudit.suppress.unused import Used, unused

__all__ = [
    "Suppression",
    "Suppressions",
    "Used",
    "added",
    "read",
    "unused",
]
