"""Which files to look at, and which of them can concern mpaudit at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpaudit.errors import MpauditError

SKIPPED = frozenset(
    [
        ".git",
        ".hg",
        ".svn",
        ".tox",
        ".nox",
        ".venv",
        "venv",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        "__pycache__",
        "node_modules",
        ".eggs",
        "build",
        "dist",
        "site-packages",
        "__pypackages__",
    ]
)
_RELEVANT = re.compile(
    rb"GradScaler|autocast|\bamp\b|unscale_|mixed_precision|mixed_float16|mixed_bfloat16|set_global_policy"
    rb"|set_dtype_policy|LossScaleOptimizer|GradientTape|from_logits|CrossEntropyLoss|cross_entropy"
    rb"|float16|\.half\(|torch\.half\b|fp32_precision|float32_matmul_precision"
)


def concerns(data: bytes) -> bool:
    """The gate: whether a file mentions anything that any rule looks at. No parse, no import."""
    return _RELEVANT.search(data) is not None


_TRAINS = re.compile(rb"\b(?:torch|tensorflow|keras)\b")
_MAX_IMPORTED = 2000


def importers(gated: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """The files among `others` that import a gated file, directly or through one another.

    Judged by module names in import lines, so a file too many may come along, which costs time only.
    """
    texts = {path: data for path in others if _TRAINS.search(data := _bytes(path))}
    found: list[Path] = []
    news = list(gated)
    while news and len(found) < _MAX_IMPORTED:
        names = {p.stem if p.stem != "__init__" else p.parent.name for p in news} - {"__main__"}
        wanted = re.compile(
            rb"^[ \t]*(?:from|import)\b[^#\n]*\b(?:"
            + b"|".join(re.escape(name.encode()) for name in sorted(names))
            + rb")\b",
            re.MULTILINE,
        )
        news = [path for path, data in texts.items() if wanted.search(data)]
        for path in news:
            del texts[path]
        found.extend(news)
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def files(paths: Sequence[Path]) -> list[Path]:
    """The Python files that `paths` name, each once, in order.

    Raises MpauditError for a path that does not exist or that holds no Python file.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = list(_walk(path))
            if not inside:
                raise MpauditError(f"{path}: there is no Python file in this folder")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise MpauditError(f"{path}: no such file or folder")
    return list(found)


def _walk(folder: Path) -> Iterator[Path]:
    for root, names, filenames in os.walk(folder):
        names[:] = sorted(name for name in names if name not in SKIPPED)
        for filename in sorted(filenames):
            if filename.endswith(".py"):
                yield Path(root, filename)
