"""The catalogue: one Markdown page per rule under `rules/`, read when it is needed.

A page is data and carries what the tool knows of a rule: an H1 `# rule-name (MPnnn)`, a fenced `toml`
block, prose, a `## Bad` and a `## Good` example. A run that finds nothing reads no page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from importlib.abc import Traversable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from mpaudit.errors import MpauditError

URL = "https://mpaudit.readthedocs.io/rules/{name}/"
OURS = "MP"
"""What the codes of mpaudit's own rules start with; those of plugins start with something else."""
_TITLE = re.compile(r"\A# (?P<name>[a-z0-9-]+) \((?P<code>[A-Z]+\d+)\)\n")
_CODE = re.compile(r"MP\d{3}")
_OTHER_CODE = re.compile(r"(?!MP\d)[A-Z]{2,12}\d{1,5}")
_AT = re.compile(r" \(at line (\d+)[^)]*\)")
_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (?P<title>.+)$", re.MULTILINE)
_MARK = re.compile(r"[ \t]*# error\b.*$", re.MULTILINE)


class Severity(Enum):
    """ERROR crashes or trains wrongly in silence, WARNING likely harms, ADVICE is off unless selected."""

    ERROR = "error"
    WARNING = "warning"
    ADVICE = "advice"


class Rule(Struct, frozen=True):
    """One rule, as its page states it.

    `seen_by` is a subset of {"source", "run"}; `fix` one of "none", "safe", "unsafe", "suggestion";
    `messages` are the exact error texts that this rule explains. `plugin` is the module that brings it,
    empty for a rule of mpaudit; `link` is where a plugin's page can be read, if anywhere.
    """

    code: str
    name: str
    summary: str
    severity: Severity
    seen_by: tuple[str, ...]
    fix: str
    frameworks: tuple[str, ...]
    since: str
    preview: bool
    messages: tuple[str, ...]
    page: str
    plugin: str = ""
    link: str = ""

    @property
    def url(self) -> str:
        """The rule's page on the documentation site; empty for a plugin's that is nowhere."""
        return self.link if self.plugin else URL.format(name=self.name)

    @property
    def prefix(self) -> str:
        """The letters that its code starts with."""
        return self.code.rstrip("0123456789")

    @property
    def default(self) -> bool:
        """Whether the rule is on when nothing is selected."""
        return self.severity is not Severity.ADVICE and not self.preview

    @property
    def prose(self) -> str:
        """What the page says between its toml block and its first section."""
        rest = self.page.split("```toml", 1)[1].split("```", 1)[1]
        return _SECTION.split(rest, maxsplit=1)[0].strip()

    def section(self, title: str) -> str | None:
        """The text under `## title`, None where the page has no such section."""
        parts = _SECTION.split(self.page)
        return dict(zip(parts[1::2], parts[2::2], strict=True)).get(title)

    def example(self, title: str, *, marked: bool = False) -> str | None:
        """The code of `## Bad` or `## Good`; the `# error` marks are taken off unless `marked`."""
        text = self.section(title)
        match = _FENCE.search(text) if text else None
        if match is None:
            return None
        return match["body"] if marked else _MARK.sub("", match["body"])


def pages() -> Traversable:
    """The rule pages: inside the package once installed, beside it in a checkout."""
    here = Path(__file__).parent
    found = next(
        (each / "rules" for each in (here, here.parent) if (each / "rules").is_dir()), None
    )
    if found is not None:
        return found
    from importlib.resources import files  # in a zip file

    return files("mpaudit") / "rules"


_learned: dict[str, Rule] = {}
"""The rules of plugins, by name."""


def learn(rules: Iterable[Rule]) -> None:
    """Take these for the rules of plugins, and no others."""
    _learned.clear()
    _learned.update((each.name, each) for each in rules)


def prefixes() -> frozenset[str]:
    """The letters that codes start with."""
    return frozenset([OURS, *(each.prefix for each in _learned.values())])


def rule(name: str) -> Rule:
    """The rule called `name` (kebab-case). Raises MpauditError for a name that has no page."""
    return _learned.get(name) or _own(name)


def address(name: str) -> str:
    """Where the page of a rule can be read, without reading it; empty if nowhere."""
    return _learned[name].url if name in _learned else URL.format(name=name)


def catalogue() -> Mapping[str, Rule]:
    """Every rule that has a page, by name, in the order of the codes, those of plugins last."""
    return {**_all_own(), **_learned} if _learned else _all_own()


@cache
def _own(name: str) -> Rule:
    page = pages() / f"{name}.md"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as problem:
        raise MpauditError(f"there is no rule called {name!r}; see `mpaudit rules`") from problem
    return parse(text, origin=f"{name}.md")


@cache
def _all_own() -> Mapping[str, Rule]:
    names = [
        page.name.removesuffix(".md") for page in pages().iterdir() if page.name.endswith(".md")
    ]
    return {found.name: found for found in sorted(map(_own, names), key=lambda each: each.code)}


def find(word: str) -> Rule | None:
    """The rule with this code or name in any case, None if there is none."""
    lowered = word.strip().lower()
    return next((r for r in catalogue().values() if lowered in (r.code.lower(), r.name)), None)


def parse(text: str, *, origin: str, plugin: str = "") -> Rule:
    """Read a rule page; that of a `plugin` may leave out what most pages of plugins have in common.

    Raises ValueError, naming `origin`, where the page breaks the form.
    """
    title = _TITLE.match(text)
    fence = _FENCE.search(text)
    if title is None or fence is None or fence["language"] != "toml":
        example = "ACME001" if plugin else "MPnnn"
        raise ValueError(f"{origin}: a page starts with '# rule-name ({example})' and a toml block")
    if not (_OTHER_CODE if plugin else _CODE).fullmatch(title["code"]):
        form = "two letters or more, not MP, and digits, as ACME001" if plugin else "MPnnn"
        raise ValueError(f"{origin}:1: the code {title['code']} has not the form: {form}")
    try:
        data: dict[str, Any] = tomllib.loads(fence["body"])
    except ValueError as problem:
        at = _AT.search(str(problem))
        row = text.count("\n", 0, fence.start("body")) + (int(at[1]) if at else 1)
        reason = str(problem).split(" (at ")[0]
        raise ValueError(f"{origin}:{row}: the toml block is no TOML: {reason}") from None
    defaults = {"seen-by": ["source"], "fix": "none", "frameworks": [], "since": ""}
    data = {**(defaults if plugin else {}), **data}
    known = {"summary", "severity", "seen-by", "fix", "frameworks", "since", "preview", "messages"}
    if unknown := sorted(data.keys() - known - ({"url"} if plugin else set())):
        raise ValueError(f"{origin}: unknown key {unknown[0]!r} in the toml block")
    try:
        return Rule(
            code=title["code"],
            name=title["name"],
            summary=data["summary"],
            severity=_severity(data["severity"], origin),
            seen_by=tuple(data["seen-by"]),
            fix=data["fix"],
            frameworks=tuple(data["frameworks"]),
            since=data["since"],
            preview=data.get("preview", False),
            messages=tuple(data.get("messages", ())),
            page=text,
            plugin=plugin,
            link=data.get("url", ""),
        )
    except KeyError as missing:
        raise ValueError(f"{origin}: the toml block lacks {missing.args[0]!r}") from missing


def _severity(word: object, origin: str) -> Severity:
    wanted = [each.value for each in Severity]
    if word not in wanted:
        raise ValueError(f"{origin}: the severity {word!r} is none of {', '.join(wanted)}")
    return Severity(word)
