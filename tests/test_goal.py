"""The benchmarks' table: what counts as met, what is said where nothing was measured. Nothing is timed."""

import json

import pytest

from tests.benchmarks.curve import exponent
from tests.benchmarks.goal import Goal, table
from tests.benchmarks.timing import Run, ratio


@pytest.mark.parametrize(
    ("figure", "least", "met"),
    [(2.5, False, True), (2.51, False, False), (2.5, True, True), (2.49, True, False)],
)
def test_a_goal_is_met_up_to_its_limit(figure, least, met):
    assert Goal("work", "peer", figure, 2.5, least=least).met is met


def test_what_was_not_measured_is_neither_met_nor_missed():
    goal = Goal("timm, cold", "TorchFix", None, 80, least=True, note="no such version")
    assert goal.met is None
    last = table([goal]).splitlines()[-1]
    assert "no such version" in last
    assert last.endswith("?")


def test_each_figure_stands_beside_its_goal():
    rows = table([Goal("a", "b", 1.234, 2), Goal("c", "d", 81.0, 80, "x faster", least=True)])
    assert "1.23 x" in rows
    assert "<= 2 x" in rows
    assert "81.00 x faster" in rows
    assert ">= 80 x faster" in rows
    assert json.loads(json.dumps(Goal("a", "b", 1.234, 2).plain()))["met"] is True


def test_turns_are_compared_one_by_one():
    mine = [Run(2, 0, 0), Run(30, 0, 0), Run(2.2, 0, 0)]
    theirs = [Run(1, 0, 0), Run(15, 0, 0), Run(1, 0, 0)]
    assert ratio(mine, theirs) == 2
    assert ratio(mine[:1], theirs) == 2  # medians, where one had fewer turns


@pytest.mark.parametrize(("power", "costs"), [(1, (1, 2, 4)), (2, (1, 4, 16))])
def test_the_exponent_of_growth_leaves_the_start_out(power, costs):
    points = [
        {"files": size, "evaluations": 3 + cost}
        for size, cost in zip((10, 20, 40), costs, strict=True)
    ]
    assert exponent(points, "files", "evaluations") == power
