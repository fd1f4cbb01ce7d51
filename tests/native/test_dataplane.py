"""Two native data planes and a veth between them: what goes in at one TUN comes out at the other, untouched."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.dataplane_pair import CONNECTION, PORT, Gateway, esp_socket, linked_pair
from support.netns import Lab
from support.process import wait_until
from support.traffic import Iperf, Streams, ping

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

KEY_THERE = bytes(range(20))
KEY_BACK = bytes(range(100, 120))
THERE, BACK = 0x1001, 0x2002


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def connect(left: Gateway, right: Gateway, *, there: int = THERE, back: int = BACK, **changes: object) -> None:
    """One CHILD_SA in both directions, inbound first."""
    right.sa("in", there, left, KEY_THERE, **changes)
    left.sa("in", back, right, KEY_BACK, **changes)
    left.sa("out", there, right, KEY_THERE, **changes)
    right.sa("out", back, left, KEY_BACK, **changes)
    left.plane.replace_policies(CONNECTION, [there])
    right.plane.replace_policies(CONNECTION, [back])


@pytest.fixture(params=[("auto", 1), ("libcrypto", 1), ("auto", 2)], ids=["fastest", "libcrypto", "two workers"])
def pair(lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[Gateway, Gateway]]:
    engine, workers = request.param
    machines = linked_pair(lab)
    left = Gateway(machines[0], "192.0.2.1", 1, workers=workers, engine=engine)
    right = Gateway(machines[1], "192.0.2.2", 2, workers=workers, engine=engine)
    connect(left, right)
    yield left, right
    left.close()
    right.close()


def assert_no_drops(*gateways: Gateway) -> None:
    for gateway in gateways:
        assert not gateway.drops()
        assert not gateway.drops(0)


def test_ping_and_tcp_cross_both_families(pair: tuple[Gateway, Gateway]) -> None:
    left, right = pair
    for target in (right.inner4, right.inner6):
        assert ping(left.machine, target, count=20).lost == 0
    for address in (right.inner4, right.inner6):
        server = Iperf(right.machine, address) if ":" not in address else None
        if server:
            assert server.measure(left.machine, 1).gbit_per_s > 0.1
            assert server.measure(left.machine, 1, reverse=True).gbit_per_s > 0.1
            server.stop()
    assert_no_drops(left, right)
    sent, received = left.statistics("out", THERE), right.statistics("in", THERE)
    assert sent["packets"] == received["packets"] == sent["sequence"] == received["sequence"]
    assert sent["octets"] == received["octets"]
