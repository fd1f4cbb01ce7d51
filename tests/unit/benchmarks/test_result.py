"""Ratios are those of the rounds; a goal is judged by their median; a row without a number says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.report import table, write_json
from benchmarks.result import Goal, Result

_UNEQUAL = ((10.0, 1.0), (30.0, 2.0), (20.0, 4.0))  # ratios 10, 15, 5; the ratio of the medians would be 10
_figures = st.floats(min_value=1e-6, max_value=1e6)


def _result(*pairs: tuple[float, float], goal: Goal | None = None, **more: Any) -> Result:
    return Result("a-case", "Gbit/s", goal, pairs, **more)


def test_the_ratio_is_least_median_and_most_of_the_rounds_own() -> None:
    assert _result(*_UNEQUAL).ratio == (5.0, 10.0, 15.0)


def test_the_median_ratio_is_not_the_ratio_of_the_medians() -> None:
    result = _result((10.0, 1.0), (10.0, 10.0), (40.0, 5.0))
    assert result.ratio[1] == 8.0
    assert result.ours / result.peer == 2.0


@given(st.lists(st.tuples(_figures, _figures), min_size=1, max_size=9))
def test_least_median_and_most_stand_in_order_and_no_round_lies_outside(pairs: list[tuple[float, float]]) -> None:
    least, middle, most = _result(*pairs).ratio
    assert least <= middle <= most
    assert all(least <= ours / peer <= most for ours, peer in pairs)


@given(st.lists(st.tuples(_figures, _figures), min_size=1, max_size=9), st.randoms())
def test_the_order_of_the_rounds_says_nothing(pairs: list[tuple[float, float]], random: Any) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert _result(*pairs).ratio == _result(*shuffled).ratio


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(">=", 10), True),
        (Goal(">=", 10.01), False),
        (Goal("<=", 10), True),
        (Goal("<=", 9.99), False),
        (Goal(">=", 16, "difference"), True),  # of 9, 28, 16
        (Goal(">=", 17, "difference"), False),
        (Goal("<=", 20, "ours"), True),
        (Goal("<=", 19, "ours"), False),
    ],
)
def test_a_goal_is_judged_by_the_median(goal: Goal, met: bool) -> None:
    assert _result(*_UNEQUAL, goal=goal).met is met


def test_without_a_number_or_a_goal_nothing_is_met_or_missed() -> None:
    assert _result(goal=Goal(">=", 1), status="failed", reason="no traffic").met is None
    assert _result((1.0, 1.0)).met is None


def test_a_row_of_the_report_has_name_ours_peer_unit_and_ratio() -> None:
    row = _result(*_UNEQUAL, goal=Goal(">=", 5)).to_json()
    assert row["name"] == "a-case"
    assert (row["ours"], row["peer"], row["unit"]) == (20.0, 2.0, "Gbit/s")
    assert row["ratio"] == {"median": 10.0, "min": 5.0, "max": 15.0}
    assert (row["met"], row["status"]) == (True, "measured")


def test_each_round_keeps_its_figures_beside_all_that_was_measured_in_it() -> None:
    detail = {"peer": {"gbit": 1.0, "cpu": 7.0}, "ours": {"gbit": 10.0, "cpu": 2.0}}
    (one,) = _result((10.0, 1.0), details=[detail]).to_json()["rounds"]
    assert (one["ours"], one["peer"], one["ratio"]) == (10.0, 1.0, 10.0)
    assert one["measured"] == detail
    assert list(one["measured"]) == ["peer", "ours"], "the order in which they were measured"


def test_a_row_without_a_number_has_the_same_keys_and_a_reason() -> None:
    empty = _result(goal=Goal(">=", 5), status="not available", reason="no wg").to_json()
    assert empty.keys() == _result(*_UNEQUAL).to_json().keys()
    assert (empty["ours"], empty["peer"], empty["ratio"], empty["rounds"]) == (None, None, None, [])
    assert (empty["status"], empty["reason"]) == ("not available", "no wg")


def test_the_written_report_is_a_list_of_the_rows(tmp_path: Path) -> None:
    results = [_result(*_UNEQUAL), _result(status="failed", reason="why")]
    write_json(results, str(tmp_path / "report.json"))
    assert json.loads((tmp_path / "report.json").read_text()) == [result.to_json() for result in results]


def test_the_table_has_a_line_a_row_and_says_met_missed_or_why_not() -> None:
    text = table(
        [
            _result(*_UNEQUAL, goal=Goal(">=", 10)),
            _result(*_UNEQUAL, goal=Goal(">=", 11)),
            _result(status="failed", reason="nothing arrived\nlog"),
        ]
    )
    _, met, missed, failed = text.splitlines()
    assert met.endswith(" met")
    assert missed.endswith("MISSED")
    assert failed.split(maxsplit=1)[1] == "failed: nothing arrived"


def test_a_table_of_failures_alone_can_be_drawn() -> None:
    assert "failed: why" in table([_result(status="failed", reason="why")])
