"""Tables that a neighbor tells in part: after a return, over a limit, without an End-of-RIB."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.exabgp_model import attribute, event, update
from support.speaker import EDGE, SETTINGS, best, connected, stale

from gateway.bgp.events import (
    ProcessDown,
    ProcessUp,
)
from gateway.bgp.settings import OverLimit


def opened(peer: str) -> str:
    capabilities = {"2": {"name": "route-refresh"}, "64": {"name": "graceful-restart"}}
    body = {"version": 4, "asn": 65010, "hold_time": 30, "router_id": "192.0.2.9", "capabilities": capabilities}
    return event("open", peer, {"direction": "receive", "open": body})


@pytest.mark.parametrize(("restart", "seconds"), [(True, 60), (False, 12)])
def test_what_a_returned_neighbor_does_not_repeat_goes_though_it_may_say_no_end_of_rib(
    restart: bool, seconds: float
) -> None:
    """RFC 4724 2 promises the marker only with graceful restart; else a table is told when nothing came for a while."""
    first = replace(SETTINGS.neighbors[0], graceful_restart=60 if restart else 0)
    model = connected(replace(SETTINGS, neighbors=(first, *SETTINGS.neighbors[1:])))
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.peer_down(EDGE)
    model.say(opened(EDGE))
    model.peer_up(EDGE)
    model.advance(8)
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010]))
    model.settle(9)
    assert best(model).keys() == {"172.16.0.0/16", "172.17.0.0/16"}, "as long as it goes on telling"
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.settle(seconds)
    assert best(model) == {"172.17.0.0/16": "edge"}


def test_what_was_refused_over_the_limit_is_asked_for_when_there_is_room() -> None:
    limited = replace(SETTINGS, neighbors=(replace(SETTINGS.neighbors[0], max_prefixes=2), *SETTINGS.neighbors[1:]))
    model = connected(limited)
    for number in range(4):
        model.announce(EDGE, f"172.{16 + number}.0.0/16", EDGE, attribute([65010]))
    model.settle()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 7]))
    model.settle()
    assert not [line for line in model.sent if "route-refresh" in line], "no room yet"
    model.withdraw(EDGE, "172.16.0.0/16")
    model.settle(5)
    assert [line for line in model.sent if "route-refresh" in line] == [
        f"neighbor {EDGE} announce route-refresh ipv4 unicast"
    ]
    model.announce(EDGE, "172.18.0.0/16", EDGE, attribute([65010]))
    assert best(model).keys() == {"172.17.0.0/16", "172.18.0.0/16"}


def test_the_rest_of_the_update_that_was_too_much_is_not_learned_after_the_teardown() -> None:
    strict = replace(SETTINGS.neighbors[0], max_prefixes=2, over_limit=OverLimit.TEARDOWN)
    model = connected(replace(SETTINGS, neighbors=(strict, *SETTINGS.neighbors[1:])))
    model.say(update(EDGE, {EDGE: [f"172.{16 + number}.0.0/16" for number in range(5)]}))
    model.settle()
    assert best(model) == {}
    assert model.speaker.peers_status()[0].prefixes["adj_in"] == 0


def test_a_neighbor_without_route_refresh_is_not_sent_one() -> None:
    """RFC 2918 4: it would answer with a NOTIFICATION."""
    limited = replace(SETTINGS, neighbors=(replace(SETTINGS.neighbors[0], max_prefixes=1), *SETTINGS.neighbors[1:]))
    model = connected(limited)
    model.say(opened(EDGE).replace('"2"', '"3"'))
    for number in range(2):
        model.announce(EDGE, f"172.{16 + number}.0.0/16", EDGE, attribute([65010]))
    model.withdraw(EDGE, "172.16.0.0/16")
    model.settle(5)
    assert not [line for line in model.sent if "route-refresh" in line]


def test_a_withdrawal_unheard_in_a_young_session_is_noticed_when_it_is_old() -> None:
    model = connected()
    model.peer_down(EDGE)
    model.peer_up(EDGE)
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.command(ProcessDown())
    del model.peers[EDGE].adj_in["172.16.0.0/16"]
    model.lose_answers()
    model.command(ProcessUp(2))
    model.settle(2)
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.settle(6)
    assert best(model) == {"172.17.0.0/16": "edge"}


@pytest.mark.parametrize(
    ("reason", "notification"),
    [
        ("notification sent (2,2)", (True, 2, 2)),
        ("notification received (6,3)", (False, 6, 3)),
        ("closing connection", None),
    ],
)
def test_why_a_session_ended_is_remembered_over_failures_to_connect(
    reason: str, notification: tuple[bool, int, int] | None
) -> None:
    model = connected()
    model.peer_down(EDGE, reason)
    model.advance(60)
    model.peer_down(EDGE, "closing connection")
    assert model.speaker.peers_status()[0].notification == notification
    model.advance(60)
    model.peer_down(EDGE, "closing connection")
    assert model.speaker.peers_status()[0].notification is None
    model.peer_down(EDGE, "notification received (6,4)")
    model.peer_up(EDGE)
    assert model.speaker.peers_status()[0].notification is None
