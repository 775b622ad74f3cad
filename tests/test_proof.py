"""Every fix is proven by a run: of the fixtures, and of mutants of correct scripts.

A repaired script runs through, or ends as it did for a reason that is named below, and its parameters
are finite. A repaired mutant is the correct script again, or comes to the same parameters.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mpaudit.audit import check_text, fix_text
from mpaudit.rule import catalogue
from tests.accuracy.bench import Original, originals, program_of
from tests.accuracy.mutation import OPERATORS, Mutant, mutants
from tests.executed import End, Executor

SCRIPTS = sorted((Path(__file__).parents[1] / "fixtures" / "scripts").glob("*.py"))
EXCUSES = {
    r"No module named '(accelerate|apex|deepspeed|ignite|lightning|pytorch_lightning)": "not installed",
    r"No module named '(transformers|tf_keras|sklearn|trl|horovod|datasets|fairscale)": "not installed",
    r"No module named '(acme|gradient_exchange|lion_pytorch)'": "a library that is made up, or not installed",
    r"name 'loader' is not defined": "it shows a piece of a loop only",
    r"environment variable RANK expected": "it wants to be one of several processes",
    r"dummy base class CUDAGraph|CUDA graphs|libcuda|NVIDIA driver": "it needs a GPU",
    r"No such file or directory|FileNotFoundError": "its data are not here",
    r"URL fetch failure": "it loads weights from the net",
    r"SystemExit: 2": "it needs arguments",
}
"""Why a script cannot run here, by what its error says; before the fix and after it."""
OTHERWISE = {
    "bfloat16_with_scaler": "what is put in stays: bfloat16, in which each product is rounded otherwise",
    "bfloat16_instead": "what is put in stays: bfloat16, in which each product is rounded otherwise",
    "clip_added": "what is put in stays: a clip, now of the true gradients",
    "masked_by_where": "what is put in stays: a softmax of the values that the mask leaves",
    "clipped_at_the_tape": "what is put in stays: a clip, now by the optimizer",
}
"""Operators after whose repair the correct script is another one: it has to run, with finite numbers."""
FIXABLE = {
    name: rule
    for name, rule in catalogue().items()
    if "source" in rule.seen_by and rule.fix in ("safe", "unsafe") and rule.default
}
MOST = 40  # originals in which an operator is tried

pytestmark = pytest.mark.slow


@functools.cache
def executor(framework: str) -> Executor:
    """One process for each framework, which lives as long as the tests."""
    pytest.importorskip("tensorflow" if framework == "keras" else "torch")
    return Executor(framework)


def run(text: str, path: Path) -> End:
    """How a script ends."""
    keras = re.search(r"^\s*(?:import|from) (?:keras|tensorflow|tf_keras)\b", text, re.MULTILINE)
    return executor("keras" if keras else "torch").run(text, path)


def excused(end: End) -> bool:
    """Whether a script cannot run here."""
    return any(re.search(pattern, end.error) for pattern in EXCUSES)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_repaired_fixture_runs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    fixed = fix_text(text, str(path), unsafe=True)
    if fixed == text:
        return  # nothing to prove: what is only shown changes nothing
    after = run(fixed, path)
    if excused(after):
        return
    left = [each for each in check_text(fixed, str(path)) if each.name in FIXABLE]
    if after.error and left:  # what has no fix here still ends it
        assert run(text, path).error
        return
    assert after.error == ""
    assert after.finite


@functools.cache
def programs() -> tuple[tuple[Original, str], ...]:
    """The correct scripts of one file, in an order that mixes them, with their texts."""
    files = [each for each in originals() if each.path.is_file()]
    files.sort(key=lambda each: hash_of(each.name))
    return tuple((each, each.path.read_text(encoding="utf-8")) for each in files)


def hash_of(name: str) -> int:
    """A number that is the same in every process."""
    return sum(ord(letter) * 31**place for place, letter in enumerate(name)) % 10007


def repaired(rule: str, operator: str) -> Iterator[tuple[Original, str, Mutant, str]]:
    """Originals, their texts, mutants of one operator, and those repaired."""
    tried = 0
    for original, text in programs():
        try:
            found = next(
                (m for m in mutants(program_of(original), [rule]) if m.operator == operator), None
            )
        except SyntaxError:
            continue
        if found is not None and tried < MOST:
            tried += 1
            fixed = fix_text(found.text, str(original.path), unsafe=True)
            if fixed != found.text:
                yield original, text, found, fixed


def same_program(one: str, other: str) -> bool:
    """Whether two texts are one program: comments, `pass` and `if True:` aside."""
    return ast.dump(_Plain().visit(ast.parse(one))) == ast.dump(_Plain().visit(ast.parse(other)))


class _Plain(ast.NodeTransformer):
    """Takes out what operators leave behind: `pass` beside other statements, and `if True:`."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            flat = [part for each in block for part in (each.body if _always(each) else [each])]
            setattr(node, name, [e for e in flat if not isinstance(e, ast.Pass)] or flat[:1])
        return node


def _always(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and node.test.value is True
    )


@pytest.mark.parametrize(
    ("rule", "operator"),
    [(rule, name) for rule, name, _ in OPERATORS if rule in FIXABLE],
    ids=lambda value: value,
)
def test_a_repaired_mutant_is_the_correct_script(rule: str, operator: str) -> None:
    proven = 0
    for original, text, mutant, fixed in repaired(rule, operator):
        if same_program(fixed, text):
            proven += 1
            if proven == 2:
                return
            continue
        right, after = run(text, original.path), run(fixed, original.path)
        if right.error:
            assert excused(right) or right.error == after.error, (original.name, right.error)
            continue
        if not right.parameters:  # nothing is trained in it that could be compared
            continue
        assert after.error == "", (original.name, fixed)
        assert after.finite, (original.name, fixed)
        if operator not in OTHERWISE:
            assert after.like(right), (original.name, mutant.origin_row, fixed)
        return
