"""Which files to look at, and which of them can concern mpaudit at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpaudit.errors import MpauditError

SKIPPED = frozenset(
    ".git .hg .svn .tox .nox .venv venv .mypy_cache .pytest_cache .ruff_cache __pycache__ node_modules"
    " .eggs build dist site-packages __pypackages__".split()
)
_RELEVANT = re.compile(
    rb"GradScaler|autocast|\bamp\b|unscale_|mixed_precision|mixed_float16|mixed_bfloat16|set_global_policy"
    rb"|set_dtype_policy|LossScaleOptimizer|GradientTape|from_logits|CrossEntropyLoss|cross_entropy"
)


def concerns(data: bytes) -> bool:
    """The gate: whether a file mentions anything that any rule looks at. No parse, no import."""
    return _RELEVANT.search(data) is not None


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
