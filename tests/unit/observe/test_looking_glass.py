"""The way to an address, as the node's own state tells it: where to, by what, or why not."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from support.exabgp_model import attribute
from support.glass import EDGE, Glass, glass

from gateway.bgp.views import PROTECTED
from gateway.observe.looking_glass import draw_advertised, draw_table, look_up, neighbors
from gateway.observe.snapshot import LookupStatus
from gateway.routing.model import ViaConnection, ViaNextHop

SITE = ViaConnection("site")


@pytest.fixture
def made() -> Glass:
    return glass()


def ask(made: Glass, address: str, source: str = "", instance: str = "") -> LookupStatus:
    return look_up(made.node, ip_address(address), ip_address(source) if source else None, instance)


def test_what_the_table_says_nothing_about_is_the_main_tables(made: Glass):
    found = ask(made, "8.8.8.8")
    assert (found.verdict, found.route, found.guard) == ("main", None, "")
    assert "the main table decides" in found.text


def test_an_instance_lets_nothing_out_but_to_its_own_side(made: Glass):
    assert ask(made, "8.8.8.8", instance="blue").verdict == "dropped"
    assert ask(made, "10.1.2.3", instance="blue").verdict == "main"
    assert ask(made, "168.63.129.16", instance="blue").verdict == "main"


def test_a_tunnel_that_is_down_drops_and_names_the_guard(made: Glass):
    found = ask(made, "172.16.1.9")
    assert (found.verdict, found.guard, found.guard_kind, found.guard_connections) == (
        "dropped",
        "172.16.0.0/16",
        "protected",
        ("site",),
    )
    assert found.route is not None and (found.route.kind, found.route.prefix) == ("static", "172.16.0.0/16")
    assert found.text == "site is not up, and 172.16.0.0/16 does not leave in clear instead"


def test_without_a_child_sa_that_selects_it_the_data_plane_drops(made: Glass):
    made.tunnel_up()
    found = ask(made, "172.16.1.9", "10.1.0.9")
    assert found.verdict == "dropped"
    assert found.text == "no CHILD_SA of site selects it: the data plane drops it"


def test_a_next_hop_beside_the_tunnels_is_in_clear_and_refused_inside_a_protected_prefix(made: Glass):
    way = ViaNextHop(ip_address("10.0.1.1"))
    made.route("192.168.0.0/16", way)
    made.route("172.16.7.0/24", way)
    clear = ask(made, "192.168.4.4")
    assert (clear.verdict, clear.text) == ("clear", "leaves in clear, to next hop 10.0.1.1")
    refused = ask(made, "172.16.7.7")
    assert [(one.prefix, one.state) for one in refused.over] == [("172.16.7.0/24", "refused")]
    assert refused.route is not None and refused.route.prefix == "172.16.0.0/16"


def test_what_was_learned_in_a_tunnel_and_is_gone_stays_dropped(made: Glass):
    made.tunnel_up()
    made.route("192.168.7.0/24", SITE, keep=True)
    learned = ask(made, "192.168.7.7")
    assert (learned.guard, learned.guard_kind, learned.guard_connections) == ("192.168.7.0/24", "learned", ())


def test_the_paths_are_those_to_the_match_and_longer_ones_refused(made: Glass):
    made.model.announce(EDGE, "172.16.0.0/16", EDGE, attribute((65001,)))
    made.model.announce("10.0.1.9", "172.16.0.0/16", "10.0.1.9", attribute((65515, 65001)))
    made.model.announce(EDGE, "172.16.1.0/24", EDGE, attribute((65001, 65010)))
    made.model.announce(EDGE, "172.16.2.0/24", EDGE, attribute((65001,)))
    made.model.settle()
    found = ask(made, "172.16.1.9")
    assert [(one.prefix, one.peer, one.best, one.accepted) for one in found.paths] == [
        ("172.16.1.0/24", "edge", False, False),
        ("172.16.0.0/16", "edge", True, True),
        ("172.16.0.0/16", "vnet", False, True),
    ]
    assert [one.reason for one in found.paths] == ["rejected: own-as-in-path", "only path", PROTECTED]


def test_every_table_and_neighbor_is_drawn(made: Glass):
    rows = {(row.instance, row.prefix, row.kind) for row in draw_table(made.node)}
    assert {("", "172.16.0.0/16", "static"), ("", "172.16.0.0/16", "protected")} <= rows
    (edge,) = neighbors(made.node, EDGE)
    assert neighbors(made.node, "edge") == [edge]
    assert [(one.prefix, one.state) for one in draw_advertised(edge)] == [("10.1.0.0/16", "sent")]
    assert [peer.name for peer in neighbors(made.node)] == ["edge", "vnet"]
    assert not neighbors(made.node, "nobody")
