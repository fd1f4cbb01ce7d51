"""Two native data planes and a veth between them: what goes in at one TUN comes out at the other, untouched."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from support.dataplane_pair import CONNECTION, Gateway, esp_socket, inside, linked_pair
from support.netns import Lab
from support.process import wait_until
from support.traffic import Iperf, ping

from gateway._native import DataPlane

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

THERE, BACK = 0x1001, 0x2002
CBC = {"encryption": "aes-cbc", "integrity": "hmac-sha2-256-128", "integrity_key": bytes(range(32))}


@dataclass(frozen=True)
class Shape:
    """One way to build the tunnel."""

    gateway: dict[str, Any] = field(default_factory=dict)
    sa: dict[str, Any] = field(default_factory=dict)
    key_octets: int = 20
    outer: tuple[str, str] = ("192.0.2.1", "192.0.2.2")
    raw: bool = False


SHAPES = {
    "AES-128-GCM": Shape(),
    "AES-128-GCM by libcrypto": Shape({"engine": "libcrypto"}),
    "AES-256-GCM with ESN": Shape(sa={"esn": True}, key_octets=36),
    "AES-256-CBC": Shape({"mtu": 1422}, CBC, 32),
    "AES-256-CBC by libcrypto": Shape({"mtu": 1422, "engine": "libcrypto"}, CBC, 32),
    "two workers, a queue each": Shape({"workers": 2}),
    "two workers, one queue": Shape({"workers": 2, "queues": 1}),
    "outer IPv6": Shape({"mtu": 1418}, outer=("2001:db8::1", "2001:db8::2")),
    "wildcard sockets": Shape({"bind": "0.0.0.0"}),
    "dual-stack sockets": Shape({"bind": "::"}),
    "protocol 50": Shape(sa={"encapsulate": False}, raw=True),
    "protocol 50 over IPv6": Shape(
        {"mtu": 1418}, {"encapsulate": False}, outer=("2001:db8::1", "2001:db8::2"), raw=True
    ),
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Gateway, Gateway]]:
    shape: Shape = request.param
    with Lab() as lab:
        machines = linked_pair(lab)
        left = Gateway(machines[0], shape.outer[0], 1, **shape.gateway)
        right = Gateway(machines[1], shape.outer[1], 2, **shape.gateway)
        if shape.raw:
            for gateway in (left, right):
                gateway.sockets.insert(0, esp_socket(gateway.machine, gateway.outer))
                gateway.plane.add_socket(0, gateway.sockets[0].fileno())
        connect(left, right, shape)
        yield left, right
        left.close()
        right.close()


def connect(left: Gateway, right: Gateway, shape: Shape) -> None:
    """One CHILD_SA in both directions, inbound first."""
    there, back = bytes(range(shape.key_octets)), bytes(range(100, 100 + shape.key_octets))
    right.sa("in", THERE, left, there, **shape.sa)
    left.sa("in", BACK, right, back, **shape.sa)
    left.sa("out", THERE, right, there, **shape.sa)
    right.sa("out", BACK, left, back, **shape.sa)
    left.plane.replace_policies(CONNECTION, [THERE])
    right.plane.replace_policies(CONNECTION, [BACK])


def transfer(sender: Gateway, receiver: Gateway, address: str, octets: int) -> None:
    """Random octets over TCP through the tunnel, compared by their digest."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = os.urandom(octets)
    digests: list[bytes] = []

    def listen() -> socket.socket:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.bind((address, 8000))
        listener.listen()
        listener.settimeout(20)
        return listener

    def collect(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            digest = hashlib.sha256()
            while piece := connection.recv(1 << 16):
                digest.update(piece)
        digests.append(digest.digest())

    with inside(receiver.machine, listen) as listener:
        thread = threading.Thread(target=collect, args=(listener,))
        thread.start()
        with inside(sender.machine, lambda: socket.socket(family, socket.SOCK_STREAM)) as connecting:
            connecting.settimeout(20)
            connecting.connect((address, 8000))
            connecting.sendall(data)
        thread.join(20)
    assert digests == [hashlib.sha256(data).digest()]


def test_ping_and_tcp_cross_untouched(pair: tuple[Gateway, Gateway]) -> None:
    left, right = pair
    for address in (right.inner4, right.inner6):
        assert ping(left.machine, address, count=10).lost == 0
        assert ping(left.machine, address, count=3, size=3000).lost == 0
        transfer(left, right, address, 5_000_000)
    for address in (left.inner4, left.inner6):
        transfer(right, left, address, 5_000_000)
    for gateway in pair:
        assert (gateway.drops(), gateway.drops(0)) == ({}, {})
    for sender, receiver, spi in ((left, right, THERE), (right, left, BACK)):
        wait_until(partial(settled, sender, receiver, spi), 3, "the last acknowledgements arrive")
        sent, received = sender.statistics("out", spi), receiver.statistics("in", spi)
        assert sent["packets"] == received["packets"] == sent["sequence"] == received["sequence"] > 3000
        assert sent["octets"] == received["octets"] > 5_000_000


def settled(sender: Gateway, receiver: Gateway, spi: int) -> bool:
    """Nothing is under way."""
    return bool(sender.statistics("out", spi)["packets"] == receiver.statistics("in", spi)["packets"])


def test_super_packets_are_used_on_all_four_sides() -> None:
    """The whole speed is in aggregation: far fewer system calls than packets."""
    with Lab() as lab:
        machines = linked_pair(lab)
        left, right = Gateway(machines[0], "192.0.2.1", 1), Gateway(machines[1], "192.0.2.2", 2)
        connect(left, right, Shape())
        server = Iperf(right.machine, right.inner4)
        assert server.measure(left.machine, 1).gbit_per_s > 0.5
        packets = left.statistics("out", THERE)["packets"]
        (sending,), (receiving,) = left.plane.worker_statistics(), right.plane.worker_statistics()
        assert sending["tun_reads"] < packets / 5
        assert sending["udp_sends"] < packets / 5
        assert receiving["udp_reads"] < packets / 5
        assert receiving["tun_writes"] < packets / 5
        left.close()
        right.close()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ValueError, match="engine"):
        DataPlane(1, "rot13")
