"""Protected prefixes that the fabric would carry itself: they are named, and outdone by longer ones where asked."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Network, ip_network

from hypothesis import given
from hypothesis import strategies as st
from support.exabgp_model import ExabgpModel, attribute
from support.speaker import EDGE, FABRIC, SETTINGS, connected

from gateway.bgp.events import Reconfigure
from gateway.bgp.settings import SpeakerSettings
from gateway.bgp.underlay import Underlay

SITE = ip_network("172.16.0.0/12")


def settings(*, outdo: bool, budget: int = 0) -> SpeakerSettings:
    edge, edge2, fabric, six = SETTINGS.neighbors
    return replace(
        SETTINGS, protected=(SITE,), neighbors=(edge, edge2, replace(fabric, outdo=outdo, budget=budget), six)
    )


def told(model: ExabgpModel, address: str = FABRIC) -> set[str]:
    model.settle()
    return {str(prefix) for prefix in model.peers[address].adj_out}


def carried(model: ExabgpModel) -> tuple[int, tuple[str, ...]]:
    peer = next(one for one in model.speaker.peers_status() if one.name == "fabric")
    return peer.prefixes["carried"], peer.carried


def test_what_the_fabric_teaches_of_protected_prefixes_is_named() -> None:
    model = connected(settings(outdo=False))
    for prefix in ("172.16.1.0/24", "10.50.0.0/16", "172.0.0.0/8", "172.16.0.0/12"):
        model.announce(FABRIC, prefix, FABRIC, attribute([65515, 12076]))
    assert carried(model) == (2, ("172.16.1.0/24", "172.16.0.0/12"))
    assert told(model) == {"10.200.0.0/16"}
    model.withdraw(FABRIC, "172.16.1.0/24")
    assert carried(model) == (1, ("172.16.0.0/12",))


def test_what_comes_through_a_tunnel_is_as_it_should_be() -> None:
    model = connected(settings(outdo=False))
    model.announce(EDGE, "172.16.1.0/24", EDGE, attribute([65010]))
    # and our own announcement of it, come back
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 65001, 65010]))
    assert carried(model) == (0, ())


def test_our_own_halves_that_come_back_are_not_halved_again() -> None:
    made = settings(outdo=True)
    edge, edge2, fabric, six = made.neighbors
    model = connected(replace(made, neighbors=(edge, edge2, replace(fabric, allow_own_as=2), six)))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076]))
    model.announce(FABRIC, "172.16.1.0/25", FABRIC, attribute([65515, 65001]))
    assert told(model) == {"10.200.0.0/16", "172.16.1.0/25", "172.16.1.128/25"}


def test_it_is_told_the_halves_while_it_teaches_the_whole() -> None:
    model = connected(settings(outdo=True))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076]))
    assert told(model) == {"10.200.0.0/16", "172.16.1.0/25", "172.16.1.128/25"}
    assert "172.16.1.0/25" not in told(model, EDGE)
    assert carried(model) == (0, ())
    model.withdraw(FABRIC, "172.16.1.0/24")
    assert told(model) == {"10.200.0.0/16"}


def test_what_cannot_be_outdone_stays_named() -> None:
    model = connected(settings(outdo=True, budget=2))
    model.announce(FABRIC, "172.16.1.1/32", FABRIC, attribute([65515, 12076]))
    assert carried(model) == (1, ("172.16.1.1/32",))
    # the budget has room for one half beside our own prefix
    model.announce(FABRIC, "172.16.2.0/24", FABRIC, attribute([65515, 12076]))
    assert carried(model)[0] == 2
    assert len(told(model)) == 2


def test_it_begins_and_ends_with_the_configuration() -> None:
    model = connected(settings(outdo=False))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076]))
    assert len(told(model)) == 1
    model.command(Reconfigure(settings(outdo=True)))
    assert len(told(model)) == 3
    model.command(Reconfigure(replace(settings(outdo=True), protected=())))
    assert len(told(model)) == 1
    assert carried(model) == (0, ())


def test_to_a_protected_prefix_a_path_in_a_tunnel_comes_before_any_in_clear() -> None:
    model = connected(settings(outdo=False))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515]))
    model.announce(EDGE, "172.16.1.0/24", EDGE, attribute([65010, 65010, 65010]))
    reasons = {route.peer: (route.best, route.reason) for route in model.speaker.routes_status()}
    assert reasons == {
        "edge": (True, "only path"),
        "fabric": (False, "in clear, and the prefix is protected: a path in a tunnel comes first"),
    }
    model.announce(FABRIC, "10.50.0.0/16", FABRIC, attribute([65515]))
    model.announce(EDGE, "10.50.0.0/16", EDGE, attribute([65010, 65010, 65010]))
    assert model.speaker.loc_rib.best[ip_network("10.50.0.0/16")].path.neighbor == "fabric"


def test_parts_that_the_site_itself_originates_are_halved_too_and_others_only_named() -> None:
    model = connected(settings(outdo=True))
    model.announce(FABRIC, "172.16.0.0/16", FABRIC, attribute([65515, 12076, 65010]))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076, 65010]))
    parts = {"172.16.0.0/17", "172.16.128.0/17", "172.16.1.0/25", "172.16.1.128/25"}
    assert told(model) == {"10.200.0.0/16", *parts}
    # by whom else, as another gateway that the route server took the mark from
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 65002]))
    assert told(model) == {"10.200.0.0/16", "172.16.0.0/17", "172.16.128.0/17"}
    assert carried(model) == (1, ("172.16.1.0/24",))
    model.withdraw(FABRIC, "172.16.0.0/16")
    assert told(model) == {"10.200.0.0/16"}, "what answers it goes later"
    model.announce(FABRIC, "172.16.0.0/16", FABRIC, attribute([65515, 12076, 65010]))
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076, 65010]))
    assert told(model) == {"10.200.0.0/16", *parts}


def test_a_part_that_came_first_is_given_up_when_the_whole_comes_with_another_origin() -> None:
    model = connected(settings(outdo=True))
    model.announce(FABRIC, "172.16.1.0/25", FABRIC, attribute([65515, 65002]))
    assert told(model) == {"10.200.0.0/16", "172.16.1.0/26", "172.16.1.64/26"}
    model.announce(FABRIC, "172.16.1.0/24", FABRIC, attribute([65515, 12076]))
    assert told(model) == {"10.200.0.0/16", "172.16.1.0/25", "172.16.1.128/25"}


PARTS = st.builds(
    lambda number, length: IPv4Network((number << 24, length), strict=False), st.integers(8, 11), st.integers(4, 10)
)
TAUGHT = st.dictionaries(st.sampled_from(["rs1", "rs2"]), st.integers(1, 3), max_size=2)


class Plain:
    """The same by looking at all of them for each."""

    def __init__(self) -> None:
        self.known: dict[IPv4Network, Mapping[str, int]] = {}
        self.doubtful: set[tuple[IPv4Network, str]] = set()

    def notice(self, prefix: IPv4Network, neighbors: Mapping[str, int]) -> set[IPv4Network]:
        if neighbors == self.known.pop(prefix, {}):
            if neighbors:
                self.known[prefix] = neighbors
            return set()
        changed = {prefix}
        for name, origin in neighbors.items():
            around = {by[name] for one, by in self.known.items() if prefix.subnet_of(one) and name in by}
            if around:
                (self.doubtful.add if around != {origin} else self.doubtful.discard)((prefix, name))
            inside = {one for one, by in self.known.items() if one.subnet_of(prefix) and by.get(name, origin) != origin}
            self.doubtful |= {(one, name) for one in inside}
            changed |= inside
        if neighbors:
            self.known[prefix] = neighbors
        return changed


@given(st.lists(st.tuples(PARTS, TAUGHT), max_size=30))
def test_what_is_around_and_inside_is_found_without_looking_at_all(
    history: list[tuple[IPv4Network, dict[str, int]]],
) -> None:
    underlay, plain = Underlay(), Plain()
    for prefix, neighbors in history:
        assert set(underlay.notice(prefix, neighbors)) == plain.notice(prefix, neighbors)
    for name in ("rs1", "rs2"):
        assert set(underlay.carried(name)) == {one for one, by in plain.known.items() if name in by}
        halved = {one for one in underlay.carried(name) if underlay.outdoes(next(one.subnets()), name)}
        assert halved == {one for one in underlay.carried(name) if (one, name) not in plain.doubtful}


def test_thousands_that_many_originate_cost_no_pass_over_all_for_each() -> None:
    underlay, begun = Underlay(), time.thread_time()
    for number in range(4000):
        underlay.notice(IPv4Network((10 << 24 | number << 8, 24)), {"rs": 65000 + number % 50})
    assert time.thread_time() - begun < 1.5  # 0.1 s; 4.5 s with a pass for each
    assert len(underlay.carried("rs")) == 4000
