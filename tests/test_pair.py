"""What a watcher adds, of pairs of a step, and how sure that is. Nothing is timed here."""

import random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
from tests.benchmarks.goal import Goal, table
from tests.benchmarks.runtime.__main__ import joined
from tests.benchmarks.runtime.pair import Added, Pair, added
from tests.benchmarks.runtime.time import shares
from tests.benchmarks.timing import Run


def pairs(ratio: float, count: int, look: str = "", noise: float = 0.0) -> list[Pair]:
    """Steps that take so many times as long on the wall, twice that of the processor."""
    chance = random.Random(count)
    plain = [1 + chance.random() for _ in range(count)]
    watched = [each * ratio * chance.gauss(1, noise) for each in plain]
    return [Pair(Run(a, a, 0), Run(b, 2 * b, 0), look) for a, b in zip(plain, watched, strict=True)]


def test_what_all_steps_have_more_is_found_by_either_clock():
    found = added(pairs(1.25, 9))
    assert (found.share, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert added(pairs(1.25, 9), "processor").share == pytest.approx(1.5)


def test_a_look_that_is_rare_counts_for_as_many_steps_as_have_it():
    both = [*pairs(1.0, 6, "between"), *pairs(1.5, 3, "looked at")]
    shares = {"between": 0.9, "looked at": 0.1}
    assert added(both, shares=shares).share == pytest.approx(0.05)
    with pytest.raises(KeyError):
        added(both, shares={**shares, "counted": 0.01})


def test_where_nothing_is_added_the_interval_has_none_in_it_and_one_where_something_is():
    nothing, something = (added(pairs(ratio, 40, noise=0.05)) for ratio in (1.0, 1.1))
    assert nothing.low < 0 < nothing.high
    assert something.low > 0
    assert something.low < 0.1 < something.high
    assert added(pairs(1.0, 400, noise=0.05)).high < nothing.high  # more pairs, more sure


def test_the_table_says_where_nothing_was_seen():
    def goal(found: Added) -> Goal:
        return Goal("step", "", found.share, 0.5, "%", interval=(found.low, found.high))

    none, some = goal(Added(0.2, -0.4, 0.8)), goal(Added(0.7, 0.2, 1.1))
    assert "0.20 % (-0.40 to 0.80, none seen)" in table([none])
    assert "0.70 % (0.20 to 1.10) " in table([some])
    assert none.plain()["interval"] == [-0.4, 0.8]
    assert (none.plain()["includes 0"], some.plain()["includes 0"]) == (True, False)
    assert "interval" not in Goal("step", "", 0.2, 0.5).plain()


def test_what_is_not_measured_again_keeps_its_row_and_its_date():
    before = {"date": "2026-11-01", "goals": [{"work": "a", "figure": 1}], "overhead": {"gpt2": 1}}
    row = {"work": "b", "figure": 2, "date": "2026-11-02"}
    now = {"date": "2026-11-02", "goals": [row], "overhead": {}}
    both = joined(before, now)
    assert both["goals"] == [{"work": "a", "figure": 1, "date": "2026-11-01"}, row]
    assert both["overhead"] == {"gpt2": 1}
    again = joined(both, {**now, "goals": [{**row, "work": "a"}]})
    assert [each["date"] for each in again["goals"]] == ["2026-11-02", "2026-11-02"]


def test_the_shares_of_looks_are_those_of_a_long_run():
    assert shares("mpaudit") == pytest.approx({"between": 0.9, "looked at": 0.09, "counted": 0.01})
    assert shares("mpaudit --every 1") == pytest.approx({"looked at": 0.99, "counted": 0.01})
    assert shares("mpaudit --light") == pytest.approx({"between": 0.99, "looked at": 0.01})
