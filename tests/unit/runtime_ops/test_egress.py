"""Which way is programmed, and when it is taken back: lookups, the kernel's news, and both crossing."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from gateway.runtime.egress import EgressTable, Pair, Way
from gateway.runtime.rtneighbors import Link, Neighbor, State

LOCAL, REMOTE, HOP = ip_address("192.0.2.1"), ip_address("203.0.113.2"), ip_address("192.0.2.254")
MAC, OTHER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
PAIR = Pair(LOCAL, REMOTE)
WAY = Way(interface=3, next_hop=HOP, mtu=1500, hops=64, link_address=MAC)
SIX = Pair(ip_address("2001:db8::1"), ip_address("2001:db8:9::2"))


class Plane:
    """The data plane: what is programmed, and every call."""

    def __init__(self) -> None:
        self.egress: dict[int, tuple[Pair, Way]] = {}
        self.calls: list[tuple[int, Way | None]] = []

    def program(self, connection: int, pair: Pair, way: Way | None) -> None:
        self.calls.append((connection, way))
        if way is None:
            del self.egress[connection]
        else:
            self.egress[connection] = (pair, way)


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def table(plane: Plane) -> EgressTable:
    """Connection 1 stands."""
    made = EgressTable(plane.program)
    made.follow(1, PAIR)
    look(made, WAY)
    assert plane.egress == {1: (PAIR, WAY)}
    plane.calls.clear()
    return made


def look(table: EgressTable, way: Way | None) -> list[int]:
    """Everything that is due finds this; the connections."""
    asked = table.ask()
    for query in asked:
        table.found(query, way)
    table.answered()
    return [query.connection for query in asked]


def neighbor(state: State, link_address: bytes | None = None, interface: int = 3) -> Neighbor:
    return Neighbor(interface, HOP, state, link_address)


def test_nothing_is_programmed_before_the_neighbor_is_resolved(plane: Plane) -> None:
    table = EgressTable(plane.program)
    table.follow(1, PAIR)
    look(table, replace(WAY, link_address=None))
    assert plane.calls == []
    table.neighbor_changed(neighbor(State.INCOMPLETE))
    assert plane.calls == []
    table.neighbor_changed(neighbor(State.REACHABLE, MAC))
    assert plane.egress == {1: (PAIR, WAY)}
    assert not table.due


def test_a_new_link_address_is_programmed_at_once_and_a_lost_one_taken_back(table: EgressTable, plane: Plane) -> None:
    table.neighbor_changed(neighbor(State.REACHABLE, OTHER_MAC))
    assert plane.calls == [(1, replace(WAY, link_address=OTHER_MAC))]
    table.neighbor_changed(neighbor(State.FAILED))
    assert plane.calls[1:] == [(1, None)]
    table.neighbor_changed(neighbor(State.REACHABLE, MAC))
    assert plane.egress == {1: (PAIR, WAY)}
    assert not table.due, "the route is as it was"


def test_the_same_address_again_and_other_neighbors_change_nothing(table: EgressTable, plane: Plane) -> None:
    for state in (State.REACHABLE, State.DELAY, State.PROBE, State.STALE):
        table.neighbor_changed(neighbor(state, MAC))
    table.neighbor_changed(neighbor(State.REACHABLE, OTHER_MAC, interface=4))
    table.neighbor_changed(Neighbor(3, ip_address("192.0.2.77"), State.FAILED, None))
    assert plane.calls == []
    assert not table.due


def test_a_stale_neighbor_in_use_is_to_be_verified_and_no_other(table: EgressTable) -> None:
    table.neighbor_changed(neighbor(State.STALE, MAC, interface=4))
    table.neighbor_changed(neighbor(State.PROBE, MAC))
    assert not table.stale
    table.neighbor_changed(neighbor(State.STALE, MAC))
    assert list(table.stale) == [(3, HOP)]


@pytest.mark.parametrize(
    ("prefix", "concerned"),
    [("0.0.0.0/0", True), ("203.0.112.0/23", True), ("203.0.113.2/32", True), ("203.0.113.3/32", False),
     ("192.0.2.0/24", False), ("::/0", False), ("cb00:7102::/32", False)],
)  # fmt: skip
def test_a_route_takes_back_what_goes_into_its_prefix(
    table: EgressTable, plane: Plane, prefix: str, concerned: bool
) -> None:
    network = ip_network(prefix)
    table.route_changed(network.prefixlen, network.network_address.packed, network.max_prefixlen // 8)
    assert plane.calls == ([(1, None)] if concerned else [])
    assert table.due is concerned


def test_a_default_route_has_no_destination_in_its_message(table: EgressTable, plane: Plane) -> None:
    table.route_changed(0, b"", 4)
    assert plane.egress == {}


def test_of_two_families_each_follows_its_own_routes(table: EgressTable, plane: Plane) -> None:
    table.follow(2, SIX)
    look(table, WAY)
    table.route_changed(0, b"", 16)
    assert list(plane.egress) == [1]
    table.route_changed(0, b"", 4)
    assert plane.egress == {}


def test_a_link_takes_back_what_leaves_by_it_and_has_the_rest_verified(table: EgressTable, plane: Plane) -> None:
    down = Link(3, "eth0", 1500, working=False, ethernet=True)
    table.link_changed(replace(down, index=4))
    assert not table.due
    table.link_changed(replace(down, index=4, working=True))
    assert table.due, "another way may be the better one now"
    assert plane.calls == []
    look(table, WAY)
    assert plane.calls == [], "it was not"
    table.link_changed(down)
    assert plane.calls == [(1, None)]


def test_our_address_a_router_a_rule_and_lost_news_take_back_too(table: EgressTable, plane: Plane) -> None:
    for doubt in (
        lambda: table.address_changed(LOCAL),
        lambda: table.path_changed(REMOTE.packed),
        table.doubt,
    ):
        doubt()
        assert plane.egress == {}
        assert look(table, WAY) == [1]
        assert plane.egress == {1: (PAIR, WAY)}
    table.address_changed(ip_address("192.0.2.9"))
    table.path_changed(HOP.packed)
    table.path_changed(b"")
    assert not table.due


def test_what_is_not_found_stays_with_the_raw_socket(table: EgressTable, plane: Plane) -> None:
    table.verify()
    look(table, None)
    assert plane.egress == {}
    table.neighbor_changed(neighbor(State.REACHABLE, MAC))
    assert plane.egress == {}


def test_an_answer_that_news_overtook_is_not_believed(table: EgressTable, plane: Plane) -> None:
    for news in (
        lambda: table.route_changed(24, ip_address("203.0.113.0").packed, 4),
        lambda: table.neighbor_changed(neighbor(State.REACHABLE, OTHER_MAC)),
        table.doubt,
    ):
        table.verify()
        (query,) = table.ask()
        news()
        table.found(query, replace(WAY, link_address=bytes(6)))
        table.answered()
        assert plane.egress.get(1, (PAIR, WAY))[1].link_address != bytes(6)
        assert table.due, "it is asked again"
        look(table, WAY)
        assert plane.egress == {1: (PAIR, WAY)}


def test_news_of_a_neighbor_before_the_first_answer_counts(plane: Plane) -> None:
    table = EgressTable(plane.program)
    table.follow(1, PAIR)
    (query,) = table.ask()
    table.neighbor_changed(neighbor(State.FAILED))
    table.found(query, WAY)
    table.answered()
    assert plane.calls == []
    assert table.due


def test_a_peer_that_moves_is_looked_up_anew(table: EgressTable, plane: Plane) -> None:
    table.follow(1, PAIR)
    assert not table.due, "nothing is new"
    (query,) = (table.verify(), table.ask())[1]
    elsewhere = Pair(LOCAL, ip_address("203.0.113.3"))
    table.follow(1, elsewhere)
    assert plane.egress == {}
    table.found(query, WAY)
    table.answered()
    assert plane.egress == {}, "that was the old address"
    look(table, WAY)
    assert plane.egress == {1: (elsewhere, WAY)}
    assert table.local_of(1) == LOCAL


def test_a_connection_that_is_gone_is_gone_whatever_comes(table: EgressTable, plane: Plane) -> None:
    table.verify()
    (query,) = table.ask()
    table.forget(1)
    assert plane.egress == {}
    table.found(query, WAY)
    table.answered()
    table.doubt()
    table.neighbor_changed(neighbor(State.REACHABLE, OTHER_MAC))
    table.forget(1)
    assert plane.calls == [(1, None)]
    assert not table.due
    assert table.local_of(1) is None
