"""RFC 4271 9.1.2, step by step, and against a second formulation."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bgp.decision import decide
from gateway.bgp.path import Attributes, Path
from gateway.bgp.rib import Candidate

PREFIX = ip_network("10.0.0.0/8")


def candidate(name: str, number: int, *, lost: bool = False, **more: Any) -> Candidate:
    fields: dict[str, Any] = {"as_path": (65010, 65020), "as_path_length": 2, "origin": "igp"}
    path_fields: dict[str, Any] = {"external": True, "router_id": number}
    for key, value in more.items():
        (path_fields if key in ("external", "router_id") else fields)[key] = value
    address = ip_address(f"192.0.2.{number}")
    return Candidate(Path(PREFIX, name, "", address, Attributes(**fields), address, 65010, **path_fields), lost)


CASES = [
    (
        {"lost": False},
        {"lost": True, "local_preference": 500},
        "its session is up",
        "its session is down, less preferred",
    ),
    (
        {"local_preference": 200},
        {"as_path": (), "as_path_length": 0},
        "higher local preference",
        "lower local preference",
    ),
    ({}, {"local_preference": 99}, "higher local preference", "lower local preference"),
    ({"as_path": (1,), "as_path_length": 1, "origin": "egp"}, {}, "shorter AS path", "longer AS path"),
    (
        {"as_path": (1, 2, 3), "as_path_length": 2},
        {"as_path": (1, 2, 3), "as_path_length": 3},
        "shorter AS path",
        "longer AS path",
    ),
    ({"med": 9}, {"origin": "egp"}, "lower origin", "higher origin"),
    ({"origin": "egp"}, {"origin": "incomplete"}, "lower origin", "higher origin"),
    ({"med": 1, "external": False}, {"med": 2}, "lower MED", "higher MED"),
    ({}, {"med": 1}, "lower MED", "higher MED"),
    ({}, {"external": False, "router_id": 0}, "external over internal", "internal, less preferred"),
    ({"router_id": 1}, {"router_id": 2}, "lower BGP identifier", "higher BGP identifier"),
    ({"router_id": 1}, {"router_id": 1}, "lower peer address", "higher peer address"),
]


@pytest.mark.parametrize(("winner", "loser", "won", "lost"), CASES)
def test_each_step_decides_and_says_so(winner: dict[str, Any], loser: dict[str, Any], won: str, lost: str) -> None:
    # the loser has the better address unless the last step is meant
    last = won == "lower peer address"
    a, b = candidate("a", 5, **winner), candidate("b", 9 if last else 2, **loser)
    for order in ([a, b], [b, a]):
        best, reason, losers = decide(order)
        assert (best, reason, losers) == (a, won, {"b": f"{lost} than a"})


def test_a_lone_path_is_the_only_path() -> None:
    only = candidate("a", 1)
    assert decide([only]) == (only, "only path", {})


def test_med_is_compared_only_within_one_neighboring_as() -> None:
    a = candidate("a", 1, as_path=(65010, 7), med=100)
    b = candidate("b", 2, as_path=(65099, 7), med=1)
    best, reason, losers = decide([a, b])
    assert best is a
    assert reason == "lower BGP identifier"
    assert losers == {"b": "higher BGP identifier than a"}


def test_med_eliminates_within_its_group_before_the_tie_break_whatever_the_order() -> None:
    """The example of RFC 4271 9.1.2.2 c that a pairwise comparison gets wrong, depending on the order."""
    paths = [
        candidate("a", 1, as_path=(65010, 7), med=10),
        candidate("b", 2, as_path=(65099, 7), med=5),
        candidate("c", 3, as_path=(65010, 7), med=1),
    ]
    assert {decide(order)[0].path.neighbor for order in permutations(paths)} == {"b"}


def oracle(candidates: list[Candidate]) -> Candidate:
    """The same decision, said differently: rank, cross out by MED, rank."""

    def degree(one: Candidate) -> tuple[object, ...]:
        attributes = one.path.attributes
        preference = 100 if attributes.local_preference is None else attributes.local_preference
        return (
            one.lost,
            -preference,
            attributes.as_path_length,
            {"igp": 0, "egp": 1, "incomplete": 2}[attributes.origin],
        )

    best = min(degree(one) for one in candidates)
    equal = [one for one in candidates if degree(one) == best]
    left = [
        one for one in equal
        if not any(
            other.path.neighbor_as == one.path.neighbor_as
            and (other.path.attributes.med or 0) < (one.path.attributes.med or 0)
            for other in equal
        )
    ]  # fmt: skip
    return min(left, key=lambda one: (not one.path.external, one.path.router_id, int(one.path.peer_address)))


@st.composite
def candidates(draw: Any) -> list[Candidate]:
    made = []
    for number in range(draw(st.integers(1, 6))):
        path = tuple(draw(st.lists(st.sampled_from([1, 2, 3]), max_size=3)))
        one = candidate(
            f"n{number}", number, lost=draw(st.booleans()), as_path=path, as_path_length=len(path),
            origin=draw(st.sampled_from(["igp", "egp"])), med=draw(st.sampled_from([None, 1, 2])),
            local_preference=draw(st.sampled_from([None, 100, 200])), external=draw(st.booleans()),
            router_id=draw(st.integers(0, 2)),
        )  # fmt: skip
        made.append(one)
    return made


@given(candidates(), st.randoms(use_true_random=False))
def test_the_decision_is_that_of_the_second_formulation_in_any_order(paths: list[Candidate], random: Any) -> None:
    expected = oracle(paths)
    random.shuffle(paths)
    best, reason, losers = decide(paths)
    assert best == expected
    assert losers.keys() == {one.path.neighbor for one in paths} - {best.path.neighbor}
    assert (reason == "only path") == (len(paths) == 1)
