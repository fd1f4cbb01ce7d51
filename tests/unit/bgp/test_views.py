"""What status shows of the RIBs: learned paths of one prefix, and what each neighbor is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from support.exabgp_model import attribute
from support.speaker import EDGE, FABRIC, OWN, SETTINGS, SITE, connected

from gateway.bgp import views
from gateway.bgp.events import Close
from gateway.bgp.speaker import Speaker


def states(speaker: Speaker, name: str) -> dict[str, str]:
    return {one.prefix: one.state for one in views.advertised(speaker.instances[""].peers[name])}


def test_what_a_neighbor_is_told_has_its_attributes_and_is_sent_once_exabgp_took_it():
    model = connected()
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,), med=5, community=[[65010, 7]]))
    peer = model.speaker.instances[""].peers["fabric"]
    model.settle()
    told = {one.prefix: one for one in views.advertised(peer)}
    assert {prefix: one.state for prefix, one in told.items()} == {str(SITE): "sent", str(OWN): "sent"}
    one = told[str(SITE)]
    assert (one.as_path, one.next_hop, one.communities) == ((65001, 65010), "10.9.2.1", ("65010:7",))
    assert (one.med, one.local_preference, one.peer, one.instance) == (None, None, "fabric", "")
    assert states(model.speaker, "edge") == {str(OWN): "sent"}


def test_what_waits_for_its_turn_or_is_being_withdrawn_says_so():
    """A second command for a prefix waits until ExaBGP answered the first, and a moment longer."""
    model = connected()
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,)))
    assert states(model.speaker, "fabric")[str(SITE)] == "sent"
    model.announce(EDGE, str(SITE), EDGE, attribute((65010, 65020)))
    assert states(model.speaker, "fabric")[str(SITE)] == "waiting"
    model.withdraw(EDGE, str(SITE))
    assert states(model.speaker, "fabric")[str(SITE)] == "withdrawing"
    model.settle()
    assert states(model.speaker, "fabric") == {str(OWN): "sent"}


def test_what_the_budget_leaves_no_room_for_is_held_back():
    few = tuple(replace(one, budget=1) if one.name == "fabric" else one for one in SETTINGS.neighbors)
    model = connected(replace(SETTINGS, neighbors=few))
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,)))
    model.settle()
    assert states(model.speaker, "fabric") == {str(OWN): "sent", str(SITE): "held-back"}


def test_without_a_session_nothing_counts_as_sent():
    model = connected()
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,)))
    model.settle()
    model.peer_down(FABRIC)
    assert set(states(model.speaker, "fabric").values()) == {"down"}


def test_the_paths_to_one_prefix_name_the_winner_and_those_who_lost():
    model = connected()
    model.announce(EDGE, str(SITE), EDGE, attribute((65010,)))
    model.announce("10.9.1.2", str(SITE), "10.9.1.2", attribute((65011, 65012)))
    model.announce(FABRIC, str(SITE), FABRIC, attribute((65515, 65001)))
    model.settle()
    instance = model.speaker.instances[""]
    found = {one.peer: one for one in instance.paths_status(SITE)}
    assert (found["edge"].best, found["edge"].reason) == (True, "shorter AS path")
    assert (found["edge2"].best, found["edge2"].reason) == (False, "longer AS path than edge")
    assert (found["fabric"].accepted, found["fabric"].reason) == (False, "rejected: own-as-in-path")
    assert not list(instance.paths_status(ip_network("172.16.1.0/24")))
    assert [one.accepted for one in model.speaker.routes_status()] == [True, True, False]
    model.command(Close((SITE,)))
    model.announce(FABRIC, str(SITE), FABRIC, attribute((65515,)))
    model.settle()
    found = {one.peer: one for one in instance.paths_status(SITE)}
    assert (found["edge"].best, found["fabric"].reason) == (True, views.CLOSED)
