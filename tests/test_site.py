"""The documentation site: what docs/pages.py writes, and, where mkdocs is installed, the site itself."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpaudit.rule import catalogue

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
FENCED = re.compile(r"^(`{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs/pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(pages: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    pages.write(folder)
    return folder


def test_every_rule_has_a_page(built: Path) -> None:
    for rule in catalogue().values():
        text = (built / "docs/rules" / f"{rule.name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {rule.name} ({rule.code})\n")
        assert "```toml\nsummary" not in text
        assert f"| severity | {rule.severity.value}" in text
        assert rule.prose[:60] in text
        assert "## Bad" in text
        assert rule.url.endswith(f"/rules/{rule.name}/")  # where the page will be


def test_the_table_has_them_all_and_can_be_filtered(built: Path) -> None:
    text = (built / "docs/rules/index.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| MP")]
    assert len(rows) == len(catalogue())
    assert any("[missing-scaler-update](missing-scaler-update.md)" in row for row in rows)
    assert 'id="rule-filter"' in text
    assert "rule-filter" in (built / "docs/filter.js").read_text(encoding="utf-8")


def test_every_link_leads_to_a_page(built: Path) -> None:
    found = 0
    for path in (built / "docs").rglob("*.md"):
        text = FENCED.sub("", path.read_text(encoding="utf-8"))
        for target in LINK.findall(text):
            assert (path.parent / target).is_file(), f"{path.name}: {target}"
            found += 1
    assert found > 2 * len(catalogue())  # the table of the README, and that of the rules


def test_links_are_turned_to_where_their_targets_are(pages: ModuleType) -> None:
    def linked(text: str, source: str = "README.md") -> str:
        return str(pages.linked(text, source))

    assert linked("[a](rules/x.md#bad)") == "[a](rules/x.md#bad)"
    assert linked("[a](docs/editors.md)") == "[a](editors.md)"
    assert linked("[a](CONTRIBUTING.md)") == "[a](contributing.md)"
    assert linked("[a](../README.md)", "docs/editors.md") == "[a](index.md)"
    assert linked("[a](../rules)", "docs/plugins.md") == "[a](rules/index.md)"
    assert linked("[a](other.md)", "rules/x.md") == "[a](other.md)"
    assert linked("[mpaudit/protocols](mpaudit/protocols)") == "`mpaudit/protocols`"
    for kept in ("[a](https://b.c)", "[a](#b)", "```\n[a](mpaudit/x)\n```\n"):
        assert linked(kept) == kept


def test_every_page_is_in_the_navigation(built: Path) -> None:
    settings = json.loads((built / "mkdocs.yml").read_text(encoding="utf-8"))
    assert (built / settings["INHERIT"]).resolve() == ROOT / "mkdocs.yml"
    listed = re.findall(r'"([\w/.-]+\.md)"', json.dumps(settings["nav"]))
    there = [p.relative_to(built / "docs").as_posix() for p in (built / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(there)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(built: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(built / "mkdocs.yml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (built / "site/rules/missing-scaler-update/index.html").is_file()
    index = json.loads((built / "site/search/search_index.json").read_text(encoding="utf-8"))
    assert any("missing-scaler-update" in each["location"] for each in index["docs"])
    html = (built / "site/rules/index.html").read_text(encoding="utf-8")
    assert not re.findall(
        r'(?:src|href)="https?://(?!mpaudit\.|squidfunk)[^"]*\.(?:js|css|woff2?)"', html
    )
