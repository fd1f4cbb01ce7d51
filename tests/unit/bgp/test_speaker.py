"""The speaker against a model of ExaBGP: the walk of a route, staleness, pacing, configuration."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from support.exabgp_model import attribute, end_of_rib, event, refresh, row, update
from support.speaker import EDGE, EDGE2, FABRIC, OWN, SETTINGS, SITE, best, connected, of, stale

from gateway.bgp import policy
from gateway.bgp.events import (
    BestChanged,
    Close,
    CommandRefused,
    Drained,
    PeerDown,
    PeerUp,
    ProcessDown,
    Reconfigure,
    Rejected,
    Shutdown,
)
from gateway.bgp.link import WINDOW

# ---- the walk of a route ----


def test_a_site_prefix_becomes_best_and_reaches_the_fabric_but_not_the_other_site() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    (change,) = of(model, BestChanged)
    assert change.prefix == SITE
    assert change.path.connection == "site"
    assert change.path.next_hop == ip_address(EDGE)
    assert model.sent == [
        f"neighbor {FABRIC} announce route 172.16.0.0/16 next-hop 10.9.2.1 origin igp as-path [ 65001 65010 ]"
    ]
    model.settle()
    model.withdraw(EDGE, "172.16.0.0/16")
    assert of(model, BestChanged)[-1] == BestChanged(SITE, None)
    assert model.sent[-1] == f"neighbor {FABRIC} withdraw route 172.16.0.0/16"


def test_lines_that_come_together_say_what_they_say_one_by_one() -> None:
    lines = [
        update(EDGE, {EDGE: [f"20.{n >> 8}.{n & 255}.0/24"]}, attributes=attribute([65010, n + 1])) for n in range(300)
    ]
    lines[200:200] = ["done", "no such thing", update(EDGE, withdraw=["20.0.7.0/24"]), end_of_rib(EDGE)]
    together, alone = connected(), connected()
    together.say("\n".join(lines))
    for line in lines:
        alone.say(line)
    for model in (together, alone):
        model.settle()
    assert together.speaker.loc_rib.best == alone.speaker.loc_rib.best
    assert len(together.speaker.loc_rib.best) == 299
    assert sorted(together.sent) == sorted(alone.sent)


def test_closing_a_prefix_decides_anew_only_where_a_path_in_clear_is_offered() -> None:
    model = connected()
    other = ip_network("172.17.0.0/16")
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 1, 2]))
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010]))
    model.announce(FABRIC, "172.16.0.0/16", FABRIC, attribute([65515]))
    assert best(model)["172.16.0.0/16"] == "fabric"
    instance = model.speaker.instances[""]
    instance.command(Close((SITE, other)))
    assert instance.undecided == 1
    model.settle()
    assert best(model)["172.16.0.0/16"] == "edge"
    instance.command(Close((SITE, other), closed=False))
    model.settle()
    assert best(model)["172.16.0.0/16"] == "fabric"


def test_own_prefixes_are_announced_to_every_session_of_their_family() -> None:
    model = connected()
    assert {address for address, peer in model.peers.items() if OWN in peer.adj_out} == {EDGE, EDGE2, FABRIC}


def test_a_better_path_takes_over_and_the_loser_says_why() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 7]))
    model.announce(EDGE2, "172.16.0.0/16", EDGE2, attribute([65011]))
    routes = {route.peer: route for route in model.speaker.routes_status()}
    assert routes["edge2"].best
    assert routes["edge2"].reason == "shorter AS path"
    assert not routes["edge"].best
    assert routes["edge"].reason == "longer AS path than edge2"
    assert [change.path.neighbor for change in of(model, BestChanged)] == ["edge", "edge2"]


def test_local_preference_from_another_as_is_ignored() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 7], local_preference=900))
    model.announce(EDGE2, "172.16.0.0/16", EDGE2, attribute([65011]))
    assert best(model) == {"172.16.0.0/16": "edge2"}


def test_the_same_update_again_changes_nothing() -> None:
    model = connected()
    for _ in range(3):
        model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    assert len(of(model, BestChanged)) == 1
    assert len(model.sent) == 1


def test_a_rejected_path_is_named_once_counted_always_and_never_best() -> None:
    model = connected()
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010, 65001]))
    assert of(model, Rejected) == [Rejected("edge", SITE, policy.OWN_AS)]
    assert model.speaker.counters[policy.OWN_AS] == 2
    assert best(model) == {}
    assert {route.reason for route in model.speaker.routes_status()} == {"rejected: own-as-in-path"}


def test_a_path_that_turns_bad_replaces_its_good_predecessor() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 65001]))
    assert best(model) == {}


def test_prefixes_beyond_the_limit_are_discarded_and_said() -> None:
    limited = replace(SETTINGS, neighbors=(replace(SETTINGS.neighbors[0], max_prefixes=2), *SETTINGS.neighbors[1:]))
    model = connected(limited)
    for number in range(5):
        model.announce(EDGE, f"172.{16 + number}.0.0/16", EDGE, attribute([65010]))
    assert len(best(model)) == 2
    assert [rejected.reason for rejected in of(model, Rejected)] == [policy.MAX_PREFIXES]
    status = model.speaker.peers_status()[0]
    assert status.prefixes["accepted"] == 2
    assert status.prefixes["discarded"] == 3
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010, 9]))  # a known one may change
    assert model.speaker.loc_rib.best[SITE].path.as_path == (65010, 9)


# ---- sessions and staleness ----


def test_a_lost_session_leaves_its_paths_stale_until_the_timer() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.peer_down(EDGE, "hold timer expired")
    assert of(model, PeerDown) == [PeerDown("edge", "hold timer expired")]
    assert best(model) == {"172.16.0.0/16": "edge"}
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.advance(59.9)
    assert best(model)
    model.advance(0.2)
    assert best(model) == {}
    assert of(model, BestChanged)[-1] == BestChanged(SITE, None)


def test_with_no_stale_time_paths_go_with_their_session() -> None:
    model = connected(replace(SETTINGS, stale_time=0.0))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.peer_down(EDGE)
    assert best(model) == {}
    assert not list(model.speaker.routes_status())


def test_a_path_of_a_living_session_beats_a_better_one_of_a_lost_session_at_once() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.announce(EDGE2, "172.16.0.0/16", EDGE2, attribute([65011, 7, 8]))
    assert best(model) == {"172.16.0.0/16": "edge"}
    model.peer_down(EDGE)
    assert best(model) == {"172.16.0.0/16": "edge2"}


def test_end_of_rib_sweeps_what_the_new_session_did_not_repeat() -> None:
    model = connected()
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.peer_down(EDGE)
    model.peer_up(EDGE)
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010]))
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.say(end_of_rib(EDGE, "ipv6"))
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.say(end_of_rib(EDGE))
    assert best(model) == {"172.17.0.0/16": "edge"}
    assert stale(model) == set()


def test_a_peer_without_end_of_rib_is_swept_by_the_timer() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.peer_down(EDGE)
    model.advance(50)
    model.peer_up(EDGE)
    model.advance(59)
    assert best(model)
    model.advance(2)
    assert best(model) == {}


def test_an_enhanced_refresh_sweeps_between_its_markers_without_a_moment_of_disadvantage() -> None:
    model = connected()
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.effects.clear()
    model.say(refresh(EDGE, "begin"))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.say(refresh(EDGE, "end"))
    assert of(model, BestChanged) == [BestChanged(ip_network("172.17.0.0/16"), None)]


def test_an_attempt_that_fails_before_established_is_no_flap() -> None:
    model = connected(up=False)
    model.say(event("state", EDGE, {"state": "connected"}))
    assert model.speaker.peers_status()[0].state == "Connect"
    model.peer_down(EDGE, "closing connection")
    status = model.speaker.peers_status()[0]
    assert (status.flaps, status.last_error, status.state) == (0, "closing connection", "Idle")
    assert of(model, PeerDown) == []


def test_a_notification_is_remembered_as_the_last_error() -> None:
    model = connected()
    body = {"direction": "receive", "notification": {"code": 6, "subcode": 4, "data": "", "message": ""}}
    model.say(event("notification", EDGE, body))
    assert model.speaker.peers_status()[0].last_error == "NOTIFICATION received 6/4"


# ---- pacing ----


def test_no_more_than_the_window_is_unanswered_and_all_arrives() -> None:
    model = connected()
    prefixes = [f"172.16.{number}.0/24" for number in range(200)]
    for prefix in prefixes:
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    assert len(model.unanswered) == WINDOW == model.most_unanswered
    model.settle()
    assert model.most_unanswered == WINDOW
    assert {str(prefix) for prefix in model.peers[FABRIC].adj_out} == {*prefixes, str(OWN)}


def test_a_session_that_is_down_is_sent_nothing() -> None:
    model = connected()
    model.peer_down(FABRIC)
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.settle()
    assert [line for line in model.sent if FABRIC in line] == []
    model.peer_up(FABRIC)
    assert [line for line in model.sent if FABRIC in line] == [], "ExaBGP replays its own table first"
    model.settle()
    assert SITE in model.peers[FABRIC].adj_out


def test_a_refused_command_is_said() -> None:
    model = connected()
    del model.peers[FABRIC]
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.settle()
    assert [refused.text.split()[1] for refused in of(model, CommandRefused)] == [FABRIC]
    assert model.speaker.counters["errors"] == 1


def test_shutdown_withdraws_everything_and_says_when_it_is_done() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.command(Shutdown())
    assert of(model, Drained) == []
    model.settle()
    assert all(not peer.adj_out for peer in model.peers.values())
    assert of(model, Drained) == [Drained()]


def test_shutdown_without_a_link_is_done_at_once() -> None:
    model = connected()
    model.command(ProcessDown())
    model.command(Shutdown())
    assert of(model, Drained) == [Drained()]


def test_status_is_asked_for_regularly_and_shown() -> None:
    model = connected()
    model.settle(12)
    assert "show neighbor json" in model.sent
    status = model.speaker.peers_status()[0]
    assert (status.messages_sent, status.messages_received, status.state, status.asn) == (7, 9, "Established", 65010)


# ---- configuration ----


def test_new_settings_add_and_remove_neighbors_and_leave_the_rest_alone() -> None:
    fewer = replace(SETTINGS, neighbors=SETTINGS.neighbors[:2])
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.announce(FABRIC, "10.1.0.0/16", FABRIC, attribute([65515]))
    model.settle()
    model.effects.clear()
    model.sent.clear()
    model.command(Reconfigure(fewer))
    assert of(model, BestChanged) == [BestChanged(ip_network("10.1.0.0/16"), None)]
    model.settle()
    assert {line.split(" route ")[0] for line in model.sent if "route" in line} == {
        f"neighbor {EDGE} withdraw", f"neighbor {EDGE2} withdraw"
    }  # fmt: skip
    model.command(Reconfigure(SETTINGS))
    model.peer_up(FABRIC)
    model.settle()
    assert set(model.peers[FABRIC].adj_out) == {OWN, SITE}
    assert of(model, PeerUp) == [PeerUp("fabric")]


def test_a_new_policy_judges_what_was_already_learned() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.command(Reconfigure(replace(SETTINGS, never=(SITE,))))
    assert best(model) == {}
    model.command(Reconfigure(SETTINGS))
    assert best(model) == {"172.16.0.0/16": "edge"}


def test_a_changed_own_prefix_is_withdrawn_and_the_new_one_announced() -> None:
    model = connected()
    other = ip_network("10.201.0.0/16")
    model.command(Reconfigure(replace(SETTINGS, advertise=(other,))))
    model.settle()
    assert all(set(model.peers[address].adj_out) == {other} for address in (EDGE, EDGE2, FABRIC))


@pytest.mark.parametrize(
    "line", ["{", "[", "[{}]", "{}", update("192.0.2.99", {"192.0.2.99": ["10.0.0.0/8"]}), "done", "x"]
)
def test_a_senseless_line_changes_nothing(line: str) -> None:
    model = connected()
    model.say(line)
    model.say(row("192.0.2.99", "10.0.0.0/8", "192.0.2.99", attribute()))
    assert best(model) == {}
    assert model.sent == []
    assert model.speaker.counters.total() >= 1
