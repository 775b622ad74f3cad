"""The sources of the documentation site, from README, docs/, rules/ and what the catalogue says of them.

`python docs/pages.py FOLDER` writes them to FOLDER/docs, and FOLDER/mkdocs.yml beside them; `make docs`
builds the site of that.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mpaudit.render.rules import seen
from mpaudit.rule import Rule, catalogue

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\((?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")
_FENCED = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)
_TOML = re.compile(r"^```toml\n.*?^```\n", re.MULTILINE | re.DOTALL)
_FAMILY = re.compile(r"^\| (MP\d)xx \| (.+) \|$", re.MULTILINE)
_PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "mpaudit.schema.json": "mpaudit.schema.json",
    "rules": "rules/index.md",
}
"""Where on the site a file of the repository is; those of docs/ lie at its root, rules/ is as it is."""
_FILTER = """\
<input type="search" id="rule-filter" class="md-input" placeholder="Filter: scaler, MP5, unsafe, keras..."
  aria-label="Filter the rules"> <span id="rule-count"></span>
"""


def write(folder: Path) -> None:
    """Write all pages, and the configuration that says in which order they come."""
    pages = folder / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    (pages / "rules").mkdir(parents=True)
    for source in (*_PLACES, *sorted(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md"))):
        path = ROOT / source
        if path.suffix == ".md":
            _put(pages / str(place(source)), linked(path.read_text(encoding="utf-8"), source))
        elif path.is_file():
            shutil.copyfile(path, pages / str(place(source)))
    rules = list(catalogue().values())
    for rule in rules:
        _put(pages / "rules" / f"{rule.name}.md", linked(page(rule), f"rules/{rule.name}.md"))
    _put(pages / "rules/index.md", table(rules))
    shutil.copyfile(ROOT / "docs/filter.js", pages / "filter.js")
    _put(folder / "mkdocs.yml", settings(folder, rules))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def place(source: str) -> str | None:
    """Where on the site a path of the repository is, None if it is not."""
    if source in _PLACES:
        return _PLACES[source]
    head, _, name = source.rpartition("/")
    if head in ("docs", "rules") and name.endswith(".md"):
        return name if head == "docs" else source
    return None


def linked(text: str, source: str) -> str:
    """A page with its links as they are on the site; what is not there is no link."""
    here = place(source)
    assert here is not None

    def link(match: re.Match[str]) -> str:
        words, target, anchor = match.groups()
        found = place(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if found is None:
            return words if "`" in words else f"`{words}`"
        return (
            f"[{words}]({posixpath.relpath(found, posixpath.dirname(here) or '.')}{anchor or ''})"
        )

    parts: list[str] = []
    end = 0
    for fence in _FENCED.finditer(text):
        parts += [_LINK.sub(link, text[end : fence.start()]), fence.group()]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, text[end:])])


def page(rule: Rule) -> str:
    """The page of a rule, with a table in place of its toml block."""
    facts = {
        "what": rule.summary,
        "severity": rule.severity.value + ("" if rule.default else ", off unless selected"),
        "seen in": {"both": "the source and a run", "run": "a run"}.get(seen(rule), "the source"),
        "fix": rule.fix,
        "frameworks": ", ".join(rule.frameworks),
        "since": rule.since + (", in preview" if rule.preview else ""),
        "explains": "<br>".join(f"`{_cell(each)}`" for each in rule.messages),
    }
    first, *rows = [f"| {name} | {_cell(said)} |" for name, said in facts.items() if said]
    head = "\n".join([first, "|---|---|", *rows]) + "\n"
    return _TOML.sub(lambda _: head, rule.page, count=1)


def table(rules: list[Rule]) -> str:
    """All rules in one table, with a field that filters it."""
    rows = [
        f"| {each.code} | [{each.name}]({each.name}.md) | {_cell(each.summary)} | {each.severity.value} "
        f"| {seen(each)} | {each.fix} | {', '.join(each.frameworks)} |"
        for each in rules
    ]
    head = "| code | rule | what | severity | seen by | fix | frameworks |\n|---|---|---|---|---|---|---|"
    return f"---\nhide: [toc]\n---\n\n# Rules\n\n{_FILTER}\n" + "\n".join([head, *rows]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def settings(folder: Path, rules: list[Rule]) -> str:
    """mkdocs.yml: what stands in that of the repository, and the order of the pages. JSON is YAML."""
    families = _FAMILY.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    groups = [
        {f"{start}xx {about.replace('`', '')}": [f"rules/{each.name}.md" for each in members]}
        for start, about in families
        if (members := [each for each in rules if each.code.startswith(start)])
    ]
    nav = [
        {"mpaudit": "index.md"},
        {"Rules": ["rules/index.md", *groups]},
        *({_title(path): path} for path in _manual()),
        {"Contributing": "contributing.md"},
        {"Changes": "changelog.md"},
    ]
    base = Path(os.path.relpath(ROOT / "mkdocs.yml", folder)).as_posix()
    return json.dumps(
        {"INHERIT": base, "docs_dir": "docs", "site_dir": "site", "nav": nav}, indent=1
    )


def _manual() -> Iterator[str]:
    yield from sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def _title(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
