"""A third implementation on the wire: scapy opens what crosses between two data planes, and one of them takes what scapy
made, outer headers and all, with and without UDP, with extended sequence numbers beyond 2^32.

The keys are known because the test itself programs the SAD; a daemon never tells them.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.dataplane_pair import CONNECTION, Gateway, esp_socket, inside, ipv4_udp, linked_pair, udp_socket
from support.esp_material import keys_for, suite_name
from support.netns import Lab
from support.packet_mouth import receive
from support.process import wait_until
from support.scapy_esp import ThirdParty
from support.twins import Tap

from gateway.esp.dataplane import Encryption, Integrity, Suite

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
SPI = 0x5005
SUITES = (
    Suite(Encryption.AES_GCM_16, 32, esn=True),
    Suite(Encryption.AES_CBC, 32, Integrity.HMAC_SHA2_256_128, esn=True),
    Suite(Encryption.CHACHA20_POLY1305, 32),
)
BEYOND = (2**31 - 1, 2**32 - 3, 2**32 + 2, 2**32 - 1, 2**32 + 1, 2**32 + 2, 2**32 + 5000)
"""In steps that a receiver can follow (RFC 4303 A2.2), out of order over the wrap, one of them twice. A low half of 0 scapy takes for none."""


@dataclass(slots=True)
class Ends:
    """Two gateways with one SA from left to right, the wire between them, and the host behind the right one."""

    left: Gateway
    right: Gateway
    scapy: ThirdParty
    tap: Tap
    host: socket.socket

    def received(self, count: int) -> list[bytes]:
        found: list[bytes] = []

        def complete() -> bool:
            while (got := receive([self.host], 0.0)) is not None:
                found.append(got[1])
            return len(found) >= count

        wait_until(complete, 3, f"{count} datagrams arrive; {self.right.drops()}")
        return found


SHAPES = ((SUITES[0], False), (SUITES[0], True), (SUITES[1], False), (SUITES[2], True))
"""Suites, in UDP or not."""


@pytest.fixture(params=SHAPES, ids=lambda one: f"{suite_name(one[0])}{'' if one[1] else ' protocol 50'}")
def shape(request: pytest.FixtureRequest) -> tuple[Suite, bool]:
    made: tuple[Suite, bool] = request.param
    return made


@pytest.fixture
def ends(shape: tuple[Suite, bool]) -> Iterator[Ends]:
    suite, udp = shape
    keys = keys_for(suite, 5)
    with Lab() as lab:
        machines = linked_pair(lab)
        left, right = Gateway(machines[0], LEFT, 1, mtu=1400), Gateway(machines[1], RIGHT, 2, mtu=1400)
        raws = [esp_socket(machines[0], LEFT), esp_socket(machines[1], RIGHT)]
        for gateway, raw in zip((left, right), raws, strict=True):
            gateway.plane.add_socket(0, raw.fileno())
        changes = {
            "encryption": suite.encryption.value, "integrity": suite.integrity.value, "esn": suite.esn,
            "integrity_key": keys.integrity_key, "encapsulate": udp,
        }  # fmt: skip
        right.sa("in", SPI, left, keys.encryption_key, **changes)
        if not udp:
            changes["socket_fd"] = raws[0].fileno()
        left.sa("out", SPI, right, keys.encryption_key, **changes)
        left.plane.replace_policies(CONNECTION, [SPI])
        tap = Tap(machines[0], "wan")
        host = udp_socket(machines[1], right.inner4, 9000)
        yield Ends(left, right, ThirdParty(keys, SPI, encapsulate=udp, ends=(LEFT, RIGHT)), tap, host)
        for one in (left, right, tap, host, *raws):
            one.close()


def test_scapy_opens_what_crosses_the_wire(ends: Ends, shape: tuple[Suite, bool]) -> None:
    rng = random.Random(1)
    payloads = [rng.randbytes(size) for size in (0, 1, 2, 3, 4, 100, 1372, *range(60, 76))]
    with udp_socket(ends.left.machine, ends.left.inner4, 9000) as sender:
        for number, payload in enumerate(payloads, 1):
            sender.sendto(payload, (ends.right.inner4, 9000))
            assert ends.received(1) == [payload]
            (frame,) = ends.tap.outgoing("esp-4500" if shape[1] else "esp-50")
            inner = ends.scapy.open_whole(frame[14:], number)
            assert inner == with_number(ipv4_udp(ends.left.inner4, ends.right.inner4, payload), inner)
    assert ends.right.drops() == {}


def test_the_data_plane_takes_what_scapy_made(ends: Ends, shape: tuple[Suite, bool]) -> None:
    suite, _ = shape
    numbers = BEYOND if suite.esn else (1, 2, 5, 3, 5, 4000, 2**32 - 1)
    sender = inside(ends.left.machine, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    fresh: list[int] = []
    for number in numbers:
        inner = ipv4_udp(ends.left.inner4, ends.right.inner4, b"%d" % number)
        sender.sendto(ends.scapy.seal_whole(inner, number), (RIGHT, 0))
        if number not in fresh:
            fresh.append(number)
            assert ends.received(1) == [b"%d" % number]
    wait_until(lambda: ends.right.drops() == {"replay": 1}, 3, "the one that came twice is a replay")
    row = ends.right.statistics("in", SPI)
    assert (row["packets"], row["sequence"], row["integrity_failures"]) == (len(fresh), max(fresh), 0)
    sender.close()


def with_number(packet: bytes, like: bytes) -> bytes:
    """The packet with the IPv4 identification that the host's kernel chose, which is all that is not known before."""
    header = packet[:4] + like[4:6] + packet[6:10] + like[10:12] + packet[12:20]
    return header + packet[20:]
