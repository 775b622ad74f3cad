"""The README's rule table and counts are those of the tree; `MPAUDIT_GOLDEN=1 pytest` rewrites the table."""

import os
import re
from pathlib import Path

from mpaudit.rule import catalogue

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TABLE = re.compile(r"\| code \| rule \|.*?\n\n", re.DOTALL)


def table() -> str:
    rows = [
        f"| {r.code} | [{r.name}](rules/{r.name}.md) | {r.severity.value} | {r.fix} | {r.summary} |"
        for r in catalogue().values()
    ]
    return (
        "\n".join(["| code | rule | severity | fix | what |", "|---|---|---|---|---|", *rows])
        + "\n\n"
    )


def test_the_rule_table_is_up_to_date():
    text = README.read_text(encoding="utf-8")
    if os.environ.get("MPAUDIT_GOLDEN"):
        README.write_text(TABLE.sub(lambda _: table(), text), encoding="utf-8")
        text = README.read_text(encoding="utf-8")
    found = TABLE.search(text)
    assert found is not None
    assert found.group() == table()


def test_the_counts_are_those_of_the_fixtures():
    fixtures = ROOT / "fixtures"
    projects = [path for path in (fixtures / "projects").iterdir() if path.is_dir()]
    clean = len(list((fixtures / "clean").glob("*.py")))
    clean += sum(path.name.startswith("clean_") for path in projects)
    marked = len(list((fixtures / "scripts").glob("*.py")))
    marked += sum(not path.name.startswith("clean_") for path in projects)
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"On {clean} correct scripts" in text
    assert f"{marked} broken ones" in text


def test_the_two_commands_come_first():
    text = README.read_text(encoding="utf-8")
    assert text.index("make demo") < text.index("make test") < 200
