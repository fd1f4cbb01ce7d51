"""Protocol 50 by packet socket: on the wire it is what the raw socket sends, and what does not go that way goes by the
raw socket.

The test is the host behind the gateway; a packet socket on the peer's device sees whole frames.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
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

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY = bytes(range(20))
SPI = 0x3003
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
LABEL = 0x5A5A5
_SOL_PACKET, _QDISC_BYPASS, _ALL, _RCVBUFFORCE = 263, 20, 3, 33
_ESP, _DF = 50, 0x4000
_IP_MTU_DISCOVER, _PMTU_DONT = 10, 0
TOS = [0, 1, 2, 3, 10 << 2, 46 << 2 | 2, 63 << 2 | 3]


def link_of(machine: Namespace) -> tuple[int, bytes]:
    """Index and link address of its device."""
    (link,) = machine.ip_json("link", "show", "wan")
    return link["ifindex"], bytes.fromhex(link["address"].replace(":", ""))


def packet_socket(machine: Namespace) -> socket.socket:
    made = inside(machine, partial(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0))
    made.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
    return made


class Wire:
    """The peer's end of the veth: frames of ESP as they arrive."""

    def __init__(self, machine: Namespace) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind(("wan", _ALL))
            made.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 1 << 22)
            made.settimeout(3)
            return made

        self.socket = inside(machine, make)

    def frame(self) -> bytes:
        while True:
            frame, address = self.socket.recvfrom(4000)
            protocol = frame[20] if frame[12:14] == b"\x86\xdd" else frame[23]
            if address[2] != socket.PACKET_OUTGOING and protocol == _ESP:
                return frame


@dataclass
class Scene:
    gateway: Gateway
    peer: Peer
    wire: Wire
    raw: dict[int, socket.socket]
    left: Namespace
    right: Namespace

    def way(self, family: int, **changes: object) -> None:
        """The right one, but for the changes."""
        local, remote = OUTER[family]
        found: dict[str, object] = {
            "connection": CONNECTION, "local": local, "remote": remote, "interface": link_of(self.left)[0],
            "link_address": link_of(self.right)[1], "mtu": 1500, "hops": 64, "flow_label": LABEL,
        }  # fmt: skip
        self.gateway.plane.set_egress(**(found | changes))  # type: ignore[arg-type]

    def use(self, family: int, spi: int = SPI) -> None:
        local, remote = OUTER[family]
        changes = {"encapsulate": False, "socket_fd": self.raw[family].fileno()}
        self.gateway.sa("out", spi, self.peer, KEY, local=(local, 0), remote=(remote, 0), **changes)
        self.gateway.plane.replace_policies(CONNECTION, [spi])

    def calls(self) -> tuple[int, int, int, int]:
        """By packet socket and by raw socket; packets the first did not take."""
        (row,) = self.gateway.plane.worker_statistics()
        return row["packet_sends"], row["udp_sends"], row["packets_full"], row["packets_refused"]

    def settle(self, *expected: int) -> None:
        """The worker counts a call when it is over, and the frame may be here before."""
        wait_until(lambda: self.calls()[: len(expected)] == expected, 2, f"calls are {expected}")

    def sent(self, payload: bytes = b"?", tos: int = 0) -> bytes:
        with udp_socket(self.gateway.machine, self.gateway.inner4, 9000) as host:
            host.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            host.sendto(payload, (self.peer.inner4, 9000))
            return self.wire.frame()

    def opened(self, frame: bytes) -> bytes:
        return self.peer.open(frame[54:] if frame[12:14] == b"\x86\xdd" else frame[34:])[2]


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        left, right = linked_pair(lab)
        for machine in (left, right):
            machine.sysctl({"net.ipv6.conf.all.accept_dad": 0})
        gateway = Gateway(left, "192.0.2.1", 1)
        peer = Peer(right, "192.0.2.2", 2, KEY)
        wire = Wire(right)
        raw = {family: esp_socket(left, OUTER[family][0]) for family in OUTER}
        sinks = [esp_socket(right, OUTER[family][1]) for family in OUTER]  # or the peer answers with ICMP
        sender = packet_socket(left)
        gateway.plane.add_packet_socket(0, sender.fileno())
        yield Scene(gateway, peer, wire, raw, left, right)
        gateway.close()
        peer.close()
        for one in (*raw.values(), *sinks, wire.socket, sender):
            one.close()


def masked(frame: bytes) -> bytes:
    """Without what must differ from packet to packet (IPv4: identification and checksum; the sequence number, the IV and
    what depends on them) and the flow label, which the kernel derives from a secret of its own."""
    if frame[12:14] == b"\x86\xdd":
        (word,) = struct.unpack_from("!I", frame, 14)
        return frame[:14] + struct.pack("!I", word & ~0xFFFFF) + frame[18:58] + bytes(len(frame) - 58)
    return frame[:18] + bytes(2) + frame[20:24] + bytes(2) + frame[26:38] + bytes(len(frame) - 38)


@pytest.mark.parametrize("family", OUTER)
def test_a_frame_is_the_raw_sockets_octet_by_octet(scene: Scene, family: int) -> None:
    scene.use(family)
    labels, pairs = set(), 0
    for tos in TOS:
        for size in (0, 1, 700, MTU - 28 if family == 4 else MTU - 60):
            scene.gateway.plane.clear_egress(CONNECTION)
            by_raw = scene.sent(bytes(size), tos)
            scene.settle(pairs, pairs + 1)
            scene.way(family)
            by_packet = scene.sent(bytes(size), tos)
            pairs += 1
            scene.settle(pairs, pairs, 0, 0)
            assert masked(by_packet) == masked(by_raw)
            assert len(scene.opened(by_packet)) == len(scene.opened(by_raw)) == size + 28
            if family == 4:
                assert checksum(by_packet[14:34]) == 0
                assert struct.unpack_from("!H", by_packet, 20)[0] == _DF
            else:
                assert struct.unpack_from("!I", by_packet, 14)[0] & 0xFFFFF == LABEL
                labels.add(struct.unpack_from("!I", by_raw, 14)[0] & 0xFFFFF)
    assert family == 4 or (len(labels) == 1 and labels != {0}), "the kernel's own: one for each pair of addresses"
    assert scene.gateway.drops() == {}


def test_the_df_bit_is_the_raw_sockets(scene: Scene) -> None:
    scene.raw[4].setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTU_DONT)
    scene.use(4)
    by_raw = scene.sent()
    scene.way(4)
    by_packet = scene.sent()
    assert [struct.unpack_from("!H", frame, 20)[0] for frame in (by_raw, by_packet)] == [0, 0]


def test_identifications_do_not_come_again_soon(scene: Scene) -> None:
    scene.use(4)
    scene.way(4)
    with udp_socket(scene.left, scene.gateway.inner4, 9000) as host:
        for _ in range(300):
            host.sendto(b"?", (scene.peer.inner4, 9000))
        numbers = {struct.unpack_from("!H", scene.wire.frame(), 18)[0] for _ in range(300)}
    assert len(numbers) == 300


def test_bursts_go_in_batches_and_in_order(scene: Scene) -> None:
    scene.use(4)
    scene.way(4)
    segments = [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1000))]
    with udp_socket(scene.left, scene.gateway.inner4, 9000) as host:
        host.sendmsg([bytes(50_000)], segments, 0, (scene.peer.inner4, 9000))
    numbers = [struct.unpack_from("!I", scene.wire.frame(), 38)[0] for _ in range(50)]
    assert numbers == list(range(1, 51))
    scene.settle(2, 0, 0, 0)


def test_what_is_longer_than_the_link_goes_by_the_raw_socket_and_so_does_what_follows_it(scene: Scene) -> None:
    scene.use(4)
    scene.way(4, mtu=1000)
    assert len(scene.opened(scene.sent(bytes(800)))) == 828
    scene.settle(1, 0)
    assert len(scene.opened(scene.sent(bytes(1100)))) == 1128
    scene.settle(1, 1, 0, 0)


def test_the_device_says_it_is_too_long(scene: Scene) -> None:
    """EMSGSIZE: the MTU became less, and nobody told us yet. The raw socket's kernel fragments."""
    scene.use(4)
    scene.way(4)
    scene.left.batch("link set wan mtu 900")
    first, second = scene.sent(bytes(1000)), scene.wire.frame()
    fields = [struct.unpack_from("!H", frame, 20)[0] for frame in (first, second)]
    assert fields[0] == 0x2000
    assert fields[1] & 0x1FFF == (900 - 20) // 8
    scene.settle(1, 1, 0, 1)
    assert scene.gateway.drops() == {}


def test_a_device_that_is_down_loses_nothing_that_has_another_way(scene: Scene) -> None:
    scene.use(4)
    scene.left.batch("link add spare type veth peer name other", "link set spare up", "link set other up")
    (spare,) = scene.left.ip_json("link", "show", "spare")
    scene.way(4, interface=spare["ifindex"])
    scene.left.batch("link set other down")  # no carrier: as with a full queue, ENOBUFS
    assert scene.opened(scene.sent())
    scene.settle(1, 1, 1, 0)
    scene.left.batch("link set spare down")
    assert scene.opened(scene.sent())
    scene.left.batch("link delete spare")
    assert scene.opened(scene.sent())
    scene.settle(3, 3, 1, 2)
    assert scene.gateway.drops() == {}


def test_a_peer_that_moved_is_not_sent_to_where_it_was(scene: Scene) -> None:
    scene.use(4)
    scene.way(4)
    scene.right.batch("address add 192.0.2.3/24 dev wan")
    assert scene.sent()[30:34] == socket.inet_aton("192.0.2.2")
    scene.gateway.plane.move_sa(CONNECTION, SPI, ("192.0.2.3", 0))
    assert scene.sent()[30:34] == socket.inet_aton("192.0.2.3")
    scene.settle(1, 1)
    scene.way(4, remote="192.0.2.3")
    assert scene.sent()[30:34] == socket.inet_aton("192.0.2.3")
    scene.settle(2, 1)


def test_esp_in_udp_never_takes_it(scene: Scene) -> None:
    scene.way(4)
    scene.gateway.sa("out", SPI, scene.peer, KEY)
    scene.gateway.plane.replace_policies(CONNECTION, [SPI])
    with udp_socket(scene.left, scene.gateway.inner4, 9000) as host:
        host.sendto(b"?", (scene.peer.inner4, 9000))
        assert scene.peer.open(scene.peer.socket.recv(2000))[0] == SPI
    scene.settle(0, 1)


def test_it_changes_under_traffic_and_nothing_is_lost(scene: Scene) -> None:
    scene.use(4)
    with udp_socket(scene.left, scene.gateway.inner4, 9000) as host:
        for number in range(200):
            if number % 2:
                scene.way(4)
            else:
                scene.gateway.plane.clear_egress(CONNECTION)
            host.sendto(b"?", (scene.peer.inner4, 9000))
        numbers = [struct.unpack_from("!I", scene.wire.frame(), 38)[0] for _ in range(200)]
    assert sorted(numbers) == list(range(1, 201))
    calls = scene.calls()
    # A burst goes one way as a whole, however often it changes meanwhile
    assert min(calls[:2]) > 0, calls
    wait_until(lambda: scene.gateway.statistics("out", SPI)["packets"] == 200, 2, "all are counted")


def test_mistakes_are_refused_and_change_nothing(scene: Scene) -> None:
    scene.use(4)
    scene.way(4)
    mistakes = [
        ({"connection": 99}, "unknown connection"),
        ({"local": "2001:db8::1"}, "different families"),
        ({"interface": 0}, "no such interface"),
        ({"interface": 1 << 31}, "no such interface"),
        ({"hops": 0}, "hop limit"),
        ({"link_address": bytes(8)}, "6 octets"),
        ({"remote": "nowhere"}, "not an IP address"),
    ]
    for change, told in mistakes:
        with pytest.raises(ValueError, match=told):
            scene.way(4, **change)
    for fd, told in ((scene.raw[4].fileno(), "packet socket"), (scene.wire.socket.fileno(), "packet socket")):
        with pytest.raises(ValueError, match=told):
            scene.gateway.plane.add_packet_socket(0, fd)
    with pytest.raises(ValueError, match="no such worker"):
        scene.gateway.plane.add_packet_socket(1, 0)
    assert scene.opened(scene.sent())
    scene.settle(1, 0)
    scene.gateway.plane.remove_connection(CONNECTION)
