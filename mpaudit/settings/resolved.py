"""Layers of settings merged: what holds for the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from mpaudit.config import Selection, Target, fit
from mpaudit.default import EXCLUDED
from mpaudit.finding import Finding
from mpaudit.fix import Safety
from mpaudit.rule import Rule, Severity, rule
from mpaudit.settings.pattern import Patterns, patterns
from mpaudit.settings.reading import Layer

_ALL = Selection(("ALL",), preview=True)
_NONE = Selection(ignore=("ALL",), preview=True)


class _PerFile(Struct, frozen=True):
    """Rules that are off in the files that a pattern fits, or, `inverted`, in all others."""

    pattern: str
    files: Patterns
    rules: tuple[str, ...]
    inverted: bool


class Settings(Struct, frozen=True):
    """What holds for some files.

    `fixable` selects the rules whose fixes are offered; `safe` and `unsafe` are rules whose fixes
    count as such; `plugins` are those whose rules there are; `options` are the values of keys that are
    no lists of rules. `origin` is the file they come from, `folder` where it stands.
    """

    selection: Selection = field(default_factory=Selection)
    target: Target = field(default_factory=Target)
    per_file: tuple[_PerFile, ...] = ()
    fixable: Selection | None = None
    severity: Mapping[str, Severity] = field(default_factory=dict)
    safe: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    excluded: tuple[Patterns, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path.cwd)
    origin: Path | None = None

    def has(self, page: Rule) -> bool:
        """Whether a rule is one of those that there are for these files."""
        return not page.plugin or page.plugin in self.plugins

    def of(self, path: str) -> Selection:
        """The rules that are on in a file, given by its absolute path with forward slashes."""
        if not self.per_file:
            return self.selection
        words = (
            each.rules for each in self.per_file if each.files.match(path) is not each.inverted
        )
        off = tuple(dict.fromkeys(word for rules in words for word in rules))
        preview = self.selection.preview
        return (
            Selection(ignore=off, below=self.selection, preview=preview) if off else self.selection
        )

    def ignored_in(self) -> list[tuple[str, tuple[str, ...]]]:
        """The patterns of files with the rules that are off in them."""
        return [(f"{'!' * each.inverted}{each.pattern}", each.rules) for each in self.per_file]

    def stamped(self, finding: Finding) -> Finding:
        """A finding with the severity, and the fix, that are asked for."""
        page = rule(finding.name)
        if self.severity and (best := max(self.severity, key=lambda word: fit(word, page))):
            if fit(best, page):
                finding = replace(finding, severity=self.severity[best])
        fix = finding.fix
        if fix is None:
            return finding
        if self.fixable is not None and not self.fixable.includes(page):
            return replace(finding, fix=None)
        safe, unsafe = (
            max((fit(w, page) for w in each), default=0) for each in (self.safe, self.unsafe)
        )
        if fix.safety is Safety.UNSAFE and safe > unsafe:
            return replace(finding, fix=replace(fix, safety=Safety.SAFE))
        if fix.safety is Safety.SAFE and unsafe and unsafe >= safe:
            return replace(finding, fix=replace(fix, safety=Safety.UNSAFE))
        return finding


def resolve(layers: Sequence[Layer], folder: Path, origin: Path | None = None) -> Settings:
    """The settings that layers make, the lowest first; `folder` is where default patterns count from."""
    values = {key: value for layer in layers for key, value in layer.values.items()}
    for layer in layers:
        for key in _PATHS & layer.values.keys():
            path = Path(layer.values[key]).expanduser()
            values[key] = str(layer.folder / path) if layer.values[key] else ""
    preview = bool(values.get("preview"))
    return Settings(
        selection=_selection(layers, preview),
        target=Target(values.get("target-keras"), values.get("target-torch")),
        per_file=_per_file(layers),
        fixable=_fixable(layers),
        severity={w: s for layer in layers for w, s in layer.values.get("severity", {}).items()},
        safe=_added(layers, "extend-safe-fixes"),
        unsafe=_added(layers, "extend-unsafe-fixes"),
        plugins=tuple(values.get("plugins", ())),
        excluded=_excluded((Layer({"exclude": EXCLUDED}, folder), *layers)),
        options={key: value for key, value in values.items() if key in _OPTIONS},
        folder=folder,
        origin=origin,
    )


_PATHS = {"baseline", "cache-dir"}
"""Keys whose value is a path that counts from where it is written."""
_OPTIONS = frozenset(
    [
        *("force-exclude", "respect-gitignore", "output-format", "fix", "unsafe-fixes", "fix-only"),
        *("show-fixes", "preview", "baseline", "cache-dir"),
    ]
)
"""Keys whose value is taken as it stands, from the uppermost layer."""


def _selection(layers: Sequence[Layer], preview: bool) -> Selection:
    found = Selection(preview=preview)
    for layer in layers:
        words = _words(layer, "select"), _words(layer, "ignore"), _words(layer, "extend-select")
        more = _words(layer, "extend-ignore")
        if any(words) or more or "select" in layer.values:
            select, ignore, extend = words
            if layer.values.get("select") == ():  # nothing, as opposed to nothing said
                found = _NONE
            found = Selection(select, (*ignore, *more), extend, found, preview)
    return found


def _fixable(layers: Sequence[Layer]) -> Selection | None:
    found: Selection | None = None
    for layer in layers:
        names = ("fixable", "unfixable", "extend-fixable")
        if any(name in layer.values for name in names):
            below = found or _ALL
            if layer.values.get("fixable") == ():  # nothing, as opposed to nothing said
                below = _NONE
            select, ignore, extend = (_words(layer, name) for name in names)
            found = Selection(select, ignore, extend, below, preview=True)
    return found


def _per_file(layers: Sequence[Layer]) -> tuple[_PerFile, ...]:
    found: list[_PerFile] = []
    for layer in layers:
        if "per-file-ignores" in layer.values:
            found.clear()
        for key in ("per-file-ignores", "extend-per-file-ignores"):
            for pattern, words in layer.values.get(key, {}).items():
                inverted = pattern.startswith("!")
                plain = pattern.removeprefix("!")
                fits = patterns([plain], layer.folder)
                found.append(_PerFile(plain, fits, words, inverted))
    return tuple(found)


def _excluded(layers: Sequence[Layer]) -> tuple[Patterns, ...]:
    found: list[Patterns] = []
    own: list[Patterns] = []
    for layer in layers:
        if "exclude" in layer.values:
            own = [patterns(layer.values["exclude"], layer.folder)]
        if "extend-exclude" in layer.values:
            found.append(patterns(layer.values["extend-exclude"], layer.folder))
    return (*own, *found)


def _added(layers: Sequence[Layer], key: str) -> tuple[str, ...]:
    return tuple(word for layer in layers for word in _words(layer, key))


def _words(layer: Layer, key: str) -> tuple[str, ...]:
    found: tuple[str, ...] = layer.values.get(key, ())
    return found
