"""The native data plane against the reference: equal datagrams, good and broken, give equal packets and counters."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass

import pytest
from support.dataplane_pair import CONNECTION, PORT, TUN, Gateway, checksum, inside, linked_pair, selector, udp_socket
from support.netns import Lab
from support.process import wait_until

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, Encryption, Integrity, SaParameters, Selector, Suite
from gateway.esp.packet import EspKeys, seal
from gateway.esp.reference import ReferenceDataPlane

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

DATAGRAMS = 1200
LEFT, RIGHT = Endpoint("192.0.2.1", PORT), Endpoint("192.0.2.2", PORT)
SELECTORS = (
    selector("10.2.0.0/16", "10.1.0.0/16"),
    selector("10.2.0.0/24", "10.9.0.0/16", protocol=17, local_ports=(1000, 2000)),
    selector("10.2.0.0/24", "10.9.0.0/16", protocol=1, local_ports=(0x0800, 0x08FF), remote_ports=(0x0800, 0x08FF)),
    selector("fd00:2::/32", "fd00:1::/32", protocol=6, remote_ports=(80, 443)),
)
SUITES = {
    "AES-128-GCM": Suite(Encryption.AES_GCM_16, 16),
    "AES-256-GCM, ESN": Suite(Encryption.AES_GCM_16, 32, esn=True),
    "AES-128-GCM, ICV 8": Suite(Encryption.AES_GCM_8, 16),
    "AES-256-GCM, ICV 12, ESN": Suite(Encryption.AES_GCM_12, 32, esn=True),
    "ChaCha20-Poly1305": Suite(Encryption.CHACHA20_POLY1305, 32),
    "ChaCha20-Poly1305, ESN": Suite(Encryption.CHACHA20_POLY1305, 32, esn=True),
    "AES-128-CBC, SHA-1": Suite(Encryption.AES_CBC, 16, Integrity.HMAC_SHA1_96),
    "AES-256-CBC, SHA-256, ESN": Suite(Encryption.AES_CBC, 32, Integrity.HMAC_SHA2_256_128, esn=True),
    "AES-192-CBC, SHA-384": Suite(Encryption.AES_CBC, 24, Integrity.HMAC_SHA2_384_192),
    "AES-256-CBC, SHA-512": Suite(Encryption.AES_CBC, 32, Integrity.HMAC_SHA2_512_256),
}
DIGEST = {
    Integrity.NONE: 0,
    Integrity.HMAC_SHA1_96: 20,
    Integrity.HMAC_SHA2_256_128: 32,
    Integrity.HMAC_SHA2_384_192: 48,
    Integrity.HMAC_SHA2_512_256: 64,
}


@dataclass
class Seeded:
    """RandomSource from a seed."""

    source: random.Random

    def octets(self, count: int) -> bytes:
        return self.source.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self.source.uniform(low, high)


class Author:
    """Writes ESP datagrams: mostly good, sometimes old, torn, tampered, mislabelled or nonsense."""

    def __init__(self, rng: random.Random, keys: EspKeys, first_sequence: int) -> None:
        self.rng, self.keys, self.sequence = rng, keys, first_sequence
        self.seeded = Seeded(rng)
        self.sent: list[bytes] = []

    def datagram(self) -> bytes:
        kind = self.rng.choices(
            ["good", "replayed", "tampered", "torn", "unknown", "dummy", "mislabelled", "garbage", "late", "scrap"],
            [60, 8, 8, 5, 3, 2, 3, 4, 6, 1],
        )[0]
        if kind == "replayed" and self.sent:
            return self.rng.choice(self.sent)
        if kind == "scrap":
            return self.rng.choice([b"\xff", b"\0\0\0\0", b"\1\2", self.rng.randbytes(7)])
        inner, next_header = self.inner()
        if kind == "garbage":
            inner = self.rng.randbytes(self.rng.randrange(0, 60))
        if kind == "mislabelled":
            next_header = self.rng.choice([4, 41, 6, 50, 255])
        if kind == "dummy":
            next_header = 59
        if kind == "late":
            number = max(1, self.sequence - self.rng.randrange(200))
        else:
            self.sequence += self.rng.choice([1, 1, 1, 2, 3, 90])
            number = self.sequence
        packet = seal(self.keys, 0x4444 if kind == "unknown" else 0x1001, number, inner, next_header, self.seeded)
        if kind == "torn":
            return packet[: self.rng.randrange(8, len(packet))]
        if kind == "tampered":
            at = self.rng.randrange(4, len(packet))
            return packet[:at] + bytes((packet[at] ^ 1 << self.rng.randrange(8),)) + packet[at + 1 :]
        self.sent.append(packet)
        return packet

    def inner(self) -> tuple[bytes, int]:
        """A packet that may or may not match the selectors, with odd headers now and then."""
        rng = self.rng
        body = rng.randbytes(rng.randrange(0, 80))
        protocol = rng.choice([1, 6, 17, 58, 253, 132])
        ports = struct.pack("!HH", rng.choice([80, 443, 1000, 0x0800, 5000]), rng.choice([80, 1000, 1500, 2001]))
        l4 = (ports if protocol in (6, 17, 132) else rng.choice([b"\x08\x00", b"\x00\x00", b"\x0b\x01"])) + body
        if rng.random() < 0.1:
            l4 = l4[: rng.randrange(0, 4)]
        tail = rng.randbytes(rng.randrange(0, 30)) if rng.random() < 0.2 else b""  # TFC padding, RFC 4303 2.7
        if rng.random() < 0.6:
            return self.ipv4(protocol, l4) + tail, 4
        return self.ipv6(protocol, l4) + tail, 41

    def ipv4(self, protocol: int, l4: bytes) -> bytes:
        rng = self.rng
        options = b"\x01" * (4 * rng.randrange(0, 3)) if rng.random() < 0.2 else b""
        fragment = rng.choice([0, 0, 0, 0x4000, 0x2000, 0x0010])
        total = 20 + len(options) + len(l4)
        if rng.random() < 0.05:
            total += rng.choice([1, 500, -1, -total])
        addresses = socket.inet_aton(rng.choice(["10.1.0.1", "10.9.3.3", "10.8.0.1"]))
        addresses += socket.inet_aton(rng.choice(["10.2.0.1", "10.2.0.77", "10.2.7.7", "10.3.0.1"]))
        first = 0x40 | 5 + len(options) // 4
        header = struct.pack("!BBHHHBBH", first, 0, total & 0xFFFF, 7, fragment, 64, protocol, 0) + addresses + options
        return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + l4

    def ipv6(self, protocol: int, l4: bytes) -> bytes:
        rng = self.rng
        extensions, following = b"", protocol
        for kind in rng.choices([0, 60, 43, 44], k=rng.choice([0, 0, 0, 1, 2, 3])):
            rest = struct.pack("!HI", rng.choice([0, 1, 8, 9]), 5) if kind == 44 else b"\0\0\0\0\0\0"
            length = 0 if kind == 44 or rng.random() < 0.9 else rng.randrange(0, 4)
            extensions = bytes((following, length)) + rest + extensions
            following = kind
        payload = len(extensions) + len(l4)
        if rng.random() < 0.05:
            payload += rng.choice([1, 500, -1 if payload else 0])
        source = socket.inet_pton(socket.AF_INET6, rng.choice(["fd00:1::1", "fd00:9::1"]))
        destination = socket.inet_pton(socket.AF_INET6, rng.choice(["fd00:2::1", "fd00:2::7", "fd00:3::1"]))
        return struct.pack("!IHBB", 6 << 28, payload, following, 64) + source + destination + extensions + l4


class Sniffer:
    """What the data plane wrote to its TUN, in order."""

    def __init__(self, gateway: Gateway) -> None:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
            made.bind((TUN, 3))
            made.settimeout(2)
            return made

        self.socket = inside(gateway.machine, make)

    def next(self) -> bytes:
        while True:
            data, (_, _, kind, _, _) = self.socket.recvfrom(65535)
            if kind != 4:  # PACKET_OUTGOING: the kernel's own answers
                return data


@pytest.mark.parametrize("engine", ["auto", "libcrypto"])
@pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES.keys())
def test_native_and_reference_agree_on_every_datagram(suite: Suite, engine: str) -> None:
    rng = random.Random(f"{suite} {engine}")
    keys = EspKeys(
        suite,
        rng.randbytes(suite.key_octets + 4 * (not DIGEST[suite.integrity])),
        rng.randbytes(DIGEST[suite.integrity]),
    )
    reference = reference_for(suite, keys)
    # With ESN the low half wraps on the way.
    author = Author(rng, keys, 2**32 - 3000 if suite.esn else 0)
    with Lab() as lab:
        left, right = linked_pair(lab)
        gateway = Gateway(right, RIGHT.host, 2, engine=engine)
        right.sysctl({"net.ipv4.icmp_ratelimit": 0, "net.ipv6.conf.all.forwarding": 0})
        install(gateway, suite, keys)
        sniffer = Sniffer(gateway)
        with udp_socket(left, *LEFT) as sender:
            for index in range(DATAGRAMS):
                datagram = author.datagram()
                delivered = reference.inbound(datagram, RIGHT, LEFT, 0.0)
                sender.sendto(datagram, RIGHT)
                for _, packet in delivered:
                    assert sniffer.next() == packet, f"datagram {index}: {datagram.hex()}"
                agree(gateway, reference, f"datagram {index}: {datagram.hex()}")
        reasons = {reason for (_, reason), count in reference.drop_counters().items() if count}
        assert reasons >= {"replay", "integrity", "too_short", "selector", "unknown_spi", "dummy", "inner_malformed"}
        assert reference.sa_counters()[Direction.INBOUND, CONNECTION, 0x1001].packets > DATAGRAMS / 3
        sniffer.socket.close()
        gateway.close()


def reference_for(suite: Suite, keys: EspKeys) -> ReferenceDataPlane:
    made = ReferenceDataPlane(Seeded(random.Random(1)))
    made.add_connection(CONNECTION, "left", 1438)
    made.add_sa(
        SaParameters(
            direction=Direction.INBOUND,
            spi=0x1001,
            connection=CONNECTION,
            suite=suite,
            encryption_key=keys.encryption_key,
            integrity_key=keys.integrity_key,
            local=RIGHT,
            remote=LEFT,
            selectors=tuple(Selector(*one) for one in SELECTORS),
            replay_window=128,
        )
    )
    return made


def install(gateway: Gateway, suite: Suite, keys: EspKeys) -> None:
    class Left:
        outer, number = LEFT.host, 1

    gateway.sa(
        "in", 0x1001, Left(), keys.encryption_key, encryption=suite.encryption.value, integrity=suite.integrity.value,
        integrity_key=keys.integrity_key, esn=suite.esn, selectors=list(SELECTORS), replay_window=128,
    )  # fmt: skip


def agree(gateway: Gateway, reference: ReferenceDataPlane, what: str) -> None:
    """Every counter of both is the same, now or within a moment."""
    expected = Counter({name: count for name, count in reference.drop_counters().items() if count})
    counters = reference.sa_counters()[Direction.INBOUND, CONNECTION, 0x1001]
    names = ("packets", "octets", "sequence", "replay_drops", "integrity_failures", "selector_drops")

    def drops() -> Counter[tuple[int, str]]:
        # What the kernel itself answers into the tunnel has no SA.
        return Counter({(n, r): c for n, r, c in gateway.plane.drops() if c and r != "no_sa"})

    wait_until(lambda: drops() == expected, 2, f"the same drops {expected} after {what}; now {drops()}", interval=0)
    row = gateway.statistics("in", 0x1001)
    assert {name: row[name] for name in names} == {name: getattr(counters, name) for name in names}, what
