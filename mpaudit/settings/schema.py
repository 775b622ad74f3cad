"""The keys as a JSON schema; `python -m mpaudit.settings.schema` prints mpaudit.schema.json."""

from __future__ import annotations

import json
from typing import Any

from mpaudit.settings.key import KEYS

_RULES = "A code (MP104), the start of codes (MP1), a name (missing-scaler-update), or ALL."
_SELECTOR = r"^(?:MP\d{0,3}|(?!MP\d)[A-Z]{2,12}\d{0,5}|[a-z0-9]+(?:-[a-z0-9]+)+)$"
"""By form: which rules there are is no part of the schema, which would change with every rule.

Codes of other letters are those of plugins; ALL is a word of that form.
"""


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
        "$defs": {"selector": {"description": _RULES, "type": "string", "pattern": _SELECTOR}},
    }


def text() -> str:
    """The schema as it is published."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
