"""Writing a file so that it is either the old one or the new one, never a part of either."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mpaudit.errors import MpauditError

if TYPE_CHECKING:
    from mpaudit.source.text.parsing import Encoding


def write_atomically(path: Path, text: str, encoding: Encoding) -> None:
    """Replace what `path` holds by `text`, newlines as they are in it; the mode bits stay.

    A link is followed: its target is replaced, the link stays. Raises MpauditError, with the file
    unchanged, where it cannot be written or `text` does not fit `encoding`.
    """
    try:
        data = encoding.encode(text)
    except UnicodeError as problem:
        start = getattr(problem, "start", None)
        missing = "place for it" if start is None else repr(text[start])
        raise MpauditError(
            f"cannot write the repaired {path}: its encoding {encoding.name} has no {missing}; "
            "the file is unchanged"
        ) from problem
    replace_bytes(path, data)


def replace_bytes(path: Path, data: bytes) -> None:
    """The same for a content that is bytes already."""
    target = path.resolve()
    try:
        if not os.access(target, os.W_OK):  # a rename would replace a read-only file all the same
            raise PermissionError(13, "it is read-only")
        _replace(target, data, target.stat().st_mode)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise MpauditError(
            f"cannot write the repaired {path}: {reason}; the file is unchanged"
        ) from problem


def put(path: Path, text: str) -> None:
    """Write a text to a file, there already or not, as UTF-8; to a pipe or a device as it comes.

    Raises OSError, with the file as it was.
    """
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        return
    target = path.resolve()
    mode = target.stat().st_mode if target.exists() else 0o666 & ~_mask()
    _replace(target, text.encode("utf-8", "backslashreplace"), mode)


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(target: Path, data: bytes, mode: int) -> None:
    import tempfile

    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".mpaudit", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode & 0o7777)
        Path(name).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
