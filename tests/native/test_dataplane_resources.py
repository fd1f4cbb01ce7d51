"""One connection over several workers: per-resource CHILD_SAs (RFC 9611) and the steering of what arrives."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.dataplane_pair import CONNECTION, Gateway, Peer, ipv4_udp, linked_pair
from support.netns import Lab
from support.process import wait_until
from support.traffic import Iperf

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

WORKERS = 2
COMMON, OWN = 0x1004, (0x1002, 0x1001)  # SPIs: the fallback SA, and each worker's own
KEYS = {spi: bytes([spi & 0xFF]) * 20 for spi in (COMMON, *OWN)}


@pytest.fixture
def gateways() -> Iterator[tuple[Gateway, Gateway]]:
    """Each sends on three SAs: one for all, and one for each worker."""
    with Lab() as lab:
        machines = linked_pair(lab)
        pair = [Gateway(machine, f"192.0.2.{n}", n, workers=WORKERS) for n, machine in enumerate(machines, 1)]
        for sender, receiver in (pair, pair[::-1]):
            for spi, key in KEYS.items():
                receiver.sa("in", spi, sender, key)
                sender.sa("out", spi, receiver, key, worker=OWN.index(spi) if spi in OWN else -1)
            sender.plane.replace_policies(CONNECTION, [COMMON, *OWN])
        yield pair[0], pair[1]
        for one in pair:
            one.close()


def sent(gateway: Gateway) -> dict[int, int]:
    return {spi: gateway.statistics("out", spi)["packets"] for spi in KEYS}


def by_worker(gateway: Gateway, direction: str) -> list[int]:
    return [row[f"packets_{direction}"] for row in gateway.plane.worker_statistics()]  # type: ignore[literal-required]


def total(gateway: Gateway, direction: str) -> int:
    return sum(by_worker(gateway, direction))


def run_flows(left: Gateway, right: Gateway, flows: int = 16) -> None:
    server = Iperf(right.machine, right.inner4)
    assert server.measure(left.machine, 1, flows=flows, megabits=15).gbit_per_s > 0.1
    server.stop()
    wait_until(lambda: total(left, "out") == total(right, "in"), 3, "nothing is under way")
    wait_until(lambda: total(right, "out") == total(left, "in"), 3, "nothing is under way")


def test_each_worker_sends_on_its_own_sa_and_receives_what_its_spi_says(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    run_flows(left, right)
    for sender, receiver in (gateways, gateways[::-1]):
        counts = sent(sender)
        assert counts[COMMON] == 0
        assert [counts[spi] for spi in OWN] == by_worker(sender, "out")
        received = by_worker(receiver, "in")
        assert received == [counts[spi] for _, spi in sorted((spi % WORKERS, spi) for spi in OWN)]
    assert min(by_worker(left, "out")) > 0, "flows of both queues"
    assert left.drops() == right.drops() == {}


def test_a_worker_without_an_sa_of_its_own_uses_the_common_one(gateways: tuple[Gateway, Gateway]) -> None:
    left, right = gateways
    left.plane.remove_sa("out", CONNECTION, OWN[1])
    run_flows(left, right)
    counts = {spi: left.statistics("out", spi)["packets"] for spi in (COMMON, OWN[0])}
    assert [counts[OWN[0]], counts[COMMON]] == by_worker(left, "out")
    left.plane.remove_sa("out", CONNECTION, COMMON)
    before = by_worker(left, "out")
    run_flows(left, right)  # and without that one, another's, before it drops
    assert all(after > earlier for after, earlier in zip(by_worker(left, "out"), before, strict=True))
    assert left.drops() == {}


@pytest.mark.parametrize("arguments", [("out", -2), ("out", WORKERS), ("in", 0)], ids=str)
def test_an_sa_for_a_worker_there_is_not_is_refused(
    gateways: tuple[Gateway, Gateway], arguments: tuple[str, int]
) -> None:
    direction, worker = arguments
    with pytest.raises(ValueError, match="any worker or for one there is"):
        gateways[0].sa(direction, 0x2000, gateways[1], bytes(20), worker=worker)


def test_every_spi_has_its_worker_and_ike_has_the_first() -> None:
    with Lab() as lab:
        machines = linked_pair(lab)
        gateway, peer = Gateway(machines[0], "192.0.2.1", 1, workers=3), Peer(machines[1], "192.0.2.2", 2, bytes(20))
        spis = [0x1000 + n for n in range(12)]
        for number, spi in enumerate(spis, 1):
            gateway.sa("in", spi, peer, bytes(20))
            for sequence in range(1, number + 1):
                peer.send(peer.seal(spi, sequence, ipv4_udp(peer.inner4, gateway.inner4, b"x")), gateway.outer)
            peer.send(bytes(4) + b"IKE" + bytes([number]), gateway.outer)
        expected = [sum(n for n, spi in enumerate(spis, 1) if spi % 3 == worker) for worker in range(3)]
        wait_until(lambda: by_worker(gateway, "in") == expected, 3, f"{expected}")
        punted: list[int] = []

        def all_punted() -> bool:
            punted.extend(fd for *_, fd in gateway.plane.punted())
            return len(punted) == len(spis)

        wait_until(all_punted, 3, "IKE is handed on")
        assert set(punted) == {gateway.sockets[0].fileno()}
        assert gateway.drops().keys() <= {"no_sa"}  # the kernel's own ICMP errors, which no policy lets out
        peer.close()
        gateway.close()
