"""The accuracy bench on a sample: operators are honest and caught, tools read their tables."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from accuracy import corpus, labels
from accuracy.bench import Original, examine, originals, program_of, shapes
from accuracy.mutation import MARK, OPERATORS, mutants

from mpaudit.rule import catalogue

ROOT = Path(__file__).parents[1]
SAMPLE = [
    "accumulate_counter",
    "checkpoint_resume",
    "enabled_flag",
    "gan_one_scaler",
    "keras_custom_loop",
    "keras_logits_head",
    "plain_loop",
    "scaler_none_parameter",
    "trainer_methods_split",
]
CORE = [
    "backward-in-autocast",
    "clip-before-unscale",
    "missing-scaler-update",
    "policy-after-model",
    "missing-scale-loss",
    "softmax-before-cross-entropy",
    "softmax-with-from-logits",
    "unscaled-backward",
    "unscaled-step",
]
"""Enough for a quick test; `make accuracy` tries every rule."""

PROGRAMS = {original.name: original for original in originals()}


@pytest.mark.parametrize("name", SAMPLE)
def test_mutants_of_the_sample_are_caught(name: str) -> None:
    result = examine(PROGRAMS[name], CORE)
    assert result.findings == ()
    assert result.outcomes
    missed = [outcome for outcome in result.outcomes if outcome.became != "caught"]
    assert len(missed) <= 0.03 * len(result.outcomes), missed


def test_the_five_shapes_and_their_twins_are_right() -> None:
    right = shapes()
    assert len(right) == 5
    assert [name for name, each in right.items() if not each] == []


@pytest.mark.parametrize("name", ["accumulate_counter", "clean_gan_package", "gan_two_scalers"])
def test_a_mutant_differs_from_its_original_and_can_be_parsed(name: str) -> None:
    original = PROGRAMS[name]
    program = program_of(original)
    texts = {script.path: script.text for script in program.scripts}
    made = list(mutants(program, catalogue()))
    assert made
    for mutant in made:
        ast.parse(mutant.text)
        assert mutant.text != texts[mutant.path]
        assert MARK not in mutant.text
        assert mutant.rows or mutant.others


def test_a_disabled_scaler_gives_no_mutant_of_its_protocol() -> None:
    program = program_of(PROGRAMS["disabled_scaler_clip"])
    protocol = {
        "missing-scaler-update",
        "clip-before-unscale",
        "unscaled-step",
        "unscaled-backward",
    }
    assert list(mutants(program, protocol)) == []


def test_an_update_that_another_one_makes_up_for_is_not_dropped(tmp_path: Path) -> None:
    """With an update() in each half of a loop, either one may go: the other closes both phases."""
    half = "scaler.scale(loss).backward()\n    scaler.step({0})\n    scaler.update()\n"
    path = tmp_path / "halves.py"
    path.write_text(
        "import torch\nscaler = torch.amp.GradScaler()\nfor loss in losses:\n    "
        + half.format("one")
        + "    "
        + half.format("other"),
        encoding="utf-8",
    )
    program = program_of(Original("halves", path))
    assert program.of("update")
    assert list(mutants(program, ["missing-scaler-update"])) == []


def test_every_operator_is_registered_once_and_says_what_it_does() -> None:
    names = [name for _, name, _ in OPERATORS]
    assert len(names) == len(set(names))
    assert [name for _, name, function in OPERATORS if not function.__doc__] == []


def test_a_file_that_cannot_be_parsed_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "old.py"
    path.write_text("print 'python 2'\n", encoding="utf-8")
    assert examine(Original("old", path, real=True)).failure


def test_the_corpus_is_pinned_and_large_enough() -> None:
    pins = corpus.tomllib.loads(corpus.PINS.read_text(encoding="utf-8"))["package"]
    assert len(pins) >= 20
    assert len({pin["name"] for pin in pins}) == len(pins)
    assert all(len(pin["sha256"]) == 64 and pin["version"] for pin in pins)


def test_every_verdict_has_a_reason_and_a_rule_with_a_page() -> None:
    pins = corpus.tomllib.loads(corpus.PINS.read_text(encoding="utf-8"))["package"]
    packages = {pin["name"] for pin in pins}
    for place, (_, reason) in corpus.read_verdicts().items():
        assert reason
        assert place.rule in catalogue()
        assert place.package in packages


TABLES = [(labels.LABELS, 100), (labels.BUGS, 90), (labels.HELD_OUT, 80), (labels.MENDED, 30)]


@pytest.mark.parametrize(("table", "least"), TABLES)
def test_the_labels_can_be_read(table: Path, least: int) -> None:
    groups = labels.read(table)
    found = [label for entries in groups.values() for label in entries]
    assert len(found) > least
    assert all(len(commit) == 40 for _, commit in groups)
    assert {label.rule for label in found} <= {*catalogue(), "clean"}
    assert all(bool(label.verdict) == bool(label.decision) for label in found)


LABELS = """repo\tcommit\tpath\tline\trule\tconfidence\treason\tverdict\tdecision
a/b\tc0\ttrain.py\t10\tclip-before-unscale\tsure\tno unscale_\t\t
a/b\tc0\ttrain.py\t30\tdouble-unscale\tsure\ttwice\tsilence right\tonce in each pass
a/b\tc0\ttrain.py\t40\tscaler-in-loop\tlikely\teach epoch\tlimit\ttoo large
a/b\tc0\ttrain.py\t50\tunscaled-step\tsure\tplain step\t\t
a/b\tc0\ttrain.py\t60\tunscaled-step\tsure\tplain step\tlimit\t
a/b\tc0\ttrain.py\t70\tscaler-in-loop\tsure\teach batch\tlimit\ttoo large
a/b\tc0\tother.py\t0\tclean\tsure\tas documented\t\t
a/b\tc0\tloss.py\t20\tsoftmax-with-from-logits\tsure\ttakes logits\t\t
a/b\tc0\tbook.ipynb\tc2:3\tunscaled-step\tsure\tplain step\t\t
"""
FOUND: dict[str, list[labels.Found]] = {
    "train.py": [
        ("clip-before-unscale", ((None, 12),)),
        ("scaler-in-loop", ((None, 5), (None, 71))),
    ],
    "other.py": [("double-unscale", ((None, 5),)), ("deprecated-torch-amp", ((None, 1),))],
    "book.ipynb": [("unscaled-step", ((3, 3),)), ("unscaled-step", ((2, 3),))],
}
MENTIONED: dict[str, list[labels.Found]] = {
    "loss.py": [("softmax-with-from-logits", ((None, 21),)), ("scaler-in-loop", ((None, 9),))]
}


def test_labels_are_compared_with_what_was_decided(tmp_path: Path) -> None:
    """What is met, what is silent for a reason, what nobody has decided, what is decided and met."""
    table = tmp_path / "labels.tsv"
    table.write_text(LABELS, encoding="utf-8")
    ((_, entries),) = labels.read(table).items()
    result = labels.judge("a/b", entries, FOUND, MENTIONED)

    def places(kind: str) -> list[str]:
        return [place.rpartition(" ")[2] for _, place, _ in getattr(result, kind)]

    assert places("hits") == ["train.py:10", "train.py:70", "loss.py:20", "3:3"]
    assert places("right") == ["train.py:30"]
    assert places("limits") == ["train.py:40"]
    assert places("undecided") == ["train.py:50", "train.py:60"]  # a verdict wants its reason
    assert places("stale") == ["train.py:70"]
    assert places("extras") == ["other.py:5", "2:3"]
    figures = labels.summarise([result, labels.Result("c/d", failure="no checkout")])
    assert (figures["labels"], figures["met"], figures["undecided"]) == (8, 4, 2)
    assert (figures["silence right"], figures["limits"], figures["failures"]) == (1, 1, 1)


def test_where_a_mistake_was_mended_its_rule_is_to_say_nothing(tmp_path: Path) -> None:
    table = tmp_path / "mended.tsv"
    table.write_text(
        "repo\tcommit\tpath\tline\trule\tmended_from\treason\n"
        "a/b\tc1\ttrain.py\t10\tclip-before-unscale\tc0\tunscaled\n"
        "a/b\tc1\ttrain.py\t10\tdouble-unscale\tc0\tonce now\n",
        encoding="utf-8",
    )
    ((_, entries),) = labels.read(table).items()
    result = labels.judge("a/b", entries, FOUND, {})
    assert [rule for rule, _, _ in result.hits] == ["double-unscale"]
    assert [rule for rule, place, _ in result.extras] == ["clip-before-unscale", "scaler-in-loop"]


def test_the_decisions_of_the_labels_are_whole() -> None:
    """Every verdict is one of the two, with a reason of some length; none stands at a clean file."""
    entries = [label for group in labels.read(labels.LABELS).values() for label in group]
    decided = [label for label in entries if label.verdict or label.decision]
    assert decided
    assert {label.verdict for label in decided} <= {labels.RIGHT, labels.LIMIT}
    assert [label for label in decided if len(label.decision) < 40 or label.rule == "clean"] == []
    figures = labels.last_figures()
    assert figures["undecided"] == figures["beside"] == figures["failures"] == 0
    assert figures["labels"] == figures["met"] + figures["silence right"] + figures["limits"]
