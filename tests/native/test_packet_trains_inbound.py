"""Trains of random ESP packets from the reference and from scapy: what the TUNs get must be, packet for packet, what was
sent.

Merged super-packets are read as the kernel reads them, with their virtio headers, and split again by the model; in
order for each flow, every packet must be the one that was sealed, with the mark and the MSS that RFC 6040 and the
connection say, and every drop and counter the reference's.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest
from support import inner_packets as model
from support.dataplane_pair import CONNECTION
from support.esp_author import Author, by_flow
from support.merged import packets_of, sound, without_number
from support.netns import Lab
from support.packet_mouth import held
from support.packet_trains import Trains, seeds
from support.process import wait_until
from support.train_plane import CPU, OTHER, TrainPlane, drawn, train_plane

from gateway.esp.dataplane import Direction

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

TRAINS = 5
SECONDS = 10.0
COUNTERS = ("packets", "octets", "sequence", "replay_drops", "integrity_failures", "selector_drops")
Delivered = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Setting:
    """How the plane is set up, and whether a train waits until it is whole."""

    mtu: int = 1438
    mss: tuple[int, int] = (0, 0)
    hold: bool = True
    first: int = 0
    workers: int = 1


SETTINGS = {
    "bursts": (Setting(), 3),
    "as they come": (Setting(hold=False, mss=(1200, 1180)), 2),
    "jumbo": (Setting(mtu=9000), 1),
    "ESN around 2^32": (Setting(first=2**32 - 600), 2),
    "two workers": (Setting(workers=2), 2),
}
CASES = [
    pytest.param(setting, seed, id=f"{name}-{seed}") for name, (setting, n) in SETTINGS.items() for seed in seeds(n)
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.mark.parametrize(("setting", "seed"), CASES)
def test_what_arrives_is_what_was_sent(lab: Lab, setting: Setting, seed: int) -> None:
    rng = random.Random(f"inbound {seed}")
    plane = train_plane(lab, drawn(rng), Direction.INBOUND, mtu=setting.mtu, mss=setting.mss, workers=setting.workers)
    plane.gateway.machine.sysctl({"net.ipv6.conf.all.forwarding": 0, "net.ipv4.ip_forward": 0})
    author, trains = Author(plane, rng, setting.mss), Trains(seed, setting.mtu, reverse=True)
    if setting.first:
        step_to(author, setting.first)
    merged: Counter[int] = Counter()
    for number in range(TRAINS):
        again = f"TRAIN_SEED={seed}, train {number}, {setting}"
        train = author.train(trains.inbound())
        expected = list(author.expected(train))
        with held(CPU if setting.hold else None):
            author.send(train)
        delivered = read(plane, len(expected), merged)
        compare(expected, delivered, again, ordered=setting.workers == 1)
        agree(author, again)
    assert merged[model.GSO_NONE] > 20
    if setting.hold:
        assert merged[model.GSO_TCPV4] + merged[model.GSO_TCPV6] > 10
    plane.close()


def step_to(author: Author, first: int) -> None:
    """Before 2^32, in two steps, as no receiver can follow a leap beyond its subspace (RFC 4303 A2.2)."""
    for number in (2**31 - 1, first):
        for spi, sa in author.plane.sas.items():
            if sa.suite.esn:
                author.numbers[spi] = number
        packet = model.ipv4(bytes((10, 2, 9, 1, 10, 1, 0, 7)), 253, b"step")
        train = [author.sealed(sa, packet) for sa in author.plane.sas.values() if sa.suite.esn]
        expected = list(author.expected(train))
        author.send(train)
        assert len(read(author.plane, len(expected), Counter())) == len(expected)


def read(plane: TrainPlane, count: int, merged: Counter[int]) -> list[tuple[int, bytes, bool]]:
    """(connection, packet, whether it came merged) of as many packets as are expected, and what comes besides."""
    found: list[tuple[int, bytes, bool]] = []
    deadline = time.monotonic() + SECONDS
    while True:
        quiet = True
        for connection in (CONNECTION, OTHER):
            while (parcel := plane.mouths[connection].read(0)) is not None:
                quiet = False
                merged[parcel.vnet.gso_type] += 1
                sound(parcel)
                found += [(connection, one, parcel.super_packet) for one in packets_of(parcel)]
        if quiet and (len(found) >= count or time.monotonic() > deadline):
            return found


def compare(expected: Delivered, delivered: list[tuple[int, bytes, bool]], again: str, *, ordered: bool) -> None:
    """Flow by flow; the first difference is shown whole. One flow on two SAs may be two workers' work: no order then."""
    merged = {packet for _, packet, was_merged in delivered if was_merged}
    wanted = by_flow(iter(expected))
    found = by_flow((connection, packet) for connection, packet, _ in delivered)
    for flow in wanted.keys() | found.keys():
        ours, theirs = found.get(flow, []), wanted.get(flow, [])
        if not ordered:
            ours, theirs = sorted(ours, key=without_number), sorted(theirs, key=without_number)
        for i, (our, their) in enumerate(zip(ours, theirs, strict=False)):
            same = without_number(our) == without_number(their) if our in merged else our == their
            same = same or (not ordered and without_number(our) == without_number(their))
            where = f"{again}: connection {flow[0]}, flow {flow[1].hex()}, packet {i}"
            assert same, f"{where}:\n{ours[i].hex()}\nshould be\n{theirs[i].hex()}"
        assert len(ours) == len(theirs), f"{again}: flow {flow[1].hex()}: {len(ours)} packets of {len(theirs)}"


def agree(author: Author, again: str) -> None:
    """Every drop and every counter is the reference's."""
    plane = author.plane
    # What the host's own kernel answers into the TUN has no SA.
    wait_until(partial(_dropped, author), 3, f"{again}: drops {dict(author.drops())}, not {dict(plane.drops())}")
    for (_, _, spi), counters in plane.reference.sa_counters().items():
        row = plane.gateway.statistics("in", spi)
        assert {name: row[name] for name in COUNTERS} == {name: getattr(counters, name) for name in COUNTERS}, again


def _dropped(author: Author) -> bool:
    found = {key: count for key, count in author.plane.drops().items() if key[1] != "no_sa"}
    return found == author.drops()
