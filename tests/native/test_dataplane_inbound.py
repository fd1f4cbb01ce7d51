"""What one native data plane takes from the wire, and what it refuses: the test itself is the ESP peer (RFC 4303)."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from support.dataplane_pair import (
    CONNECTION,
    PORT,
    Gateway,
    Peer,
    esp_socket,
    inside,
    ipv4_udp,
    linked_pair,
    selector,
    udp_socket,
)
from support.netns import Lab, Namespace
from support.process import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY = bytes(range(20))
SPI = 0x1001


class Site:
    """A gateway on the right, a hand-made peer on the left, and a host's UDP socket behind the gateway."""

    def __init__(self, lab: Lab, bind: str | None = None) -> None:
        left, right = linked_pair(lab)
        self.left = left
        self.peer = Peer(left, "192.0.2.1", 1, KEY)
        self.gateway = Gateway(right, "192.0.2.2", 2, bind=bind)
        self.host = udp_socket(right, self.gateway.inner4, 9000)
        self.host.settimeout(0)

    def inner(self, payload: bytes, source: str = "10.1.0.1", port: int = 9000) -> bytes:
        return ipv4_udp(source, self.gateway.inner4, payload, port)

    def deliver(self, sequence: int, payload: bytes, spi: int = SPI) -> None:
        self.peer.send(self.peer.seal(spi, sequence, self.inner(payload)), self.gateway.outer)

    def received(self) -> list[bytes]:
        """What the host has in its queue now."""
        found = []
        while True:
            try:
                found.append(self.host.recv(65535))
            except BlockingIOError:
                return found

    def expect(self, *payloads: bytes) -> None:
        """Exactly these arrive, in this order."""
        found: list[bytes] = []

        def complete() -> bool:
            found.extend(self.received())
            return len(found) >= len(payloads)

        wait_until(complete, 3, f"{len(payloads)} datagrams arrive; drops {self.gateway.drops()}")
        assert found == list(payloads)

    def expect_drop(self, reason: str, count: int, connection: int = CONNECTION) -> None:
        """The counter reaches exactly `count` and nothing was delivered."""
        wait_until(lambda: self.gateway.drops(connection).get(reason, 0) >= count, 3, f"{count} drops of {reason}")
        assert self.gateway.drops(connection)[reason] == count
        assert self.received() == []


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def site(lab: Lab) -> Iterator[Site]:
    made = Site(lab)
    made.gateway.sa("in", SPI, made.peer, KEY)
    yield made
    made.gateway.close()
    made.peer.close()
    made.host.close()


def elsewhere(machine: Namespace, port: int) -> socket.socket:
    return udp_socket(machine, "192.0.2.1", port)


def test_an_authentic_packet_is_delivered_and_counted(site: Site) -> None:
    before = time.monotonic()
    site.deliver(1, b"first")
    site.deliver(5, b"second")
    site.expect(b"first", b"second")
    row = site.gateway.statistics("in", SPI)
    assert (row["packets"], row["octets"], row["sequence"]) == (2, 28 + 5 + 28 + 6, 5)
    assert before - 0.1 <= row["last_used"] <= time.monotonic()


def test_a_replayed_datagram_is_dropped_and_counted(site: Site) -> None:
    packet = site.peer.seal(SPI, 3, site.inner(b"once"))
    site.peer.send(packet, site.gateway.outer)
    site.expect(b"once")
    for _ in range(4):
        site.peer.send(packet, site.gateway.outer)
    site.expect_drop("replay", 4)
    row = site.gateway.statistics("in", SPI)
    assert (row["packets"], row["replay_drops"], row["sequence"]) == (1, 4, 3)


def test_a_duplicate_inside_one_gro_buffer_is_delivered_once(site: Site) -> None:
    packet = site.peer.seal(SPI, 3, site.inner(b"once"))
    site.peer.send(packet * 5, site.gateway.outer, segment=len(packet))
    site.expect(b"once")
    wait_until(lambda: site.gateway.drops().get("replay") == 4, 2, "four replays counted")


def test_an_unknown_spi_is_counted_and_told_once_a_second(site: Site) -> None:
    for _ in range(10):
        site.deliver(1, b"whose?", spi=0xDEAD)
    site.expect_drop("unknown_spi", 10, connection=0)
    events = site.gateway.events("unknown-spi")
    assert 1 <= len(events) <= 2
    assert events[0] == ("unknown-spi", 0, 0xDEAD, b"192.0.2.1 4500")


def test_ports_and_protocol_of_a_selector_are_enforced(site: Site) -> None:
    narrow = selector("10.2.0.1/32", "10.1.0.1/32", protocol=17, local_ports=(9000, 9000), remote_ports=(9000, 9010))
    site.gateway.sa("in", SPI + 1, site.peer, KEY, selectors=[narrow])
    for sequence, (port, source_port) in enumerate([(9000, 9000), (9001, 9000), (9000, 9011), (9000, 9010)], 1):
        packet = site.peer.seal(
            SPI + 1, sequence, ipv4_udp("10.1.0.1", "10.2.0.1", b"%d %d" % (port, source_port), port, source_port)
        )
        site.peer.send(packet, site.gateway.outer)
    site.expect(b"9000 9000", b"9000 9010")
    assert site.gateway.drops()["selector"] == 2
    # RFC 4301 7: a later fragment shows no ports, so a selector with ports never takes it.
    fragment = bytearray(ipv4_udp("10.1.0.1", "10.2.0.1", b"12345678" * 2))
    fragment[6:8] = b"\x00\x01"
    site.peer.send(site.peer.seal(SPI + 1, 9, bytes(fragment)), site.gateway.outer)
    site.expect_drop("selector", 3)


def test_one_gro_buffer_may_mix_spis_and_ike(site: Site) -> None:
    site.gateway.sa("in", SPI + 1, site.peer, KEY)
    payload = b"x" * 40
    esp = [
        site.peer.seal(spi, 1, site.inner(bytes([index]) + payload)) for index, spi in enumerate((SPI, SPI + 1, 0xBAD))
    ]
    size = len(esp[0])
    ike = b"\0\0\0\0" + b"I" * (size - 4)
    again = site.peer.seal(SPI, 2, site.inner(b"\x09" + payload))
    site.peer.send(b"".join([esp[0], ike, esp[1], esp[2], again, b"\0\0\0\0last"]), site.gateway.outer, segment=size)
    site.expect(b"\x00" + payload, b"\x01" + payload, b"\x09" + payload)
    punted = wait_until(site.gateway.plane.punted, 2, "IKE is punted")
    fd = site.gateway.sockets[0].fileno()
    ends = (("192.0.2.2", PORT), ("192.0.2.1", PORT), fd)
    assert punted == [(b"I" * (size - 4), *ends), (b"last", *ends)]
    assert site.gateway.drops(0) == {"unknown_spi": 1}


def test_a_wildcard_socket_reports_the_local_address_of_each_punt(lab: Lab) -> None:
    site = Site(lab, bind="0.0.0.0")
    site.gateway.machine.batch("address add 192.0.2.77/24 dev wan")
    for target in ("192.0.2.77", "192.0.2.2"):
        site.peer.send(b"\0\0\0\0hello", target)
    found: list[str] = []

    def both() -> bool:
        found.extend(local[0] for _, local, _, _ in site.gateway.plane.punted())
        return len(found) == 2

    wait_until(both, 2, "two punts")
    assert found == ["192.0.2.77", "192.0.2.2"]
    site.gateway.close()


def test_the_punt_ring_is_bounded_and_overflow_counted(site: Site) -> None:
    for _ in range(1500):
        site.peer.send(b"\0\0\0\0flood", site.gateway.outer)
    wait_until(lambda: site.gateway.drops(0).get("punt_full", 0) >= 1500 - 1024, 3, "overflow is counted")
    assert len(site.gateway.plane.punted()) == 1024
    assert site.gateway.plane.punted() == []


def test_keepalives_and_scraps_are_named(site: Site) -> None:
    for datagram in (b"\xff", b"\x01\x02\x03", b"\0\0\0\0", struct.pack("!I", SPI) + b"abc"):
        site.peer.send(datagram, site.gateway.outer)
    site.peer.send(struct.pack("!II", SPI, 1) + bytes(12), site.gateway.outer)
    site.expect_drop("too_short", 1)
    assert site.gateway.drops(0) == {"keepalive": 1, "too_short": 3}


def test_dummy_packets_and_tfc_padding(site: Site) -> None:
    site.peer.send(site.peer.seal(SPI, 1, bytes(64), next_header=59), site.gateway.outer)
    site.expect_drop("dummy", 1)
    site.peer.send(site.peer.seal(SPI, 2, site.inner(b"padded") + bytes(100)), site.gateway.outer)
    site.expect(b"padded")
    site.peer.send(site.peer.seal(SPI, 3, site.inner(b"wrong family"), next_header=41), site.gateway.outer)
    site.expect_drop("inner_malformed", 1)


def test_the_peer_moves_only_by_a_new_highest_authentic_packet(site: Site) -> None:
    site.deliver(10, b"home")
    site.expect(b"home")
    with elsewhere(site.left, 6000) as moved:
        moved.sendto(site.peer.seal(SPI, 9, site.inner(b"late, by another way")), (site.gateway.outer, PORT))
        site.expect(b"late, by another way")
        assert site.gateway.events("peer-moved", 0.1) == []
        moved.sendto(site.peer.seal(SPI, 11, site.inner(b"moved")), (site.gateway.outer, PORT))
        site.expect(b"moved")
        assert site.gateway.events("peer-moved") == [("peer-moved", CONNECTION, SPI, b"192.0.2.1 6000")]
        moved.sendto(site.peer.seal(SPI, 12, site.inner(b"settled")), (site.gateway.outer, PORT))
        site.expect(b"settled")
    assert site.gateway.events("peer-moved", 0.1) == []


def test_limits_inbound(site: Site) -> None:
    site.gateway.sa("in", SPI + 1, site.peer, KEY, soft_packets=2, hard_packets=4)
    for sequence in range(1, 7):
        site.deliver(sequence, b"%d" % sequence, spi=SPI + 1)
    site.expect(b"1", b"2", b"3", b"4")
    site.expect_drop("hard_limit", 2)
    assert site.gateway.plane.events() == [
        ("expire-soft", CONNECTION, SPI + 1, b"in"),
        ("expire-hard", CONNECTION, SPI + 1, b"in"),
    ]


def test_protocol_50_without_udp(site: Site) -> None:
    raw = esp_socket(site.gateway.machine, "192.0.2.2")
    site.gateway.plane.add_socket(0, raw.fileno())
    site.gateway.sa("in", SPI + 1, site.peer, KEY, encapsulate=False)
    sender = inside(site.left, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 50))
    sender.sendto(site.peer.seal(SPI + 1, 1, site.inner(b"bare")), ("192.0.2.2", 0))
    site.expect(b"bare")
    # RFC 7296 2.23: either form may come at any time.
    site.deliver(2, b"in UDP", spi=SPI + 1)
    site.expect(b"in UDP")
    assert site.gateway.plane.events() == []
    site.gateway.plane.remove_socket(raw.fileno())
    raw.close()
    sender.close()


def test_a_packet_without_udp_does_not_move_a_peer_reached_through_udp(site: Site) -> None:
    """It shows no port: port 0 would be where nothing can be sent to any more."""
    site.left.batch("address add 192.0.2.3/24 dev wan")
    with esp_socket(site.gateway.machine, "192.0.2.2") as raw, esp_socket(site.left, "192.0.2.3") as sender:
        site.gateway.plane.add_socket(0, raw.fileno())
        sender.sendto(site.peer.seal(SPI, 1, site.inner(b"bare")), ("192.0.2.2", 0))
        site.expect(b"bare")
        assert site.gateway.plane.events() == []
        # Of an SA without UDP the address is what counts
        site.gateway.sa("in", SPI + 1, site.peer, KEY, encapsulate=False)
        sender.sendto(site.peer.seal(SPI + 1, 1, site.inner(b"moved")), ("192.0.2.2", 0))
        site.expect(b"moved")
        assert site.gateway.plane.events() == [("peer-moved", CONNECTION, SPI + 1, b"192.0.2.3 0")]
        site.gateway.plane.remove_socket(raw.fileno())


def test_a_burst_of_many_is_delivered_in_order(site: Site) -> None:
    site.host.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    packets = [site.peer.seal(SPI, sequence, site.inner(b"%04d" % sequence)) for sequence in range(1, 601)]
    for start in range(0, 600, 60):
        site.peer.send(b"".join(packets[start : start + 60]), site.gateway.outer, segment=len(packets[0]))
    site.expect(*(b"%04d" % sequence for sequence in range(1, 601)))
    assert site.gateway.drops() == {}
