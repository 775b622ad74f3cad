"""The house: imports go down only, no framework is imported by the static half, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mpaudit"
FILES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras"}
MAX_LINES = 400

# Each part may import itself and what is named here, and nothing else of mpaudit.
ALLOWED = {
    "errors": set(),
    "autocast_lists": set(),
    "output_format": set(),
    "default": set(),
    "rule": {"errors"},
    "fix": set(),
    "finding": {"fix", "rule"},
    "cell": {"finding", "fix"},
    "event": {"finding"},
    "config": {"errors", "rule"},
    "suppress": {"cell", "config", "finding", "fix", "rule"},
    "explain": {"config", "errors", "rule"},
    "report": {"cell", "finding", "fix", "rule"},
    "extension": {"errors", "plugin", "rule", "source"},
    "plugin": {"event", "finding", "fix", "protocols", "source"},
    "settings": {
        *("config", "default", "errors", "extension", "finding", "fix", "output_format", "report"),
        "rule",
    },
    "protocols": {"event", "finding"},
    "source": {
        *("autocast_lists", "cell", "config", "default", "errors", "event", "finding", "fix"),
        "protocols",
    },
    "checks": {"finding", "fix", "source"},
    "runtime": {"autocast_lists", "errors", "event", "finding", "protocols", "rule", "__version__"},
}


def imports(path: Path) -> set[str]:
    """The parts of mpaudit that a file imports, `import` inside functions and TYPE_CHECKING included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "mpaudit":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mpaudit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mpaudit.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    allowed = ALLOWED.get(part(path))
    if allowed is not None:
        assert imports(path) <= allowed | {part(path)}


def test_source_and_runtime_never_import_each_other():
    for path in FILES:
        if part(path) in ("source", "runtime"):
            other = "runtime" if part(path) == "source" else "source"
            assert other not in imports(path), path


def test_imports_go_down_only_inside_of_source():
    order = ["api", "text", "trait", "engine", "library", "repair", "migration"]
    for path in FILES:
        above = path.relative_to(PACKAGE).parts
        if above[0] != "source" or above[1] not in order:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            below = (module or "").split(".")
            if below[:2] == ["mpaudit", "source"]:
                assert order.index(below[2]) <= order.index(above[1]), (path, module)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_is_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_only_the_runtime_half_names_frameworks():
    for path in FILES:
        if part(path) == "runtime":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & FRAMEWORKS, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in FRAMEWORKS, path


@pytest.mark.parametrize(
    "code",
    [
        "import mpaudit",
        "import mpaudit.cli, mpaudit.audit, mpaudit.explain",
        "from mpaudit import audit; assert audit.check_text('import torch\\nx = torch.amp', 'a.py') == []",
    ],
)
def test_no_framework_is_loaded(code):
    check = f"{code}\nimport sys; sys.exit(bool({FRAMEWORKS!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_the_command_line_starts_light():
    check = "import mpaudit.cli, sys; sys.exit('mpaudit.source' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_a_file_that_concerns_no_rule_loads_no_engine(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    check = (
        "import sys; from pathlib import Path; from mpaudit import audit, check_command; "
        f"report = audit.check([Path({str(tmp_path)!r})]); "
        "heavy = {'mpaudit.source.analysis', 'mpaudit.checks', 'mpaudit.source.repair'}; "
        "sys.exit(bool(report.findings or heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_there_is_no_python_in_the_catalogue():
    assert not list((PACKAGE.parent / "rules").rglob("*.py"))
