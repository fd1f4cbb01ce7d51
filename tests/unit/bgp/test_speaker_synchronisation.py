"""The speaker and ExaBGP compare what they know: links that come and go, dumps, answers that miss."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

from support.exabgp_model import ExabgpModel, attribute, end_of_rib, neighbor_row, update
from support.speaker import EDGE, EDGE6, FABRIC, OWN, SETTINGS, SITE, best, connected, of, stale

from gateway.bgp import policy
from gateway.bgp.events import (
    AnswersMissing,
    BestChanged,
    PeerDown,
    ProcessDown,
    ProcessUp,
    Rejected,
    Resynchronized,
)
from gateway.bgp.link import ANSWER_TIMEOUT
from gateway.bgp.speaker import Speaker


def test_a_new_link_asks_for_sessions_and_both_tables_before_it_sends_a_route() -> None:
    model = ExabgpModel(Speaker(SETTINGS), SETTINGS)
    model.peers[EDGE].up, model.peers[EDGE].since = True, -60.0
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


def test_an_announcement_without_sense_withdraws_what_it_was_before() -> None:
    """RFC 7606 2. The session goes on, and what it does not name stays."""
    model = connected()
    for prefix in ("172.16.0.0/16", "172.17.0.0/16"):
        model.announce(EDGE, prefix, EDGE, attribute([65010]))
    model.announce(EDGE, "172.16.0.0/16", EDGE, attribute([65010], origin="invalid"))
    model.settle()
    assert best(model) == {"172.17.0.0/16": "edge"}
    assert of(model, Rejected) == [Rejected("edge", SITE, policy.MALFORMED)]
    assert model.speaker.counters[policy.MALFORMED] == 1
    # nor does ExaBGP's own table, which has it, bring it back
    model.command(ProcessDown())
    model.lose_answers()
    model.command(ProcessUp(2))
    model.settle()
    assert best(model) == {"172.17.0.0/16": "edge"}


def test_what_exabgp_keeps_no_record_of_is_asked_for_again_and_not_swept() -> None:
    """A malformed attribute left out (RFC 7606 2, attribute discard), and then the relay died."""
    model = connected()
    model.announce(EDGE, "172.17.0.0/16", EDGE, attribute([65010]))
    model.say(update(EDGE, {EDGE: ["172.16.0.0/16"]}, attributes=attribute([65010], error="discard")))
    model.settle(8)
    model.command(ProcessDown())
    model.lose_answers()
    model.command(ProcessUp(2))
    model.settle()
    assert best(model) == {"172.16.0.0/16": "edge", "172.17.0.0/16": "edge"}
    assert [line for line in model.sent if "route-refresh" in line] == [
        f"neighbor {EDGE} announce route-refresh ipv4 unicast"
    ]
    assert stale(model) == {"edge 172.16.0.0/16"}
    model.say(update(EDGE, {EDGE: ["172.16.0.0/16"]}, attributes=attribute([65010], error="discard")))
    assert stale(model) == set()


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


def test_a_table_from_inside_a_tunnel_is_read_though_its_next_hops_are_link_local_addresses() -> None:
    """169.254.21.2, as clouds number their tunnels. FRR 8.4 answers no route refresh unless it has said End-of-RIB, which it does not
    without graceful restart: what is not read here would be gone."""
    model = ExabgpModel(Speaker(SETTINGS), SETTINGS)
    model.now = 100.0
    model.peers[EDGE].up, model.peers[EDGE].since = True, 98.0
    model.peers[EDGE].adj_in["172.16.0.0/16"] = ("169.254.21.2", attribute([65010]))
    model.command(ProcessUp(1))
    model.answer(3)
    assert best(model) == {"172.16.0.0/16": "edge"}


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
