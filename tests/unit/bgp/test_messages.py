"""ExaBGP's lines, as captured from 5.0.15, and whatever else may arrive."""

from __future__ import annotations

import json
import string
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exabgp_model import attribute, end_of_rib, event, neighbor_row, refresh, row, state, update

from gateway.bgp import messages as m
from gateway.bgp.path import Announcement, Attributes

PEER = ip_address("10.9.0.2")

# verbatim from ExaBGP 5.0.15 with BIRD 2.0.12 as the peer, addresses and all
UPDATE = (
    '{ "exabgp": "5.0.0", "time": 1795262425.166391, "host" : "vm", "pid" : 7079, "ppid" : 1, "counter": 11, "type": "update", '
    '"neighbor": { "address": { "local": "10.9.0.1", "peer": "10.9.0.2" }, "asn": { "local": 65001, "peer": 65010 }, "router-id": '
    '"10.0.0.1" , "direction": "receive", "message": { "update": { "attribute": { "origin": "igp", "as-path": {"0": {"element": '
    '"as-sequence", "value": [65010, 65098]}}, "med": 50, "community": [ [ 65010, 7 ] ], "large-community": [ [ 65010, 1 , 2 ] ] }, '
    '"announce": { "ipv4 unicast": { "10.9.0.2": [ { "nlri": "172.16.0.0/16" } ] } } } }, "negotiated": { "message_size": 4096, '
    '"hold_time": 30, "asn4": true, "refresh": "enhanced", "families": ["ipv4 unicast"], "nexthop": [] }  } }'
)
ROW = (
    '{"peer": {"address": "10.9.0.2"}, "route": {"nlri": {"prefix": "172.16.0.0/16", "nexthop": "10.9.0.2", "family": {"afi": "ipv4", '
    '"safi": "unicast"}}, "attributes": {"origin": "igp", "as-path": {"0": {"element": "as-sequence", "value": [65010, 65098]}}, '
    '"med": 50, "community": ["65010:7"], "large-community": ["65010:1:2"]}}}'
)
OPEN = (
    '{ "exabgp": "5.0.0", "time": 1.5, "host" : "vm", "pid" : 1, "ppid" : 1, "counter": 6, "type": "open", "neighbor": { "address": { '
    '"local": "fd09::1", "peer": "fd09::2" }, "asn": { "local": 65001, "peer": 65010 }, "router-id": "10.0.0.1" , "direction": "receive", '
    '"open": { "version": 4, "asn": 65010, "hold_time": 30, "router_id": "10.9.0.2", "capabilities": { "65": { "name": "asn4" } } } } }'
)
ATTRIBUTES = Attributes("igp", (65010, 65098), 2, 50, None, ("65010:7",), ("65010:1:2",))


def test_a_captured_update() -> None:
    expected = m.Update(PEER, ((ip_network("172.16.0.0/16"), PEER),), ATTRIBUTES, ())
    assert m.parse_line(UPDATE) == expected


def test_a_row_of_a_dump_has_the_same_attributes_as_the_event() -> None:
    assert m.parse_line(ROW) == m.RibRow(PEER, ip_network("172.16.0.0/16"), PEER, ATTRIBUTES)


def test_well_known_communities_by_name_and_by_number_are_the_same() -> None:
    by_name = m.parse_line(row("10.9.0.2", "10.0.0.0/8", "10.9.0.2", attribute([1], community=["no-export", "1:2"])))
    by_number = m.parse_line(
        row("10.9.0.2", "10.0.0.0/8", "10.9.0.2", attribute([1], community=[[65535, 65281], [1, 2]]))
    )
    assert isinstance(by_name, m.RibRow)
    assert by_name == by_number


def test_a_captured_open() -> None:
    assert m.parse_line(OPEN) == m.Opened(
        ip_address("fd09::2"), 65010, int(ip_address("10.9.0.2")), 30, refreshes=False, tells_end=False
    )


def test_session_states_and_answers() -> None:
    assert m.parse_line("done") == m.Ack(True)
    assert m.parse_line("error\n") == m.Ack(False)
    assert m.parse_line(state("10.9.0.2", "down", "peer reset")) == m.SessionState(PEER, "down", "peer reset")
    assert m.parse_line(event("fsm", "10.9.0.2", {"state": "OPENSENT"})) == m.FsmState(PEER, "OPENSENT")
    assert m.parse_line(end_of_rib("10.9.0.2")) == m.EndOfRib(PEER, 4)
    assert m.parse_line(refresh("10.9.0.2", "begin")) == m.Refresh(PEER, 4, "begin")
    assert m.parse_line("reload in progress") == m.Ignored("reload in progress")


def test_a_notification_says_who_sent_it() -> None:
    body = {"direction": "receive", "notification": {"code": 6, "subcode": 2, "data": "", "message": "bye"}}
    assert m.parse_line(event("notification", "10.9.0.2", body)) == m.Notified(PEER, False, 6, 2, "bye")


def test_a_withdrawal() -> None:
    parsed = m.parse_line(update("10.9.0.2", withdraw=["10.1.0.0/16", "10.2.0.0/16"]))
    assert isinstance(parsed, m.Update)
    assert parsed.withdrawn == (ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16"))
    assert parsed.announced == ()


@pytest.mark.parametrize("hops", [("fd09::2", "fe80::2"), ("fe80::2", "fd09::2")])
def test_of_two_ipv6_next_hops_the_global_one_is_taken_once(hops: tuple[str, str]) -> None:
    parsed = m.parse_line(update("fd09::2", {hop: ["2001:db8::/32", "2001:db9::/32"] for hop in hops}))
    assert isinstance(parsed, m.Update)
    hop = ip_address("fd09::2")
    assert parsed.announced == ((ip_network("2001:db8::/32"), hop), (ip_network("2001:db9::/32"), hop))


def test_a_link_local_next_hop_alone_is_kept() -> None:
    parsed = m.parse_line(update("fd09::2", {"fe80::2": ["2001:db8::/32"]}))
    assert isinstance(parsed, m.Update)
    assert parsed.announced[0][1] == ip_address("fe80::2")


def test_an_as_set_counts_as_one() -> None:
    parsed = m.parse_line(
        update("10.9.0.2", {"10.9.0.2": ["10.0.0.0/8"]}, attributes=attribute([1, 2], sets=[3, 4, 5]))
    )
    assert isinstance(parsed, m.Update)
    assert parsed.attributes.as_path == (1, 2, 3, 4, 5)
    assert parsed.attributes.as_path_length == 3
    assert parsed.attributes.has_as_set


def test_other_families_are_ignored() -> None:
    body = {
        "announce": {"ipv4 multicast": {"1.1.1.1": [{"nlri": "224.0.0.0/4"}]}},
        "withdraw": {"l2vpn evpn": [{"x": 1}]},
    }
    parsed = m.parse_line(event("update", "10.9.0.2", {"direction": "receive", "message": {"update": body}}))
    assert isinstance(parsed, m.Update)
    assert parsed.announced == ()
    assert parsed.withdrawn == ()
    assert isinstance(m.parse_line(end_of_rib("10.9.0.2", "l2vpn")), m.Ignored)


def test_the_neighbor_list_takes_established_from_the_state_machine() -> None:
    """In the first second of a session ExaBGP says "down", because the duration is zero."""
    rows = [neighbor_row("10.9.0.2", up=True, seconds=0), neighbor_row("10.9.0.3", up=False)]
    parsed = m.parse_line(json.dumps(rows))
    assert isinstance(parsed, m.NeighborList)
    assert [(one.up, one.seconds) for one in parsed.rows] == [(True, 0), (False, 0)]
    assert parsed.rows[0].router_id == int(ip_address("192.0.2.9"))
    assert parsed.rows[1].router_id == 0


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "update"',
        "{}",
        "[1]",
        "[" * 100_000,
        '{"type": 7, "neighbor": {}}',
        event("state", "not an address", {"state": "up"}),
        update("10.9.0.2", {"10.9.0.2": ["10.0.0.1/8"]}),
    ],
)
def test_a_line_that_does_not_hold_what_it_must_is_malformed(line: str) -> None:
    assert isinstance(m.parse_line(line), m.Malformed)


def test_announcements_are_explicit_and_for_one_neighbor() -> None:
    announcement = Announcement(
        ip_address("10.9.0.1"), (65001, 65020), "egp", 0, 150, ("65001:100", "65535:65281"), ("65001:1:2",)
    )
    assert m.render_announce(PEER, ip_network("192.168.1.0/24"), announcement) == (
        "neighbor 10.9.0.2 announce route 192.168.1.0/24 next-hop 10.9.0.1 origin egp as-path [ 65001 65020 ] med 0 "
        "local-preference 150 community [ 65001:100 65535:65281 ] large-community [ 65001:1:2 ]"
    )
    empty = m.render_announce(PEER, ip_network("192.168.1.0/24"), Announcement(ip_address("10.9.0.1"), ()))
    assert empty == "neighbor 10.9.0.2 announce route 192.168.1.0/24 next-hop 10.9.0.1 origin igp as-path [ ]"
    assert m.render_withdraw(PEER, ip_network("192.168.1.0/24")) == "neighbor 10.9.0.2 withdraw route 192.168.1.0/24"
    assert m.render_refresh(ip_address("fd09::2"), 6) == "neighbor fd09::2 announce route-refresh ipv6 unicast"


@pytest.mark.parametrize(
    ("attributes", "next_hop", "fault"),
    [
        (attribute([65010], origin="invalid"), "10.9.0.2", "origin 'invalid'"),
        ({"as-path": {}}, "10.9.0.2", "no origin"),
        ({"origin": "igp", "as-path": []}, "10.9.0.2", "'list' object has no attribute 'values'"),
        (attribute([65010, 0]), "10.9.0.2", "AS 0 in the path"),
        ({"origin": "igp", "as-path": {"0": {"element": "as-sequence", "value": []}}}, "10.9.0.2",
         "empty segment in the path"),
        (attribute([65010]), "no-nexthop", "no next hop"),
        (attribute([65010], med="5"), "10.9.0.2", "number '5'"),
        (attribute([65010], community=[[1]]), "10.9.0.2", "community [1]"),
    ],
)  # fmt: skip
def test_what_is_announced_without_sense_is_withdrawn(attributes: dict[str, Any], next_hop: str, fault: str) -> None:
    """RFC 7606 2: the route it was before must not stay."""
    parsed = m.parse_line(
        update("10.9.0.2", {next_hop: ["10.0.0.0/8"]}, withdraw=["10.1.0.0/16"], attributes=attributes)
    )
    assert isinstance(parsed, m.Update)
    assert parsed.announced == ()
    assert parsed.withdrawn == (ip_network("10.1.0.0/16"), ip_network("10.0.0.0/8"))
    assert parsed.fault == fault


def test_what_exabgp_withdrew_or_left_out_by_itself_is_told_apart() -> None:
    treated = m.parse_line(update("10.9.0.2", {}, withdraw=["10.0.0.0/8"], attributes={"error": "treat-as-withdraw"}))
    assert isinstance(treated, m.Update) and treated.fault == "malformed attribute" and not treated.partial
    left_out = m.parse_line(
        update("10.9.0.2", {"10.9.0.2": ["10.0.0.0/8"]}, attributes=attribute([1], error="discard"))
    )
    assert isinstance(left_out, m.Update) and left_out.partial and len(left_out.announced) == 1 and not left_out.fault


KEYS = ["type", "neighbor", "address", "peer", "message", "update", "announce", "withdraw", "attribute", "as-path", "eor",
        "ipv4 unicast", "10.9.0.2", "0", "element", "value", "nlri", "route", "open", "state", "afi", "safi", "fsm"]  # fmt: skip
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(string.printable, max_size=8),
    st.sampled_from(["update", "state", "open", "10.9.0.2", "10.0.0.0/8", "ipv4", "unicast", "igp", "as-set"]),
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)
EVENTS = st.builds(
    lambda kind, body: {"type": kind, "neighbor": {"address": {"peer": "10.9.0.2"}, "direction": "receive", **body}},
    st.sampled_from(["update", "state", "fsm", "open", "notification", "refresh"]),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("message", "state", "open", "notification", "route-refresh"), JSON)
    ),
)


@given(st.one_of(st.text(), st.text().map(lambda text: "{" + text), JSON.map(json.dumps), EVENTS.map(json.dumps)))
def test_no_line_raises(line: str) -> None:
    assert m.parse_line(line) is not None


@given(st.sampled_from([UPDATE, ROW, OPEN]), st.data())
def test_no_mutation_of_a_real_line_raises(line: str, data: Any) -> None:
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(len(line), start + 30)))
    m.parse_line(line[:start] + data.draw(st.text(max_size=5)) + line[end:])


NUMBER, ASN = st.integers(0, 2**32 - 1), st.integers(1, 2**32 - 1)
COMMUNITY = st.tuples(st.integers(0, 65535), st.integers(0, 65535))


@given(
    st.lists(ASN, max_size=8), st.sampled_from(["igp", "egp", "incomplete"]), st.none() | NUMBER, st.none() | NUMBER,
    st.lists(COMMUNITY, max_size=3), st.lists(st.tuples(ASN, ASN, ASN), max_size=2),
)  # fmt: skip
def test_attributes_survive_the_event_format(
    path: list[int], origin: str, med: int | None, preference: int | None, plain: list[Any], large: list[Any]
) -> None:
    extra = {"med": med, "local_preference": preference, "community": plain, "large_community": large}
    values = attribute(path, origin=origin, **{key: value for key, value in extra.items() if value not in (None, [])})
    parsed = m.parse_line(update("10.9.0.2", {"10.9.0.2": ["10.0.0.0/8"]}, attributes=values))
    assert isinstance(parsed, m.Update)
    assert parsed.attributes == Attributes(
        origin, tuple(path), len(path), med, preference,
        tuple(":".join(map(str, one)) for one in plain), tuple(":".join(map(str, one)) for one in large),
    )  # fmt: skip
