"""The speaker against a model of ExaBGP: synchronisation, staleness, limits, pacing; then random histories."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.exabgp_model import ExabgpModel, attribute, end_of_rib, event, neighbor_row, refresh, row, update

from gateway.bgp import policy
from gateway.bgp.decision import decide
from gateway.bgp.events import (
    AnswersMissing,
    BestChanged,
    CommandRefused,
    Drained,
    PeerDown,
    PeerUp,
    ProcessDown,
    ProcessUp,
    Reconfigure,
    Rejected,
    Resynchronized,
    Shutdown,
)
from gateway.bgp.link import ANSWER_TIMEOUT, WINDOW
from gateway.bgp.messages import render_announce
from gateway.bgp.policy import export, own_prefixes
from gateway.bgp.settings import NeighborSettings, SpeakerSettings
from gateway.bgp.speaker import Speaker

EDGE, EDGE2, FABRIC, EDGE6 = "10.9.0.2", "10.9.1.2", "10.9.2.2", "fd09::2"
SITE = ip_network("172.16.0.0/16")
OWN = ip_network("10.200.0.0/16")


def neighbor(name: str, address: str, local: str, remote_as: int, **more: Any) -> NeighborSettings:
    return NeighborSettings(name, ip_address(address), remote_as, ip_address(local), **more)


SETTINGS = SpeakerSettings(
    local_as=65001,
    router_id=IPv4Address("10.9.0.1"),
    advertise=(OWN,),
    stale_time=60.0,
    neighbors=(
        neighbor("edge", EDGE, "10.9.0.1", 65010, connection="site"),
        neighbor("edge2", EDGE2, "10.9.1.1", 65011, connection="site2"),
        neighbor("fabric", FABRIC, "10.9.2.1", 65515),
        neighbor("edge6", EDGE6, "fd09::1", 65010, connection="site"),
    ),
)


def connected(changed: SpeakerSettings = SETTINGS, *, up: bool = True) -> ExabgpModel:
    model = ExabgpModel(Speaker(changed), changed)
    model.now = 100.0
    model.command(ProcessUp(1))
    model.answer()
    if up:
        for address in model.peers:
            model.peer_up(address)
            model.say(end_of_rib(address, "ipv6" if ":" in address else "ipv4"))
        model.settle()
        model.advance(10)
        model.settle()
    model.effects.clear()
    model.sent.clear()
    return model


def of(model: ExabgpModel, kind: type[Any]) -> list[Any]:
    return [effect for effect in model.effects if isinstance(effect, kind)]


def best(model: ExabgpModel) -> dict[str, str]:
    return {str(prefix): one.path.neighbor for prefix, one in model.speaker.loc_rib.best.items()}


def stale(model: ExabgpModel) -> set[str]:
    return {f"{route.peer} {route.prefix}" for route in model.speaker.routes_status() if route.stale}


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
    assert not model.speaker.routes_status()


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


# ---- synchronisation ----


def test_a_new_link_asks_for_sessions_and_both_tables_before_it_sends_a_route() -> None:
    model = ExabgpModel(Speaker(SETTINGS), SETTINGS)
    model.peers[EDGE].up = True
    model.command(ProcessUp(1))
    assert model.sent == ["show neighbor json", "show adj-rib in json", "show adj-rib out json"]
    model.answer(2)
    assert len(model.sent) == 3
    model.answer(1)
    assert of(model, Resynchronized) == [Resynchronized(1)]
    model.settle()
    assert model.sent[3] == f"neighbor {EDGE} announce route {OWN} next-hop 10.9.0.1 origin igp as-path [ 65001 ]"


def test_a_lost_link_keeps_everything_and_the_dump_confirms_or_sweeps() -> None:
    model = connected()
    for number in (16, 17):
        model.announce(EDGE, f"172.{number}.0.0/16", EDGE, attribute([65010]))
    model.settle()
    model.effects.clear()
    model.command(ProcessDown())
    assert best(model) == {"172.16.0.0/16": "edge", "172.17.0.0/16": "edge"}
    assert len(stale(model)) == 2
    del model.peers[EDGE].adj_in["172.16.0.0/16"]
    model.peers[EDGE].adj_in["172.18.0.0/16"] = (EDGE, attribute([65010]))
    model.lose_answers()
    model.command(ProcessUp(2))
    model.settle()
    assert best(model) == {"172.17.0.0/16": "edge", "172.18.0.0/16": "edge"}
    assert stale(model) == set()
    assert {str(change.prefix) for change in of(model, BestChanged)} == {"172.16.0.0/16", "172.18.0.0/16"}
    assert of(model, PeerDown) == []


def test_what_a_former_daemon_left_in_exabgp_is_withdrawn_and_the_rest_said_again() -> None:
    model = ExabgpModel(Speaker(SETTINGS), SETTINGS)
    model.now = 100.0
    model.peers[FABRIC].up = True
    model.peers[FABRIC].adj_out = {ip_network("192.0.2.0/24"): "old", OWN: "old"}
    model.command(ProcessUp(1))
    model.settle()
    assert set(model.peers[FABRIC].adj_out) == {OWN}
    assert model.peers[FABRIC].adj_out[OWN] != "old"


def test_a_session_that_went_down_unheard_is_noticed_by_the_list() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.command(ProcessDown())
    model.lose_answers()
    model.peers[EDGE].up = False
    model.command(ProcessUp(2))
    model.settle()
    assert of(model, PeerDown) == [PeerDown("edge", "session lost meanwhile")]
    assert best(model) == {"172.16.0.0/16": "edge"}
    model.advance(61)
    assert best(model) == {}


def test_rows_older_than_an_event_do_not_undo_it() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.settle()
    model.command(ProcessDown())
    model.lose_answers()
    model.command(ProcessUp(2))
    model.answer(1)
    assert model.unanswered[0] == "show adj-rib in json"
    rows = model.execute("show adj-rib in json")
    model.withdraw(EDGE, "172.16.0.0/16")  # while ExaBGP is printing the table it had before
    model.unanswered[0] = rows
    model.settle()
    assert best(model) == {}


def test_a_session_replaced_while_its_table_is_dumped_is_not_swept_by_the_dump() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.settle()
    model.command(ProcessDown())
    model.lose_answers()
    model.command(ProcessUp(2))
    model.answer(1)
    assert model.unanswered[0] == "show adj-rib in json"
    rows = model.execute("show adj-rib in json")
    model.peer_down(EDGE)
    model.peer_up(EDGE)
    model.unanswered[0] = rows
    model.settle(1)
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.say(end_of_rib(EDGE))
    assert best(model) == {}


def test_answers_to_the_former_link_are_nobodys() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.command(ProcessDown())
    model.command(ProcessUp(2))
    for _ in range(3):
        model.say("done")
    assert model.speaker.counters["surplus-answers"] == 3
    model.lose_answers()
    for line in (json.dumps([neighbor_row(EDGE, up=True)]), "done", "done"):
        model.say(line)
    assert of(model, Resynchronized) == []
    model.say("done")
    assert of(model, Resynchronized) == [Resynchronized(2)]


def test_a_dumped_link_local_next_hop_confirms_a_known_path_or_asks_the_peer() -> None:
    model = connected()
    attributes = attribute([65010])
    model.announce(EDGE6, "2001:db8::/32", EDGE6, attributes)
    model.settle()
    model.peers[EDGE6].adj_in["2001:db8::/32"] = ("fe80::2", attributes)
    model.command(ProcessDown())
    model.lose_answers()
    model.command(ProcessUp(2))
    model.settle()
    assert stale(model) == set()
    assert not [line for line in model.sent if "route-refresh" in line]
    assert model.speaker.loc_rib.best[ip_network("2001:db8::/32")].path.next_hop == ip_address(EDGE6)

    model.peers[EDGE6].adj_in["2001:db8:1::/48"] = ("fe80::2", attributes)
    model.lose_answers()
    model.command(ProcessUp(3))
    model.settle()
    assert [line for line in model.sent if "route-refresh" in line] == [
        f"neighbor {EDGE6} announce route-refresh ipv6 unicast"
    ]


def test_missing_answers_are_said_again_and_again_until_one_comes() -> None:
    model = connected()
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010]))
    model.advance(3 * ANSWER_TIMEOUT + 0.1)
    assert [missing.times for missing in of(model, AnswersMissing)] == [1, 2, 3]
    model.effects.clear()
    model.answer()
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010]))
    model.advance(ANSWER_TIMEOUT + 0.1)
    assert [missing.times for missing in of(model, AnswersMissing)] == [1]
    assert best(model) == {"172.16.0.0/16": "edge", "172.17.0.0/16": "edge"}


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


# ---- random histories ----

PREFIXES = ["172.16.0.0/16", "172.17.0.0/16", "10.200.0.0/16", "169.254.1.0/24"]
ADDRESSES = st.sampled_from([EDGE, EDGE2, FABRIC])
ATTRIBUTES = st.builds(
    attribute, st.lists(st.sampled_from([65010, 65011, 65515, 65001, 7]), max_size=2), med=st.sampled_from([1, 2])
)
STEPS = st.one_of(
    st.tuples(st.just("announce"), ADDRESSES, st.sampled_from(PREFIXES), ATTRIBUTES),
    st.tuples(st.just("announce"), ADDRESSES, st.sampled_from(PREFIXES), ATTRIBUTES),
    st.tuples(st.just("withdraw"), ADDRESSES, st.sampled_from(PREFIXES)),
    st.tuples(st.just("down"), ADDRESSES),
    st.tuples(st.just("up"), ADDRESSES),
    st.tuples(st.just("end-of-rib"), ADDRESSES),
    st.tuples(st.just("answer"), st.integers(1, 5)),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 1.0, 40.0])),
    st.tuples(st.just("link-lost"), st.booleans()),
    st.tuples(st.just("exabgp-killed"), st.booleans()),
    st.tuples(st.just("reconfigure"), st.sampled_from([0, 1, 2])),
)
VARIANTS = (
    SETTINGS,
    replace(SETTINGS, advertise=(), never=(ip_network("172.17.0.0/16"),)),
    replace(SETTINGS, neighbors=(*SETTINGS.neighbors[:2], replace(SETTINGS.neighbors[2], advertise=(SITE,)))),
)


def apply(model: ExabgpModel, step: tuple[Any, ...], generation: int) -> None:
    kind, *args = step
    if kind in ("announce", "withdraw", "end-of-rib") and not model.peers[args[0]].up:
        return
    if kind == "announce":
        model.announce(args[0], args[1], args[0], args[2])
    elif kind == "withdraw":
        model.withdraw(args[0], args[1])
    elif kind == "end-of-rib":
        model.say(end_of_rib(args[0]))
    elif kind == "up" and not model.peers[args[0]].up:
        model.peer_up(args[0])
    elif kind == "down" and model.peers[args[0]].up:
        model.peer_down(args[0])
    elif kind == "answer":
        model.answer(args[0])
    elif kind == "advance":
        model.advance(args[0])
    elif kind == "reconfigure":
        model.command(Reconfigure(VARIANTS[args[0]]))
    elif kind in ("link-lost", "exabgp-killed"):
        interrupt(model, generation, killed=kind == "exabgp-killed", forget=args[0])


def interrupt(model: ExabgpModel, generation: int, *, killed: bool, forget: bool) -> None:
    model.command(ProcessDown())
    model.lose_answers()
    for peer in model.peers.values():
        if killed:
            peer.up = False
            peer.adj_out.clear()
            peer.adj_in.clear()
        elif forget:  # something happened while nobody listened
            peer.adj_in.pop(PREFIXES[0], None)
    model.command(ProcessUp(generation))


def brute_force(speaker: Speaker) -> dict[Any, Any]:
    found: dict[Any, list[Any]] = {}
    for peer in speaker._peers.values():
        for prefix in peer.adj_in.entries:
            candidate = peer.adj_in.candidate(prefix)
            if candidate is not None:
                found.setdefault(prefix, []).append(candidate)
    return {prefix: decide(candidates)[0].path for prefix, candidates in found.items()}


def check_tables(speaker: Speaker) -> None:
    expected = brute_force(speaker)
    assert {prefix: one.path for prefix, one in speaker.loc_rib.best.items()} == expected
    for peer in speaker._peers.values():
        wanted = {}
        for prefix in {*expected, *own_prefixes(speaker.settings, peer.settings)}:
            path = expected.get(prefix)
            source = speaker._peers[path.neighbor].role if path else None
            told = export(speaker.settings, peer.settings, prefix, path, source)
            if told is not None:
                wanted[prefix] = told
        assert peer.adj_out.wanted == wanted
        assert peer.adj_in.accepted == sum(not entry.rejected for entry in peer.adj_in.entries.values())
        assert peer.adj_in.stale <= peer.adj_in.entries.keys()


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_the_tables_agree_with_their_definitions(steps: list[tuple[Any, ...]]) -> None:
    model = connected()
    told: dict[Any, Any] = {}
    for number, step in enumerate(steps):
        apply(model, step, number + 2)
        check_tables(model.speaker)
        for change in of(model, BestChanged):
            if change.path is None:
                del told[change.prefix]  # never withdrawn without having been announced
            else:
                assert told.get(change.prefix) != change.path, "no change is told twice"
                told[change.prefix] = change.path
        model.effects.clear()
        assert told == {prefix: one.path for prefix, one in model.speaker.loc_rib.best.items()}
        assert len(model.unanswered) <= WINDOW


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_after_any_history_and_some_quiet_both_sides_agree(steps: list[tuple[Any, ...]]) -> None:
    """What ExaBGP was told is what we want told; what the peers last said is what we hold, and nothing else."""
    model = connected()
    for number, step in enumerate(steps):
        apply(model, step, number + 2)
    model.effects.clear()
    model.settle(130)  # whatever is stale has had its time
    for peer in model.speaker._peers.values():
        other = model.peers[str(peer.settings.address)]
        assert peer.up == other.up
        if not peer.up:
            assert not peer.adj_in.entries
            continue
        address = peer.settings.address
        assert other.adj_out == {p: render_announce(address, p, told) for p, told in peer.adj_out.wanted.items()}
        assert not peer.adj_in.stale
        assert {str(prefix) for prefix in peer.adj_in.entries} == set(other.adj_in)
    assert not of(model, AnswersMissing)
