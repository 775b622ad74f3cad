"""A rule's page: for a terminal, as JSON, or as the Markdown it is."""

from __future__ import annotations

import json
import re
import textwrap

from mpaudit.render.colour import Paint, painter
from mpaudit.render.rules import entry
from mpaudit.rule import Rule

WIDTH = 88
_SOLID = "\N{NO-BREAK SPACE}"  # holds `code with spaces` together
_TOML = re.compile(r"\A# .*\n+```toml\n.*?^```\n", re.MULTILINE | re.DOTALL)
_PIECE = re.compile(r"^```\w*\n(?P<code>.*?)^```$|^(?P<title>#+ [^\n]*)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+)\)")
_CODE = re.compile(r"`[^`]+`")
_ITEM = re.compile(r"(?:[-*+]|\d+\.)\s+")


def markdown(rule: Rule) -> str:
    """The page itself."""
    return rule.page


def data(rule: Rule) -> str:
    """The page as one JSON object: what `mpaudit rules` says of it, and its text."""
    return json.dumps(_object(rule), indent=2) + "\n"


def text(rule: Rule, *, colour: bool = False) -> str:
    """The page for reading in a terminal."""
    paint = painter(colour)
    kind = rule.severity.value
    seen = " and ".join({"source": "in the source", "run": "in a run"}[by] for by in rule.seen_by)
    facts = [kind, f"seen {seen}", f"fix: {rule.fix}", ", ".join(rule.frameworks)]
    if rule.preview:
        facts.append("preview")
    messages = "\n".join(f"    {each}" for each in rule.messages)
    explained = [f"explains:\n{messages}"] if messages else []
    blocks = [
        f"{paint(rule.code, kind)} {paint(rule.name, 'strong')}: {rule.summary}",
        "; ".join(fact for fact in facts if fact),
        *explained,
        *_blocks(_TOML.sub("", rule.page), paint),
        *([rule.url] if rule.url else []),
    ]
    return "\n\n".join(blocks) + "\n"


def _object(rule: Rule) -> dict[str, object]:
    return {
        **entry(rule),
        "since": rule.since,
        "messages": list(rule.messages),
        "url": rule.url or None,
        "explanation": rule.prose,
        "bad": rule.example("Bad"),
        "good": rule.example("Good"),
        "fix_safety": _stripped(rule.section("Fix safety")),
        "sources": _stripped(rule.section("Sources")),
    }


def _stripped(section: str | None) -> str | None:
    return None if section is None else section.strip()


def _blocks(page: str, paint: Paint) -> list[str]:
    """Paragraphs, titles and code of a Markdown text."""
    blocks: list[str] = []
    end = 0
    for piece in _PIECE.finditer(page):
        blocks += _paragraphs(page[end : piece.start()])
        end = piece.end()
        if piece["title"]:
            blocks.append(paint(piece["title"].lstrip("# "), "strong"))
        else:
            blocks.append(textwrap.indent(piece["code"].rstrip("\n"), "    "))
    return blocks + _paragraphs(page[end:])


def _paragraphs(prose: str) -> list[str]:
    paragraphs = [each.strip("\n") for each in re.split(r"\n\s*\n", prose)]
    return ["\n".join(_wrapped(each)) for each in paragraphs if each.strip()]


def _wrapped(paragraph: str) -> list[str]:
    """The lines of a paragraph or of a list, each item on its own."""
    if paragraph.lstrip().startswith("|"):  # a table stays as it is
        return paragraph.splitlines()
    items: list[str] = []
    for row in paragraph.splitlines():
        if not items or _ITEM.match(row.lstrip()):
            items.append(row.strip())
        else:
            items[-1] += f" {row.strip()}"
    lines: list[str] = []
    for item in items:
        start = _ITEM.match(item)
        hang = " " * len(start.group()) if start else ""
        prose = _CODE.sub(
            lambda code: code.group().replace(" ", _SOLID), _LINK.sub(r"\1 (\2)", item)
        )
        wrapped = textwrap.wrap(
            prose, WIDTH, subsequent_indent=hang, break_long_words=False, break_on_hyphens=False
        )
        lines += [line.replace(_SOLID, " ") for line in wrapped]
    return lines
