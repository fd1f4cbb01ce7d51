"""What one native data plane sends: the test receives the ESP datagrams, opens them and checks what is inside."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from functools import partial

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.dataplane_pair import (
    CONNECTION,
    Gateway,
    Peer,
    checksum,
    esp_socket,
    inside,
    linked_pair,
    selector,
    udp_socket,
)
from support.netns import Lab
from support.process import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY = bytes(range(20))
SPI = 0x3003
UDP_SEGMENT = 103
_SO_RCVBUFFORCE = 33
_IP_MTU_DISCOVER, _IP_RECVERR = 10, 11
_PMTU_DONT, _PMTU_DO = 0, 2


class Site:
    """A gateway on the left with a host's socket behind it, a hand-made peer on the right."""

    def __init__(self, lab: Lab, workers: int = 1) -> None:
        left, right = linked_pair(lab)
        self.gateway = Gateway(left, "192.0.2.1", 1, workers=workers)
        self.peer = Peer(right, "192.0.2.2", 2, KEY)
        self.peer.socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        self.host = udp_socket(left, self.gateway.inner4, 9000)

    def send(self, payload: bytes, port: int = 9000, *, segment: int = 0) -> None:
        """A datagram from the host to the peer's inner address."""
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment))] if segment else []
        self.host.sendmsg([payload], control, 0, (self.peer.inner4, port))

    def receive(self, count: int) -> list[tuple[int, int, bytes]]:
        """The next ESP datagrams, opened."""
        return [self.peer.open(self.peer.socket.recv(65535)) for _ in range(count)]

    def payloads(self, count: int) -> list[bytes]:
        return [inner[28:] for _, _, inner in self.receive(count)]

    def expect_silence(self, seconds: float = 0.1) -> None:
        assert select.select([self.peer.socket], [], [], seconds)[0] == []

    def expect_drop(self, reason: str, count: int) -> None:
        wait_until(
            lambda: self.gateway.drops().get(reason, 0) >= count,
            3,
            f"{count} drops of {reason}: {self.gateway.drops()}",
        )
        assert self.gateway.drops() == {reason: count}

    def close(self) -> None:
        self.gateway.close()
        self.peer.close()
        self.host.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def bare(lab: Lab) -> Iterator[Site]:
    """No SA yet."""
    made = Site(lab)
    yield made
    made.close()


@pytest.fixture
def site(bare: Site) -> Site:
    bare.gateway.sa("out", SPI, bare.peer, KEY)
    bare.gateway.plane.replace_policies(CONNECTION, [SPI])
    return bare


def verified(inner: bytes) -> bytes:
    """The packet, after its IPv4 header's and its UDP or TCP checksum proved right."""
    assert checksum(inner[:20]) == 0
    rest = inner[20 : struct.unpack_from("!H", inner, 2)[0]]
    assert checksum(inner[12:20] + struct.pack("!BBH", 0, inner[9], len(rest)) + rest) == 0
    return inner


def test_without_an_sa_nothing_leaves_and_one_acquire_a_second_is_raised(bare: Site) -> None:
    for _ in range(20):
        bare.send(b"secret")
    bare.expect_drop("no_sa", 20)
    events = bare.gateway.events("acquire")
    assert 1 <= len(events) <= 2
    _, connection, spi, detail = events[0]
    assert (connection, spi) == (CONNECTION, 0)
    assert detail[12:20] == socket.inet_aton("10.1.0.1") + socket.inet_aton("10.2.0.1")
    bare.expect_silence()


def test_an_installed_sa_carries_nothing_until_a_policy_names_it(bare: Site) -> None:
    bare.gateway.sa("out", SPI, bare.peer, KEY)
    bare.send(b"not yet")
    bare.expect_drop("no_sa", 1)
    bare.gateway.plane.replace_policies(CONNECTION, [SPI])
    bare.send(b"now")
    assert bare.payloads(1) == [b"now"]


def test_sequence_numbers_start_at_one_and_every_packet_is_whole(site: Site) -> None:
    sizes = [1, 2, 3, 4, 100, 1000, 1410]
    for size in sizes:
        site.send(bytes(size))
    packets = site.receive(len(sizes))
    assert [(spi, sequence) for spi, sequence, _ in packets] == [(SPI, number) for number in range(1, 8)]
    assert [len(verified(inner)) - 28 for _, _, inner in packets] == sizes
    row = site.gateway.statistics("out", SPI)
    assert (row["packets"], row["sequence"], row["octets"]) == (7, 7, sum(sizes) + 7 * 28)


def test_a_super_packet_leaves_as_segments_with_complete_checksums(site: Site) -> None:
    body = os.urandom(40 * 1400 + 17)
    site.send(body, segment=1400)
    packets = site.receive(41)
    assert b"".join(verified(inner)[28:] for _, _, inner in packets) == body
    assert [sequence for _, sequence, _ in packets] == list(range(1, 42))
    assert site.gateway.plane.worker_statistics()[0]["tun_reads"] <= 5


def test_the_first_sa_that_matches_is_taken(bare: Site) -> None:
    dns = selector("10.1.0.0/16", "10.2.0.0/16", protocol=17, remote_ports=(53, 53))
    bare.gateway.sa("out", SPI, bare.peer, KEY, selectors=[dns])
    bare.gateway.sa("out", SPI + 1, bare.peer, KEY)
    bare.gateway.plane.replace_policies(CONNECTION, [SPI, SPI + 1])
    for port in (53, 80, 53):
        bare.send(b"?", port)
    assert [spi for spi, _, _ in bare.receive(3)] == [SPI, SPI + 1, SPI]
    bare.gateway.plane.replace_policies(CONNECTION, [SPI])
    bare.send(b"?", 80)
    bare.expect_drop("no_sa", 1)


def test_no_sequence_number_above_the_grant_is_ever_sent(site: Site) -> None:
    site.gateway.plane.grant(CONNECTION, SPI, 10)
    site.send(bytes(16 * 100), segment=100)
    assert [sequence for _, sequence, _ in site.receive(10)] == list(range(1, 11))
    site.expect_drop("sequence_exhausted", 6)
    site.expect_silence()
    site.gateway.plane.grant(CONNECTION, SPI, 12)
    for _ in range(4):
        site.send(b"more")
    assert [sequence for _, sequence, _ in site.receive(2)] == [11, 12]
    site.expect_drop("sequence_exhausted", 8)
    site.expect_silence()


def test_sequence_numbers_that_are_left_out_are_never_sent(site: Site) -> None:
    """RFC 6311 5.2."""
    plane = site.gateway.plane
    for left_out, expected in ((0, 1), (100, 102)):
        plane.advance(CONNECTION, SPI, left_out)
        site.send(b"next")
        assert [sequence for _, sequence, _ in site.receive(1)] == [expected]
    plane.grant(CONNECTION, SPI, 200)
    plane.advance(CONNECTION, SPI, 99)
    site.send(b"beyond the grant")
    site.expect_drop("sequence_exhausted", 1)
    plane.grant(CONNECTION, SPI, 2**32 - 1)
    plane.advance(CONNECTION, SPI, 2**64 - 1)
    site.send(b"none is left")
    site.expect_drop("sequence_exhausted", 2)
    site.expect_silence()
    with pytest.raises(ValueError, match="unknown outbound SA"):
        plane.advance(CONNECTION, 0x7777, 1)


@pytest.mark.parametrize("limit", [{"hard_packets": 5, "soft_packets": 3}, {"hard_octets": 640, "soft_octets": 300}])
def test_limits_outbound(bare: Site, limit: dict[str, int]) -> None:
    bare.gateway.sa("out", SPI, bare.peer, KEY, **limit)
    bare.gateway.plane.replace_policies(CONNECTION, [SPI])
    bare.send(bytes(9 * 100), segment=100)
    assert len(bare.receive(5)) == 5
    bare.expect_drop("hard_limit", 4)
    bare.expect_silence()
    assert bare.gateway.plane.events() == [
        ("expire-soft", CONNECTION, SPI, b"out"),
        ("expire-hard", CONNECTION, SPI, b"out"),
    ]
    bare.send(b"no more")
    bare.expect_drop("hard_limit", 5)
    assert bare.gateway.plane.events() == []


def test_too_big_with_df_draws_icmp_and_without_it_is_fragmented(site: Site) -> None:
    site.gateway.machine.batch("link set gw0 mtu 3000")
    site.host.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTU_DO)
    site.host.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    site.send(bytes(2000))
    site.expect_drop("too_big", 1)
    code, origin, kind, which, _, mtu = wait_until(lambda: _error_of(site.host), 2, "an ICMP error comes back")
    assert (code, origin, kind, which, mtu) == (90, 2, 3, 4, 1438)
    site.expect_silence()

    site.host.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTU_DONT)
    body = os.urandom(2900)
    site.send(body)
    packets = [inner for _, _, inner in site.receive(3)]
    assert all(len(inner) <= 1438 and checksum(inner[:20]) == 0 for inner in packets)
    fields = [struct.unpack_from("!H", inner, 6)[0] for inner in packets]
    assert [field >> 13 for field in fields] == [1, 1, 0]
    assembled = bytearray(2908)
    for field, inner in zip(fields, packets, strict=True):
        offset = (field & 0x1FFF) * 8
        assembled[offset : offset + len(inner) - 20] = inner[20:]
    assert bytes(assembled[8:]) == body
    pseudo = packets[0][12:20] + struct.pack("!BBH", 0, 17, 2908)
    assert checksum(pseudo + bytes(assembled)) == 0


def _error_of(sock: socket.socket) -> tuple[int, ...]:
    """struct sock_extended_err of a queued error: errno, origin, type, code, pad, info; empty when there is none."""
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR is always told
    if not poll.poll(0):
        return ()
    _, control, _, _ = sock.recvmsg(100, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    return struct.unpack_from("=IBBBBI", control[0][2])


def test_too_big_in_ipv6_draws_packet_too_big(site: Site) -> None:
    site.gateway.machine.batch("link set gw0 mtu 3000")
    with udp_socket(site.gateway.machine, site.gateway.inner6, 9000) as host:
        host.setsockopt(socket.IPPROTO_IPV6, 25, 1)  # IPV6_RECVERR
        host.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, DO
        host.sendto(bytes(2000), (site.peer.inner6, 9000))
        site.expect_drop("too_big", 1)
        code, origin, kind, _, _, mtu = wait_until(lambda: _error_of(host), 2, "an ICMPv6 error comes back")
    assert (code, origin, kind, mtu) == (90, 3, 2, 1438)


def test_the_mss_of_a_syn_is_clamped(site: Site) -> None:
    site.gateway.plane.update_connection(CONNECTION, 1438, 1200, 1180)
    families = ((socket.AF_INET, site.peer.inner4, 20, 1200), (socket.AF_INET6, site.peer.inner6, 40, 1180))
    for family, address, header, clamp in families:
        with inside(site.gateway.machine, partial(socket.socket, family, socket.SOCK_STREAM)) as connecting:
            connecting.setblocking(False)
            connecting.connect_ex((address, 80))
            ((_, _, inner),) = site.receive(1)
        tcp = inner[header:]
        assert tcp[13] == 0x02
        assert struct.unpack_from("!BBH", tcp, 20) == (2, 4, clamp)
        if header == 20:
            verified(inner)


def test_the_peer_of_an_sa_can_be_moved(site: Site) -> None:
    with udp_socket(site.peer.machine, "192.0.2.2", 6000) as elsewhere:
        site.gateway.plane.move_sa(CONNECTION, SPI, ("192.0.2.2", 6000))
        site.send(b"to the new port")
        assert site.peer.open(elsewhere.recv(2000))[2][28:] == b"to the new port"
    site.expect_silence()


def test_our_end_of_an_sa_can_be_moved(site: Site) -> None:
    site.gateway.machine.batch("address add 192.0.2.11/24 dev wan")
    with udp_socket(site.gateway.machine, "192.0.2.11", 4500) as there:
        remote = site.peer.socket.getsockname()
        site.gateway.plane.move_sa(CONNECTION, SPI, remote, ("192.0.2.11", 4500), there.fileno())
        site.send(b"from the new address")
        octets, source = site.peer.socket.recvfrom(2000)
    assert (site.peer.open(octets)[2][28:], source) == (b"from the new address", ("192.0.2.11", 4500))


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ((("192.0.2.2", 4500), ("192.0.2.11", 4500), 10**6), "not a socket"),
        ((("192.0.2.2", 4500), ("nowhere", 4500), 0), "nowhere"),
    ],
)
def test_an_end_that_cannot_be_leaves_the_sa_as_it_was(site: Site, ends: tuple[object, ...], why: str) -> None:
    with pytest.raises((OSError, ValueError), match=why):
        site.gateway.plane.move_sa(CONNECTION, SPI, *ends)
    site.send(b"as before")
    assert site.payloads(1) == [b"as before"]


def test_protocol_50_without_udp(bare: Site) -> None:
    with esp_socket(bare.gateway.machine, "192.0.2.1") as raw, esp_socket(bare.peer.machine, "192.0.2.2") as sink:
        bare.gateway.sa("out", SPI, bare.peer, KEY, encapsulate=False, socket_fd=raw.fileno())
        bare.gateway.plane.replace_policies(CONNECTION, [SPI])
        bare.send(bytes(20 * 500), segment=500)
        for sequence in range(1, 21):
            packet = sink.recv(2000)[20:]
            assert bare.peer.open(packet)[1] == sequence
        bare.expect_silence()


def test_a_segment_beyond_the_path_mtu_is_counted_and_the_rest_still_leaves(site: Site) -> None:
    site.gateway.sockets[0].setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTU_DO)
    site.gateway.machine.batch("link set wan mtu 1000")
    site.send(bytes(3 * 1400 + 100), segment=1400)
    assert [len(inner) for _, _, inner in site.receive(1)] == [128]
    site.expect_drop("send_failed", 3)


def test_a_removed_socket_sends_no_more(site: Site) -> None:
    sock = site.gateway.sockets[0]
    site.gateway.plane.remove_socket(sock.fileno())
    site.send(b"into the void")
    site.expect_drop("send_failed", 1)
    site.expect_silence()
    site.gateway.plane.remove_socket(sock.fileno())  # idempotent


def test_another_key_does_not_open_it(site: Site) -> None:
    site.send(b"secret")
    packet = site.peer.socket.recv(2000)
    assert b"secret" not in packet
    with pytest.raises(InvalidTag):
        AESGCM(bytes(16)).decrypt(KEY[-4:] + packet[8:16], packet[16:], packet[:8])


REFUSED = [
    ({"spi": 255}, "reserved"),
    ({"encryption": "aes-ccm"}, "encryption"),
    ({"encryption": "aes-cbc", "encryption_key": bytes(16)}, "integrity"),
    ({"encryption_key": bytes(19)}, "key"),
    ({"remote": ("host.example", 4500)}, "address"),
    ({"remote": ("2001:db8::1", 4500)}, "IPv4"),
    ({"remote": ("192.0.2.2", 0)}, "port"),
    ({"selectors": []}, "selector"),
    ({"selectors": [(0, bytes(4), bytes(4), 0, 1, bytes(16), bytes(16), 0, 1)]}, "octets"),
    ({"replay_window": 1 << 20}, "window"),
    ({"connection": 99}, "connection"),
    ({"direction": "sideways"}, "direction"),
    ({"encapsulate": False}, "raw socket"),
]


@pytest.mark.parametrize(("change", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_add_sa_names_what_is_wrong(bare: Site, change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        bare.gateway.plane.add_sa(**(bare.gateway.arguments("out", SPI, bare.peer, KEY) | change))
    assert bare.gateway.plane.sa_statistics() == []


def test_an_spi_is_taken_once(site: Site) -> None:
    with pytest.raises(ValueError, match="exists"):
        site.gateway.sa("out", SPI, site.peer, KEY)
    with pytest.raises(ValueError, match="unknown outbound SPI"):
        site.gateway.plane.replace_policies(CONNECTION, [SPI, SPI + 1])
    site.send(b"the old list still stands")
    assert site.payloads(1) == [b"the old list still stands"]
