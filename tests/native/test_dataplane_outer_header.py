"""The outer DS field, copied or fixed, and IPv4 packets that are fragmented in spite of their DF bit.

The test is the host behind the gateway and the peer that opens what arrives.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial

import pytest
from support.dataplane_pair import (
    CONNECTION,
    MTU,
    Gateway,
    Peer,
    checksum,
    esp_socket,
    inside,
    linked_pair,
    udp_socket,
)
from support.netns import Lab, Namespace
from support.process import wait_until

from gateway import _native

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY = bytes(range(20))
SPI = 0x3003
EF, CS6 = 46, 48
UDP_SEGMENT = 103
_IP_MTU_DISCOVER, _PMTU_DONT, _PMTU_DO = 10, 0, 2
_RESERVED, _DF, _MF = 0x8000, 0x4000, 0x2000


@pytest.fixture
def machines() -> Iterator[tuple[Namespace, Namespace]]:
    with Lab() as lab:
        yield linked_pair(lab)


@pytest.fixture
def gateway(machines: tuple[Namespace, Namespace]) -> Iterator[Gateway]:
    made = Gateway(machines[0], "192.0.2.1", 1)
    made.machine.batch("link set gw0 mtu 3000")
    yield made
    made.close()


@pytest.fixture
def peer(machines: tuple[Namespace, Namespace], gateway: Gateway) -> Iterator[Peer]:
    made = Peer(machines[1], "192.0.2.2", 2, KEY)
    made.socket.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    gateway.sa("out", SPI, made, KEY)
    gateway.plane.replace_policies(CONNECTION, [SPI])
    yield made
    made.close()


def received(peer: Peer) -> tuple[int, bytes]:
    """The next packet: the TOS outside, the inner packet."""
    datagram, control, _, _ = peer.socket.recvmsg(65535, 64)
    ((level, kind, value),) = control
    assert (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS)
    return value[0], peer.open(datagram)[2]


def host(gateway: Gateway, *, df: bool = True) -> socket.socket:
    made = udp_socket(gateway.machine, gateway.inner4, 9000)
    made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTU_DO if df else _PMTU_DONT)
    return made


def assembled(fragments: list[bytes]) -> bytes:
    """What the fragments of one packet carry, after every one proved to be right."""
    (number,) = {struct.unpack_from("!H", inner, 4)[0] for inner in fragments}
    fields = [struct.unpack_from("!H", inner, 6)[0] for inner in fragments]
    assert [field & (_RESERVED | _DF) for field in fields] == [0] * len(fields), number
    assert [bool(field & _MF) for field in fields] == [True] * (len(fields) - 1) + [False]
    body = b""
    for field, inner in zip(fields, fragments, strict=True):
        assert checksum(inner[:20]) == 0
        assert len(inner) == struct.unpack_from("!H", inner, 2)[0] <= MTU
        assert (field & 0x1FFF) * 8 == len(body)
        body += inner[20:]
    return body


def identification(inner: bytes) -> int:
    value: int = struct.unpack_from("!H", inner, 4)[0]
    return value


# --- DSCP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dscp", [-1, 0, EF, CS6, 63])
def test_the_outer_ds_field_is_the_inner_one_or_fixed_and_ecn_is_always_the_inner_one(
    gateway: Gateway, peer: Peer, dscp: int
) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, dscp)
    six = udp_socket(gateway.machine, gateway.inner6, 9000)
    with host(gateway) as four, six:
        for inner_dscp, ecn in itertools.product((0, 10, EF, 63), range(4)):
            tos = inner_dscp << 2 | ecn
            four.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
            four.sendto(b"four", (peer.inner4, 9000))
            six.sendto(b"six", (peer.inner6, 9000))
            (outer4, inner4), (outer6, inner6) = received(peer), received(peer)
            assert (inner4[1], struct.unpack_from("!H", inner6)[0] >> 4 & 0xFF) == (tos, tos), "inside nothing changes"
            assert {outer4, outer6} == {tos if dscp < 0 else dscp << 2 | ecn}


def test_the_outer_ds_field_changes_under_traffic_and_back(gateway: Gateway, peer: Peer) -> None:
    with host(gateway) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 10 << 2)
        for dscp, seen in ((EF, EF), (0, 0), (CS6, CS6), (-1, 10)):
            gateway.plane.update_connection(CONNECTION, MTU, 0, 0, dscp, False)
            sender.sendto(b"?", (peer.inner4, 9000))
            assert received(peer)[0] == seen << 2
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, EF)
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0)
    with host(gateway) as sender:
        sender.sendto(b"?", (peer.inner4, 9000))
        assert received(peer)[0] == 0, "copied where nothing else is said"


def test_every_segment_and_a_packet_without_udp_carry_the_fixed_one(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, EF)
    with host(gateway) as sender:
        segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1000))]
        sender.sendmsg([bytes(20_000)], segments, 0, (peer.inner4, 9000))
        assert [received(peer)[0] for _ in range(20)] == [EF << 2] * 20
        with esp_socket(gateway.machine, "192.0.2.1") as raw, esp_socket(peer.machine, "192.0.2.2") as sink:
            gateway.sa("out", SPI + 1, peer, KEY, encapsulate=False, socket_fd=raw.fileno())
            gateway.plane.replace_policies(CONNECTION, [SPI + 1])
            sender.sendto(b"?", (peer.inner4, 9000))
            assert sink.recv(2000)[1] == EF << 2


def test_a_dscp_beyond_six_bits_is_refused_and_nothing_is_changed(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, EF)
    with pytest.raises(ValueError, match="DSCP"):
        gateway.plane.update_connection(CONNECTION, 1000, 0, 0, 64)
    with pytest.raises(OverflowError):
        gateway.plane.update_connection(CONNECTION, 1000, 0, 0, 1 << 40)
    with host(gateway) as sender:
        sender.sendto(bytes(MTU - 28), (peer.inner4, 9000))
        assert received(peer)[0] == EF << 2


# --- DF -------------------------------------------------------------------------------------------------------------


def test_df_is_honoured_unless_told_otherwise_and_that_can_change_in_place(gateway: Gateway, peer: Peer) -> None:
    body = os.urandom(2900)
    with host(gateway) as sender:
        for cleared in (True, False, True):
            gateway.plane.update_connection(CONNECTION, MTU, 0, 0, -1, cleared)
            before = gateway.drops().get("too_big", 0)
            if cleared:
                sender.sendto(body, (peer.inner4, 9000))
                carried = assembled([received(peer)[1] for _ in range(3)])
                assert carried[8:] == body
                pseudo = socket.inet_aton(gateway.inner4) + socket.inet_aton(peer.inner4)
                assert checksum(pseudo + struct.pack("!BBH", 0, 17, len(carried)) + carried) == 0
                assert gateway.drops().get("too_big", 0) == before
            else:
                sender.sendto(body, (peer.inner4, 9000))
                wait_until(lambda: gateway.drops().get("too_big"), 3, "one that is too big")
                # The kernel learned the MTU from the answer; the next round needs it forgotten
                gateway.machine.batch("route flush cache")


def test_packets_fragmented_in_spite_of_df_get_identifications_of_their_own(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, -1, True)
    numbers = []
    with host(gateway) as sender:
        for _ in range(50):
            sender.sendto(bytes(2000), (peer.inner4, 9000))
            fragments = [received(peer)[1] for _ in range(2)]
            assert len(assembled(fragments)) == 2008
            numbers.append(identification(fragments[0]))
    assert len(set(numbers)) == 50


def test_whoever_may_be_fragmented_keeps_his_identification(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, -1, True)
    with inside(gateway.machine, partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        # RFC 6864 4: only what has DF and is no fragment may be given another
        for field, number in ((0, 777), (_MF, 778), (_DF | _MF, 779), (_DF | 200, 780)):
            addresses = socket.inet_aton(gateway.inner4) + socket.inet_aton(peer.inner4)
            header = struct.pack("!BBHHHBBH", 0x45, 0, 0, number, field, 64, 17, 0) + addresses
            raw.sendto(header + bytes(2000), (peer.inner4, 0))
            fragments = [received(peer)[1] for _ in range(2)]
            assert {identification(inner) for inner in fragments} == {number}
            first, second = (struct.unpack_from("!H", inner, 6)[0] for inner in fragments)
            assert (first & 0x1FFF, bool(second & _MF)) == (field & 0x1FFF, bool(field & _MF))
            assert not (first | second) & _DF


def test_segments_beyond_the_mtu_are_fragmented_one_by_one(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, 1000, 0, 0, EF, True)
    body = os.urandom(5 * 1400)
    with host(gateway) as sender:
        segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1400))]
        sender.sendmsg([body], segments, 0, (peer.inner4, 9000))
        seen = [received(peer) for _ in range(10)]
    assert {tos for tos, _ in seen} == {EF << 2}
    pairs = [[seen[at][1], seen[at + 1][1]] for at in range(0, 10, 2)]
    assert b"".join(assembled(pair)[8:] for pair in pairs) == body
    assert len({identification(pair[0]) for pair in pairs}) == 5


def test_ipv6_is_never_fragmented(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, -1, True)
    with udp_socket(gateway.machine, gateway.inner6, 9000) as six:
        six.sendto(bytes(2000), (peer.inner6, 9000))
        wait_until(lambda: gateway.drops() == {"too_big": 1}, 3, "one that is too big")


def test_what_fits_leaves_as_it_came(gateway: Gateway, peer: Peer) -> None:
    gateway.plane.update_connection(CONNECTION, MTU, 0, 0, -1, True)
    with host(gateway) as sender:
        sender.sendto(bytes(MTU - 28), (peer.inner4, 9000))
        inner = received(peer)[1]
    assert (len(inner), struct.unpack_from("!H", inner, 6)[0]) == (MTU, _DF)


def test_the_constants_are_words_too(gateway: Gateway) -> None:
    gateway.plane.update_connection(connection=CONNECTION, mtu=MTU, tcp_mss4=0, tcp_mss6=0, dscp=EF, clear_df=True)
    with pytest.raises(TypeError):
        _native.DataPlane.update_connection(gateway.plane, CONNECTION, MTU, 0, 0, "ef")  # type: ignore[arg-type]
