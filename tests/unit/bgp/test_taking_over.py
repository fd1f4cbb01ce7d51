"""A speaker that starts beside an ExaBGP with sessions: what is announced stands until it is known what shall be."""

from __future__ import annotations

import pytest
from support.exabgp_model import ExabgpModel, attribute, end_of_rib, refresh, row
from support.speaker import EDGE, FABRIC, SETTINGS, connected

from gateway.bgp.events import ProcessUp, Shutdown
from gateway.bgp.speaker import SELECTION_DEFERRAL, Speaker

MANY = [f"172.16.{number}.0/24" for number in range(40)]


@pytest.fixture
def former() -> ExabgpModel:
    """Its edge taught forty prefixes, which the fabric was told."""
    model = connected()
    for prefix in MANY:
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.settle()
    return model


def successor(former: ExabgpModel) -> ExabgpModel:
    model = ExabgpModel(Speaker(SETTINGS), SETTINGS)
    model.peers = former.peers
    model.now = former.now + 1
    model.command(ProcessUp(1))
    return model


def withdrawn(model: ExabgpModel) -> list[str]:
    return [line for line in model.sent if "withdraw" in line]


def test_nothing_is_withdrawn_that_will_be_announced_again(former: ExabgpModel) -> None:
    former.peers[EDGE].since = former.now
    taught = former.peers[EDGE].adj_in
    former.peers[EDGE].adj_in = {}  # ExaBGP has read none of it yet
    model = successor(former)
    model.settle()
    for prefix, (hop, attributes) in taught.items():
        model.announce(EDGE, prefix, hop, attributes)
    model.say(end_of_rib(EDGE))
    model.settle()
    assert len(model.speaker.loc_rib.best) == len(MANY)
    assert withdrawn(model) == []
    assert len(former.peers[FABRIC].adj_out) == len(MANY) + 1


def test_what_went_meanwhile_is_withdrawn_once_all_is_known(former: ExabgpModel) -> None:
    del former.peers[EDGE].adj_in[MANY[0]]
    model = successor(former)
    model.answer(3)
    assert withdrawn(model) == []
    model.settle()
    assert withdrawn(model) == [f"neighbor {FABRIC} withdraw route {MANY[0]}"]


def test_a_young_session_is_asked_for_its_table_again_before_anything_goes(former: ExabgpModel) -> None:
    former.peers[EDGE].since = former.now
    gone = former.peers[EDGE].adj_in.pop(MANY[0])
    model = successor(former)
    model.settle()
    assert f"neighbor {EDGE} announce route-refresh ipv4 unicast" in model.sent
    assert withdrawn(model) == []
    model.say(refresh(EDGE, "begin"))
    for prefix, (hop, attributes) in former.peers[EDGE].adj_in.items():
        model.announce(EDGE, prefix, hop, attributes)
    model.say(refresh(EDGE, "end"))
    model.settle()
    assert withdrawn(model) == [f"neighbor {FABRIC} withdraw route {MANY[0]}"]
    assert gone[0] == EDGE


def test_a_peer_that_never_says_that_it_is_done_is_waited_for_only_so_long(former: ExabgpModel) -> None:
    former.peers[EDGE].since = former.now
    del former.peers[EDGE].adj_in[MANY[0]]
    model = successor(former)
    model.settle(SELECTION_DEFERRAL - 5)
    assert withdrawn(model) == []
    model.settle(10)
    assert withdrawn(model) == [f"neighbor {FABRIC} withdraw route {MANY[0]}"]


def test_a_shutdown_does_not_wait(former: ExabgpModel) -> None:
    former.peers[EDGE].since = former.now
    model = successor(former)
    model.answer()
    model.command(Shutdown())
    model.settle()
    assert not any(peer.adj_out for peer in former.peers.values())


def test_what_is_found_as_it_shall_be_is_not_said_again(former: ExabgpModel) -> None:
    """Ten thousand commands would keep ExaBGP busy for seconds."""
    model = successor(former)
    found = attribute([65001, 65010])
    model.answer(2)
    rows = [
        row(FABRIC, str(prefix), "10.9.2.1", found) for prefix in former.peers[FABRIC].adj_out if str(prefix) in MANY
    ]
    model.unanswered[0] = [*rows, "done"]
    model.settle()
    assert not [line for line in model.sent if "172.16." in line]
    assert model.sent


def test_end_of_rib_is_heard_by_the_speaker_before(former: ExabgpModel) -> None:
    former.peers[EDGE].since = former.now
    del former.peers[EDGE].adj_in[MANY[0]]
    model = successor(former)
    model.answer()
    model.say(end_of_rib(EDGE))
    model.settle()
    assert withdrawn(model) == [f"neighbor {FABRIC} withdraw route {MANY[0]}"]
