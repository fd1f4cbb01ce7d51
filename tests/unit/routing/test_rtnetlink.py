"""rtnetlink messages: our operations survive a round trip, and the kernel's answers are understood octet by octet."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest

from gateway.routing.model import Entry, Group, Nexthop, Op, OpError, Route, RouteKind, Verb
from gateway.runtime import rtnetlink as rt

ENTRIES: tuple[Entry, ...] = (
    Route(ip_network("172.16.0.0/12"), 20, RouteKind.UNICAST, 0x67770003),
    Route(ip_network("2001:db8::/32"), 0xFFFFFFFF, RouteKind.BLACKHOLE),
    Route(ip_network("0.0.0.0/0"), 1, RouteKind.THROW),
    Nexthop(0x67770000, 4, 7),
    Nexthop(0x67770001, 6, 7, ip_address("fe80::1")),
    Nexthop(0x67770002, 6, 0),
    Group(0x67770003, (0x67770000,)),
)


def one(octets: bytes) -> rt.Message:
    (message,) = rt.decode(octets)
    return message


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
@pytest.mark.parametrize("table", [221, 100_000])
def test_what_is_encoded_reads_back_as_the_same_entry(entry: Entry, table: int) -> None:
    message = one(rt.encode(Op(Verb.ADD, entry), table, 221, 9))
    assert message.sequence == 9
    if isinstance(entry, Route):
        route = rt.decode_route(message.body)
        assert (route.table, route.protocol) == (table, 221)
        assert list(rt.our_entries([route], [], 221)) == [entry]
    else:
        nexthop = rt.decode_nexthop(message.body)
        assert list(rt.our_entries([], [nexthop], 221)) == [entry]


@pytest.mark.parametrize(
    ("verb", "flags"),
    [
        (Verb.ADD, rt.NLM_F_CREATE | rt.NLM_F_EXCL),  # never over what is foreign
        (Verb.REPLACE, rt.NLM_F_CREATE | rt.NLM_F_REPLACE),
        (Verb.DELETE, 0),
    ],
)
def test_every_operation_asks_for_an_acknowledgement(verb: Verb, flags: int) -> None:
    for entry in ENTRIES:
        assert one(rt.encode(Op(verb, entry), 221, 221, 1)).flags == rt.NLM_F_REQUEST | rt.NLM_F_ACK | flags


def test_a_deletion_names_our_protocol_so_that_it_cannot_hit_a_foreign_route() -> None:
    message = one(rt.encode(Op(Verb.DELETE, ENTRIES[0]), 221, 77, 1))
    assert message.type == rt.RTM_DELROUTE
    assert rt.decode_route(message.body).protocol == 77


def test_what_others_installed_is_not_ours() -> None:
    route = rt.decode_route(one(rt.encode(Op(Verb.ADD, ENTRIES[0]), 221, 186, 1)).body)
    nexthop = rt.decode_nexthop(one(rt.encode(Op(Verb.ADD, ENTRIES[3]), 221, 186, 1)).body)
    assert list(rt.our_entries([route], [nexthop], 221)) == []


def test_a_route_through_a_blackhole_group_is_dumped_as_a_blackhole_but_is_a_route() -> None:
    body = bytearray(one(rt.encode(Op(Verb.ADD, ENTRIES[0]), 221, 221, 1)).body)
    body[7] = RouteKind.BLACKHOLE  # rtm_type
    assert list(rt.our_entries([rt.decode_route(bytes(body))], [], 221)) == [ENTRIES[0]]


def error(number: int, flags: int = 0, text: bytes = b"", request: int = 16) -> rt.Message:
    body = (
        struct.pack("=i", -number)
        + rt.HEADER.pack(request, 24, 0, 1, 0)
        + bytes(0 if flags & rt.NLM_F_CAPPED else request - 16)
    )
    if text:
        body += struct.pack("=HH", 4 + len(text), rt.NLMSGERR_ATTR_MSG) + text
    return rt.Message(rt.NLMSG_ERROR, flags, 1, 0, body)


def test_an_acknowledgement_is_no_error() -> None:
    assert rt.decode_error(error(0)) is None


def test_an_error_carries_the_kernels_words() -> None:
    capped = error(22, rt.NLM_F_CAPPED | rt.NLM_F_ACK_TLVS, b"Nexthop id does not exist\0", request=60)
    assert rt.decode_error(capped) == OpError(22, "Invalid argument: Nexthop id does not exist")
    whole = error(22, rt.NLM_F_ACK_TLVS, b"Nexthop id does not exist\0", request=60)
    assert rt.decode_error(whole) == OpError(22, "Invalid argument: Nexthop id does not exist")
    assert rt.decode_error(error(17)) == OpError(17, "File exists")


@pytest.mark.parametrize("cut", [1, 8, 15, 17, 30])
def test_a_cut_datagram_gives_no_half_message(cut: int) -> None:
    whole = rt.encode(Op(Verb.ADD, ENTRIES[0]), 221, 221, 1)
    assert list(rt.decode(whole[:cut])) == []
    assert len(list(rt.decode(whole + whole[:cut]))) == 1
