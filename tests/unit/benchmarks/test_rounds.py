"""Rounds: everything once in each, in random order, repeatable from a seed; unequal conditions make no number."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from support.process import LabError

from benchmarks import rounds
from benchmarks.cases import CASES
from benchmarks.errors import BenchError, Unavailable
from benchmarks.result import Goal, Result
from benchmarks.rounds import NetworkCase, Probe, Quantities, Row, Settings, outcome
from benchmarks.side import Conditions

_ROW = Row("a-row", "Gbit/s", Goal(">=", 1), lambda found: (found["ours"]["gbit"], found["peer"]["gbit"]))
_EQUAL = Conditions(1400, 1500, "1000", "0,1", "bbr", 0, 1438)


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real sample takes its time before every round."""
    monkeypatch.setattr(rounds, "background_share", lambda: 0.25)


def _case(ours: Callable[[Any, float], Quantities], peer: Callable[[Any, float], Quantities]) -> NetworkCase:
    return NetworkCase("a-case", "about", {"ours": Probe(None, ours), "peer": Probe(None, peer)}, (_ROW,))


def _order_of(rounds: int, seed: int) -> list[list[str]]:
    """Which side was measured when, round by round."""
    taken: list[str] = []

    def measure(name: str) -> Callable[[Any, float], Quantities]:
        def one(_: Any, seconds: float) -> Quantities:
            taken.append(name)
            return {"gbit": 1.0}

        return one

    random.seed(seed)
    _case(measure("ours"), measure("peer")).run(Settings(rounds, 1.0))
    return [taken[i : i + 2] for i in range(0, len(taken), 2)]


def test_every_round_measures_every_side_once() -> None:
    order = _order_of(40, seed=1)
    assert len(order) == 40
    assert all(sorted(one) == ["ours", "peer"] for one in order)


def test_the_order_within_a_round_is_random_and_comes_from_the_seed() -> None:
    order = _order_of(40, seed=1)
    first = [one[0] for one in order]
    assert 8 <= first.count("ours") <= 32
    assert order == _order_of(40, seed=1)
    assert order != _order_of(40, seed=2)


def test_a_ratio_pairs_figures_of_the_same_round() -> None:
    speed = iter(range(1, 100))  # a machine that gets faster all the time

    def ours(_: Any, seconds: float) -> Quantities:
        return {"gbit": 10.0 * next(speed)}

    def peer(_: Any, seconds: float) -> Quantities:
        return {"gbit": 1.0 * next(speed)}

    (result,) = _case(ours, peer).run(Settings(5, 1.0))
    assert len(result.pairs) == 5
    assert [one["machine"] for one in result.details] == [{"background": 0.25}] * 5
    for number, (mine, theirs) in enumerate(result.pairs):
        assert {mine / 10, theirs} == {2 * number + 1, 2 * number + 2}


def test_segments_of_different_size_are_no_comparison() -> None:
    case = _case(lambda *_: {"gbit": 1.0, "mss": 1348}, lambda *_: {"gbit": 1.0, "mss": 1386})
    (result,) = outcome(case, Settings(1, 1.0))
    assert result.status == "failed"
    assert "segments of different size" in result.reason


def _raising(error: Exception) -> Callable[[Any, float], Quantities]:
    def one(_: Any, seconds: float) -> Quantities:
        raise error

    return one


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BenchError("peer: nothing arrived"), "failed", "peer: nothing arrived"),
        (LabError("charon ended"), "failed", "charon ended"),
        (subprocess.TimeoutExpired(["iperf3"], 9), "failed", "Command '['iperf3']' timed out after 9 seconds"),
        (Unavailable("not available: no wg"), "not available", "no wg"),
        (Unavailable("not built: no busy_poll yet"), "not built", "no busy_poll yet"),
        (Unavailable("no such thing"), "not available", "no such thing"),
    ],
)
def test_what_goes_wrong_leaves_a_row_without_a_number(error: Exception, status: str, reason: str) -> None:
    (row,) = outcome(_case(_raising(error), lambda *_: {"gbit": 1.0}), Settings(5, 1.0))
    assert (row.name, row.pairs, row.status, row.reason) == ("a-row", (), status, reason)


@dataclass
class _StandIn:
    """As much of a side as a case asks of one that never carries traffic."""

    found: Conditions
    kind: str = "stand-in"
    spins: bool = False
    frozen: bool = False

    def ready(self) -> None: ...

    def conditions(self) -> Conditions:
        return self.found

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False


def _with_sides(ours: _StandIn, peer: _StandIn, measure: Callable[[Any, float], Quantities]) -> list[Result]:
    probes: dict[str, Probe] = {
        "ours": Probe(lambda lab, label: ours, measure),  # type: ignore[arg-type,return-value]
        "peer": Probe(lambda lab, label: peer, measure),  # type: ignore[arg-type,return-value]
    }
    return outcome(NetworkCase("a-case", "about", probes, (_ROW,)), Settings(3, 1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"path_mtu": 1438},
        {"wan_mtu": 9000},
        {"queue_length": "500"},
        {"cores": "0"},
        {"congestion_control": "reno"},
        {"nice": -15},
    ],
)
def test_any_unequal_condition_makes_the_case_fail(change: dict[str, Any]) -> None:
    (row,) = _with_sides(_StandIn(_EQUAL), _StandIn(replace(_EQUAL, **change)), lambda *_: {"gbit": 1.0})
    assert row.status == "failed"
    assert "not equal" in row.reason


def test_the_tunnels_own_mtu_may_differ() -> None:
    (row,) = _with_sides(_StandIn(_EQUAL), _StandIn(replace(_EQUAL, tunnel_mtu=1400)), lambda *_: {"gbit": 1.0})
    assert len(row.pairs) == 3


def test_a_side_that_spins_stands_still_while_the_other_is_measured() -> None:
    spinning, quiet = _StandIn(_EQUAL, spins=True), _StandIn(_EQUAL)
    seen = []

    def measure(side: Any, seconds: float) -> Quantities:
        seen.append((side is spinning, spinning.frozen))
        return {"gbit": 1.0}

    _with_sides(spinning, quiet, measure)
    assert set(seen) == {(True, False), (False, True)}
    assert spinning.frozen


def test_names_of_cases_and_rows_are_unique() -> None:
    names = [case.name for case in CASES]
    rows = [row.name for case in CASES for row in case.void("failed", "")]
    assert len(set(names)) == len(names)
    assert len(set(rows)) == len(rows)


def test_every_case_of_the_network_says_its_goal() -> None:
    assert all(row.goal for case in CASES if isinstance(case, NetworkCase) for row in case.rows)


def test_a_peer_limited_by_the_sender_has_no_figure_but_ours_may_be_a_lower_bound() -> None:
    bound, free = {"gbit": 1.0, "sender_bound": 1.0}, {"gbit": 1.0, "sender_bound": 0.0}
    (row,) = outcome(_case(lambda *_: dict(free), lambda *_: dict(bound)), Settings(1, 1.0))
    assert row.status == "failed"
    assert "its limit is not known" in row.reason
    (row,) = outcome(_case(lambda *_: dict(bound), lambda *_: dict(free)), Settings(1, 1.0))
    assert row.status == "measured"
