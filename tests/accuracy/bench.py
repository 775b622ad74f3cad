"""Runs mpaudit on originals and on their mutants, and counts what it catches."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mpaudit.audit import check, check_text
from mpaudit.config import Selection
from mpaudit.finding import Finding
from mpaudit.inspection import check_texts
from mpaudit.rule import catalogue
from mpaudit.source.text.project import Project

from . import (  # noqa: F401
    accelerate_mutations,
    advice_mutations,
    backward_mutations,
    cache_mutations,
    dtype_mutations,
    engine_mutations,
    gradient_mutations,
    hardware_mutations,
    keras_dtype_mutations,
    keras_mutations,
    keras_policy_mutations,
    keras_scaling_mutations,
    loss_mutations,
    loss_scaling_mutations,
    migration_mutations,
    order_mutations,
    owned_mutations,
    place_mutations,
    region_mutations,
    scaler_mutations,
    suppression_mutations,
    tensorflow_mutations,
    trainer_mutations,
    update_mutations,
)
from .mutation import Mutant, mutants
from .real import MOST, spread
from .roles import Program
from .script import Script

ROOT = Path(__file__).parents[2]
CLEAN = ROOT / "fixtures" / "clean"
PROJECTS = ROOT / "fixtures" / "projects"
SHAPES = Path(__file__).with_name("shapes")
MIGRATION = "MP7"
TRAINS = re.compile(
    r"\.unscale_\(|scaler\w*\.step\(|\.scale\(.*\)\.backward\(|accelerator\.backward\("
)
MARK = re.compile(r"# error: \[([a-z-]+)\]")


@dataclass(frozen=True)
class Original:
    """A correct program: its name in tables, its folder or file, and where it comes from.

    A file of a package (`real`) is checked together with the files `around` it that import it.
    """

    name: str
    path: Path
    real: bool = False
    around: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant: "caught", "elsewhere" (right rule, wrong place), "other" or "silent"."""

    rule: str
    operator: str
    place: str
    became: str
    rows: tuple[int, ...]
    saw: tuple[str, ...]
    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Result:
    """One original and its mutants. `findings` are those of the original itself."""

    name: str
    real: bool
    findings: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    seconds: float
    failure: str = ""


def originals() -> Iterator[Original]:
    """The clean scripts and projects of `fixtures/`."""
    for path in sorted(CLEAN.glob("*.py")):
        yield Original(path.stem, path)
    for path in sorted(PROJECTS.iterdir()):
        if path.is_dir() and path.name.startswith("clean_"):
            yield Original(path.name, path)


def program_of(original: Original) -> Program:
    """Read a program; a file that this Python cannot parse is left out."""
    path = original.path
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    scripts = []
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        scripts.append(Script(name, file.read_text(encoding="utf-8")))
    return Program(scripts, by_use=original.real)


def examine(original: Original, words: Collection[str] = ()) -> Result:
    """Check an original and all of its mutants. A program with findings of its own gives no mutants.

    A file of a package gives a sample of its mutants, and none of the rules that it breaks itself.
    `words` limit the mutants to some rules or operators.
    """
    began = time.process_time()
    try:
        program = program_of(original)
    except (SyntaxError, UnicodeDecodeError) as problem:
        return Result(original.name, original.real, (), (), 0.0, str(problem))
    look = Look(original)
    own = look.findings(None)
    broken = {finding.name for finding in own if _counts(finding)}
    chosen: list[Mutant] = []
    if original.real or not broken:
        rules = [name for name, rule in catalogue().items() if "source" in rule.seen_by]
        made = mutants(program, rules)
        chosen = [m for m in made if not words or m.rule in words or m.operator in words]
    if original.real:
        one_of_each = {m.operator: m for m in reversed(chosen) if m.rule not in broken}
        chosen = spread(list(reversed(one_of_each.values())), MOST)
    outcomes = [_outcome(original, mutant, own, look) for mutant in chosen]
    shown = tuple(_shown(f) for f in own)
    return Result(original.name, original.real, shown, tuple(outcomes), time.process_time() - began)


def _counts(finding: Finding) -> bool:
    return not finding.code.startswith(MIGRATION)


def _shown(finding: Finding) -> str:
    return f"{finding.name}:{Path(finding.span.filename).name}:{finding.span.start.row}"


class Look:
    """Checks one original and its mutants; what does not change is read once."""

    def __init__(self, original: Original) -> None:
        self.original = original
        self.project = Project()

    def findings(self, mutant: Mutant | None) -> list[Finding]:
        """What mpaudit says to the original (None) or to a mutant."""
        path, wanted = self.original.path, Selection()
        if mutant is not None and not catalogue()[mutant.rule].default:
            wanted = Selection(select=(mutant.rule,))  # a preview rule, or advice
        if self.original.real:
            return self._of_package(mutant, wanted)
        if mutant is None:
            return list(check([path]).findings)
        if path.is_file():
            return check_text(mutant.text, str(path), wanted)
        with tempfile.TemporaryDirectory(prefix="mutant") as folder:
            copy = Path(folder) / path.name
            shutil.copytree(path, copy)
            (copy / mutant.path).write_text(mutant.text, encoding="utf-8")
            return list(check([copy], wanted).findings)

    def _of_package(self, mutant: Mutant | None, wanted: Selection) -> list[Finding]:
        path = self.original.path
        text = path.read_text(encoding="utf-8") if mutant is None else mutant.text
        texts = {str(path): text}
        for other in self.original.around:
            texts[str(other)] = other.read_text(encoding="utf-8", errors="replace")
        project = self.project if mutant is None else self.project.again()
        return check_texts(texts, project, wanted)


def _outcome(original: Original, mutant: Mutant, own: list[Finding], look: Look) -> Outcome:
    found = look.findings(mutant)
    places = {mutant.path: mutant.rows, **dict(mutant.others)}

    def file_of(finding: Finding) -> str:
        if original.real:
            return mutant.path if finding.span.filename == str(original.path) else ""
        if original.path.is_file():
            return mutant.path
        return finding.span.filename.split(f"/{original.path.name}/")[-1]

    same = [f for f in found if f.name == mutant.rule]
    if any(f.span.start.row in places.get(file_of(f), ()) for f in same):
        became = "caught"
    elif same and not any(f.name == mutant.rule for f in own):
        became = "elsewhere"
    elif any(_counts(f) for f in found if _shown(f) not in map(_shown, own)):
        became = "other"
    else:
        became = "silent"
    rows = sorted(mutant.rows) or sorted(r for _, each in mutant.others for r in each)
    return Outcome(
        mutant.rule,
        mutant.operator,
        f"{original.name}{'/' + mutant.path if original.path.is_dir() else ''}:{mutant.origin_row}",
        became,
        tuple(rows),
        tuple(_shown(f) for f in found if _counts(f)),
        "" if became == "caught" else mutant.text,
    )


def shapes() -> dict[str, bool]:
    """The shapes that mpaudit must get right, each a mistake and its clean twin: {shape: right}.

    A file `<shape>_wrong.py` has its finding where it is marked and no other; `<shape>_right.py` is
    silent.
    """
    right: dict[str, bool] = {}
    for path in sorted(SHAPES.glob("*.py")):
        name = path.stem.rpartition("_")[0].replace("_", " ")
        text = path.read_text(encoding="utf-8")
        marked = {
            (mark[1], row)
            for row, line in enumerate(text.splitlines(), start=1)
            if (mark := MARK.search(line))
        }
        found = {(f.name, f.span.start.row) for f in check_text(text, str(path))}
        right[name] = right.get(name, True) and found == marked
    return right
