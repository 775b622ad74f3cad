"""The keys as a JSON schema; `python -m mpaudit.settings.schema` prints mpaudit.schema.json."""

from __future__ import annotations

import json
from typing import Any

from mpaudit.rule import catalogue
from mpaudit.settings.key import KEYS


def schema() -> dict[str, Any]:
    """What may stand in mpaudit.toml, or in `[tool.mpaudit]` of a pyproject.toml."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mpaudit",
        "description": "What mpaudit.toml, or [tool.mpaudit] in pyproject.toml, may hold.",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key.name: {"description": f"{key.about} Default: {key.default}.", **key.kind.schema}
            for key in KEYS.values()
        },
        "$defs": {"selector": {"description": "Rules.", "enum": _selectors()}},
    }


def _selectors() -> list[str]:
    """All words for rules, as they are written by default: codes, their starts, names, ALL."""
    codes = sorted(rule.code for rule in catalogue().values())
    starts = sorted({code[:length] for code in codes for length in (2, 3, 4)})
    return ["ALL", *starts, *codes, *sorted(catalogue())]


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
