"""The three levels of a pair: each beats the one before by each attribute alone, whatever the operator's policies add."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from support.exabgp_model import attribute
from support.speaker import EDGE, best, connected, of
from support.speaker import FABRIC as ROUTE_SERVER

from gateway.bgp.attraction import Attraction, Level, mark_of
from gateway.bgp.events import Attract, EpochHeard, ProcessUp, Reconfigure
from gateway.bgp.path import Announcement
from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.bgp.speaker import Speaker

OURS, HOP = IPv4Address("10.0.0.4"), IPv4Address("10.0.0.4")
FABRIC = NeighborSettings("fabric", IPv4Address("10.0.0.1"), 65515, OURS)
SITE = NeighborSettings("site", IPv4Address("169.254.21.2"), 65001, IPv4Address("169.254.21.1"), "tunnel")
INSIDE = NeighborSettings("inside", IPv4Address("169.254.22.2"), 65010, IPv4Address("169.254.22.1"), "tunnel")
OTHER = NeighborSettings("other", IPv4Address("10.0.0.5"), 65010, OURS)
SETTINGS = SpeakerSettings(65010, OURS, (ip_network("10.1.0.0/16"),), neighbors=(FABRIC, SITE, INSIDE, OTHER))


def told(level: Level, neighbor: NeighborSettings, announcement: Announcement, epoch: int = 0) -> Announcement:
    return Attraction(level, epoch).of(SETTINGS, neighbor, announcement)


@pytest.mark.parametrize("neighbor", [FABRIC, SITE])
@pytest.mark.parametrize("med", [None, 50])
def test_towards_another_as_each_level_has_a_shorter_path_and_a_lower_med(neighbor: NeighborSettings, med: int | None):
    plain = Announcement(HOP, (65010, 65001), med=med)
    found = [told(level, neighbor, plain) for level in Level]
    assert [one.as_path for one in found] == [(65010,) * 3 + (65001,), (65010,) * 2 + (65001,), (65010, 65001)]
    assert [one.med for one in found] == [200 + (med or 0), 100 + (med or 0), med or 0]
    assert all(one.local_preference is None for one in found)


@pytest.mark.parametrize("preference", [None, 70])
def test_inside_our_as_each_level_has_a_higher_preference(preference: int | None):
    plain = Announcement(HOP, (65001,), local_preference=preference)
    found = [told(level, INSIDE, plain) for level in Level]
    base = 100 if preference is None else preference
    assert [one.local_preference for one in found] == [base, base + 100, base + 200]
    assert {one.as_path for one in found} == {(65001,)}


def test_the_other_gateway_is_told_everything_as_it_is_and_who_acts():
    plain = Announcement(HOP, (65001,), local_preference=100)
    assert {told(level, OTHER, plain) for level in Level} == {plain}
    assert told(Level.ACTIVE, OTHER, plain, 7) == plain._replace(large_communities=("65010:26488:7",))


@pytest.mark.parametrize(
    ("communities", "mark"),
    [
        ((), None),
        (("65010:1:2", "65001:26488:9"), None),
        (("65010:26488:7",), 7),
        (("65010:26488:7", "65010:1:2", "65010:26488:12"), 12),
        (("650101:26488:7", "65010:264881:7"), None),
    ],
)
def test_the_mark_of_an_epoch_is_read_from_our_as_alone(communities: tuple[str, ...], mark: int | None):
    assert mark_of(communities, 65010) == mark


def test_numbers_stay_within_their_fields():
    high = Announcement(HOP, (), med=0xFFFFFFFF, local_preference=0xFFFFFFFF)
    assert told(Level.STANDBY, FABRIC, high).med == 0xFFFFFFFF
    assert told(Level.TOOK_OVER, INSIDE, high).local_preference == 0xFFFFFFFF


def test_who_acts_says_its_epoch_beside_the_communities_there_are():
    plain = Announcement(HOP, (65010,), large_communities=("65010:1:2",))
    assert told(Level.ACTIVE, FABRIC, plain, 7).large_communities == ("65010:1:2", "65010:26488:7")
    assert told(Level.ACTIVE, FABRIC, plain, 2**32 + 9).large_communities[1] == "65010:26488:9"
    assert told(Level.STANDBY, FABRIC, plain).large_communities == ("65010:1:2",)


def test_the_speaker_tells_everybody_anew_and_ends_it():
    speaker = Speaker(replace(SETTINGS, neighbors=(FABRIC,)))
    speaker.command(ProcessUp(1), 0.0)
    prefix = ip_network("10.1.0.0/16")

    def announced() -> tuple[int, ...]:
        (peer,) = speaker._peers.values()
        return peer.adj_out.wanted[prefix].as_path

    speaker.command(Attract(Attraction(Level.STANDBY)), 1.0)
    assert announced() == (65010, 65010, 65010)
    speaker.command(Attract(Attraction(Level.TOOK_OVER, 3)), 2.0)
    assert announced() == (65010,)
    speaker.command(Attract(None), 3.0)
    assert announced() == (65010,)


def test_a_neighbor_that_comes_later_is_told_the_same_way():
    speaker = Speaker(replace(SETTINGS, neighbors=()))
    speaker.command(Attract(Attraction(Level.STANDBY)), 1.0)
    speaker.command(Reconfigure(replace(SETTINGS, neighbors=(FABRIC,))), 2.0)
    (peer,) = speaker._peers.values()
    assert peer.adj_out.wanted[ip_network("10.1.0.0/16")].as_path == (65010,) * 3


def test_the_mark_of_another_gateway_is_heard_once_whether_or_not_its_path_is_used():
    """A route server brings the other gateway's announcements back with our own AS in the path: a loop, which is not used."""
    model = connected()

    def heard(prefix: str, *marks: list[int], by: str = ROUTE_SERVER) -> list[EpochHeard]:
        model.effects.clear()
        model.announce(by, prefix, by, attribute([65515, 65001], large_community=list(marks)))
        return of(model, EpochHeard)

    ours, next_one = [65001, 26488, 7], [65001, 26488, 8]
    assert heard("10.50.0.0/16", ours) == [EpochHeard("fabric", 7)]
    assert "10.50.0.0/16" not in best(model)
    assert heard("10.51.0.0/16", ours) == [], "ten thousand routes say it once"
    assert heard("10.52.0.0/16") == []
    assert heard("10.50.0.0/16", [65001, 1, 2], next_one) == [EpochHeard("fabric", 8)]
    assert heard("172.20.0.0/16", [65001, 26488, 99], by=EDGE) == [], "a site may say anything"
