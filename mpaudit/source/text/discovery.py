"""Which files to look at, and which of them can concern mpaudit at all."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from mpaudit.errors import MpauditError

SUFFIXES = (".py", ".ipynb")
_NAMES: tuple[tuple[bytes, tuple[bytes, ...]], ...] = (
    (
        b"16",
        (
            *(b"float16", b"16-mixed", b"PRECISION = 16"),
            *(b"precision=16", b"precision='16", b'precision="16'),
            *(b"precision='bf16", b'precision="bf16'),
            *(b'"precision": 16', b'"precision": "16', b'"precision": "bf16'),
            *(b"fp16=", b"fp16_", b"'fp16'", b'"fp16"'),
        ),
    ),
    (b"recision", (b"mixed_precision", b"fp32_precision", b"float32_matmul_precision")),
    (b"caler", (b"GradScaler", b"NativeScaler", b"scaler.step(", b"scaler.scale(")),
    (b"ntropy", (b"CrossEntropyLoss", b"cross_entropy", b"rossentropy")),
    (b"half", (b".half(", b"torch.half", b"half_precision_backend")),
    (b"_policy", (b"set_global_policy", b"set_dtype_policy")),
    (b"ccelerator", (b"Accelerator", b"accelerator.backward")),
    (
        b"",
        (
            *(b"autocast", b"unscale_", b"GradientTape", b"from_logits", b"LossScaleOptimizer"),
            *(b"BCEWithLogits", b"sigmoid_focal_loss", b"automatic_optimization"),
            *(b"on_after_backward", b"Fabric(", b"deepspeed"),
        ),
    ),
)
"""What a file mentions that concerns us, by a part that all of a row have in common, looked for first."""
_AMP = re.compile(
    rb"amp\b(?:(?<=\bamp)|(?<=\\[nrt]amp))"
)  # a word: the literal comes first, which is 10 times faster

_ACTIVATIONS = (b"softmax(", b"sigmoid(")
_LOGARITHM = re.compile(
    rb"\blog\([^\n]{0,60}(?:softmax|sigmoid)\(|(?:softmax|sigmoid)\([^\n]{0,60}\)\.log\("
)


def concerns(data: bytes) -> bool:
    """The gate: whether a file mentions anything that any rule looks at. No parse, no import.

    A notebook's bytes are JSON, where the letter before a word may be that of `\\n`.
    """
    for part, names in _NAMES:
        if part in data and any(name in data for name in names):
            return True
    if _AMP.search(data) is not None:
        return True
    if _also and any(word in data for word in _also):
        return True
    if b"log(" not in data or not any(name in data for name in _ACTIVATIONS):
        return False
    return _LOGARITHM.search(data) is not None


def silences(data: bytes) -> bool:
    """Whether a file may hold a comment that silences a rule: a quick look at its bytes."""
    return b"mpaudit" in data or (b"noqa" in data and any(each in data for each in _letters))


_also: list[bytes] = []
_letters: list[bytes] = [b"MP"]


def widen(words: Iterable[bytes], letters: Iterable[str]) -> None:
    """Let files concern what mentions these words, too; `letters` are what codes of rules start with."""
    _also[:] = words
    _letters[:] = [each.encode() for each in letters]


_DRIVES = (
    *(b".optimizers", b"caler", b".fit(", b".backward(", b"epoch"),
    *(b"set_global_policy", b"set_policy", b"set_dtype_policy"),
)
"""What a file mentions that drives a training: only there an import adds to what is known."""
_OPTIM = re.compile(rb"optim\b(?<=\boptim)")
_TRAINS = re.compile(rb"\btrain\w*\(")
"""How a program calls what trains: it may do nothing else but make the model."""
_IMPORT = re.compile(rb'(?:^[ \t]*"?|\\n[ \t]*)(?:from|import)\b([^#\n\\]*)', re.MULTILINE)
"""What an import names; its line may stand in the JSON of a notebook."""
_MAX_IMPORTED = 2000
PASSING = b"> "
"""Marks what is imported only to be imported from here."""


def imports(data: bytes, name: str) -> bytes | None:
    """What a file called `name` imports; None if it neither trains nor passes on what it imports.

    What only passes on begins with `PASSING`. Libraries, of which nobody looks for a file, are left out.
    """
    drives = any(word in data for word in _DRIVES) or _OPTIM.search(data)
    if drives or (b"__main__" in data and _TRAINS.search(data)):
        return _imported(data)
    return PASSING + _imported(data) if name == "__init__.py" else None


def _imported(data: bytes) -> bytes:
    from mpaudit.source.text.foreign import foreign  # the gate itself has to be light

    def is_library(line: bytes) -> bool:
        """Whether all that an import names are libraries: `torch.optim import SGD`, `os, sys`."""
        module, found, _ = line.partition(b" import ")
        names = [module] if found else line.split(b",")
        tops = (each.strip().partition(b".")[0].partition(b" ")[0] for each in names)
        return all(foreign(top.decode("ascii", "replace")) for top in tops)

    return b"\n".join(line for line in _IMPORT.findall(data) if not is_library(line))


def importers(
    gated: Sequence[Path], others: Sequence[Path], read: Callable[[Path], bytes | None]
) -> list[Path]:
    """The files among `others` that train and import a gated file, directly or through one another.

    `read` says what a file imports (`imports`). Judged by module names in import lines, so a file too
    many may come along, which costs time only.
    """
    gated = _scripts(gated)
    if not gated:
        return []
    texts: dict[Path, bytes] = {}
    passing: set[Path] = set()
    for path in others:
        text = read(path)
        if text is not None:
            texts[path] = text
            if text.startswith(PASSING):
                passing.add(path)
    found: list[Path] = []
    news = list(gated)
    while news and len(found) < _MAX_IMPORTED:
        names = {p.stem if p.stem != "__init__" else p.parent.name for p in news} - {"__main__"}
        if not names:
            break
        wanted = re.compile(
            rb"\b(?:" + b"|".join(re.escape(os.fsencode(name)) for name in sorted(names)) + rb")\b"
        )
        news = [path for path, data in texts.items() if wanted.search(data)]
        for path in news:
            del texts[path]
        found.extend(path for path in news if path not in passing)
        news = _scripts(news)
    return found


def _scripts(paths: Iterable[Path]) -> list[Path]:
    """Those that can be imported: a notebook cannot, nor a configuration."""
    return [path for path in paths if path.suffix == ".py"]


class LeftOut(Protocol):
    """Says whether the absolute path of a file, or of a `folder`, is not to be looked at."""

    def __call__(self, path: str, *, folder: bool) -> bool:
        """Whether it is left out."""
        ...

    def forced(self, path: Path) -> bool:
        """Whether it is left out even if it is named."""
        ...


def files(paths: Sequence[Path], left_out: LeftOut) -> list[Path]:
    """The Python files and notebooks that `paths` name, each once, in order; some are `left_out`.

    Raises MpauditError for a path that does not exist, or a folder that holds no such file at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise MpauditError(f"{path}: no such file or folder")
        if left_out.forced(path):
            continue
        if path.is_dir():
            skipped: list[str] = []
            inside = list(_walk(path, left_out, skipped))
            if not inside and not skipped:
                raise MpauditError(f"{path}: there is no Python file or notebook in this folder")
            found.update(dict.fromkeys(inside))
        else:
            found[path] = None
    return list(found)


def _fills_in(name: str) -> bool:
    """Whether a file or folder is a template: its name, as its text, is filled in when it is copied."""
    return "{{" in name and "}}" in name


def _walk(folder: Path, left_out: LeftOut, skipped: list[str]) -> Iterator[Path]:
    """The files in a folder; what is left out goes to `skipped`."""
    from mpaudit.source.text.config_file import is_config_name  # the gate itself has to be light

    top = str(folder)
    absolute = os.path.abspath(top)  # noqa: PTH100 - as text, for it is asked for every file
    closed: list[Path] = []  # folders that cannot be read, which is to be said

    def note(problem: OSError) -> None:
        closed.append(Path(problem.filename))

    for root, names, filenames in os.walk(top, onerror=note):
        here = absolute + root[len(top) :]
        kept: list[str] = []
        for name in sorted(names):
            out = _fills_in(name) or left_out(f"{here}/{name}", folder=True)
            (skipped if out else kept).append(name)
        names[:] = kept
        for filename in sorted(filenames):
            if filename.startswith(".#"):  # the lock of an editor, a link to nothing
                continue
            if filename.endswith(SUFFIXES) or is_config_name(filename):
                if _fills_in(filename) or left_out(f"{here}/{filename}", folder=False):
                    skipped.append(filename)
                else:
                    yield Path(root, filename)
    yield from closed
