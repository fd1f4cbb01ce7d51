"""The health by which a gateway is judged: whole reasons only where a side is lost whole, the number for what is lost in part."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.ha.message import HealthReason
from gateway.ha.roles import ElectionSettings
from gateway.node.health import Health

OURS = IPv4Address("10.0.0.4")
SERVERS = tuple(NeighborSettings(f"rs{n}", IPv4Address(f"10.0.0.{n}"), 65515, OURS) for n in (1, 2))
EDGE = NeighborSettings("edge", IPv4Address("169.254.21.2"), 65001, IPv4Address("169.254.21.1"), "tunnel")
OTHER = NeighborSettings("other", IPv4Address("10.0.0.5"), 65010, OURS)
SETTINGS = SpeakerSettings(65010, OURS, neighbors=(*SERVERS, EDGE, OTHER))


def good() -> Health:
    health = Health()
    health.neighbors(SETTINGS)
    for name in ("rs1", "rs2", "edge"):
        health.session(name, up=True)
    health.tunnel("one", carries=True)
    health.tunnel("two", carries=True)
    health.set(data_plane=True)
    return health


def test_a_gateway_that_has_just_begun_is_not_well():
    judged = Health().judge()
    assert judged.reasons is HealthReason.DATA_PLANE
    assert judged.health == 940


def test_without_a_copy_it_is_the_second_choice_and_no_reason_not_to_take_over():
    health = good()
    health.set(copy=False)
    judged = health.judge()
    assert (judged.reasons, judged.health) == (HealthReason.COPY, 960)
    assert not judged.reasons & ElectionSettings("gw-a").disqualifying


def test_everything_works():
    judged = good().judge()
    assert (judged.reasons, judged.health) == (HealthReason(0), 1000)


def test_one_of_two_tunnels_is_a_lower_number_and_no_reason_both_are():
    health = good()
    health.tunnel("one", carries=False)
    assert (health.judge().reasons, health.judge().health) == (HealthReason(0), 850)
    health.tunnel("two", carries=False)
    assert (health.judge().reasons, health.judge().health) == (HealthReason.TUNNELS, 700)
    health.tunnel("one", carries=None)
    assert health.judge().health == 700, "the one that is left is down"
    health.tunnel("two", carries=None)
    assert health.judge().health == 1000, "there is nothing to be down"


def test_a_side_of_bgp_is_lost_with_its_last_session_and_the_other_gateway_is_no_side():
    health = good()
    health.session("rs1", up=False)
    assert (health.judge().reasons, health.judge().health) == (HealthReason(0), 900)
    health.session("rs2", up=False)
    assert health.judge().reasons is HealthReason.BGP
    health.session("rs2", up=True)
    health.session("other", up=True)
    health.session("edge", up=False)
    assert health.judge().reasons is HealthReason.BGP


def test_links_and_data_plane_count_whole():
    health = good()
    health.set(links=False)
    assert (health.judge().reasons, health.judge().health) == (HealthReason.LINK, 600)
    health.set(data_plane=False)
    assert health.judge().reasons == HealthReason.LINK | HealthReason.DATA_PLANE
    health.set(links=True, data_plane=True)
    assert health.judge().health == 1000


def test_it_says_when_there_is_something_to_tell_and_only_then():
    health = good()
    health.judge()
    health.session("rs1", up=True)
    health.tunnel("one", carries=True)
    health.set(links=True)
    health.session("nobody", up=False)
    assert not health.changed
    health.session("rs1", up=False)
    assert health.changed


def test_over_a_reload_sessions_are_remembered_and_those_that_go_count_no_more():
    health = good()
    health.session("rs2", up=False)
    health.neighbors(replace(SETTINGS, neighbors=(SERVERS[0], EDGE)), {"rs1", "edge"})
    assert health.judge().health == 1000
    health.neighbors(None)
    assert health.judge().health == 1000
