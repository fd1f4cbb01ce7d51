"""Trains of random packets written into two TUNs at once: what leaves must be, packet for packet, what the model says.

The kernel hands the data plane the same super-packets, partial checksums, fragments and nonsense that hosts and bad hosts
write (packet_trains.py). Every ESP packet on the wire is opened and sealed again by the reference, some also by scapy;
what is inside, in order for each flow and SA, is compared with the model (inner_packets.py), the drops with its refusals.
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
from support import inner_packets as model
from support.dataplane_pair import CONNECTION
from support.esp_material import SeededRandom
from support.netns import Lab
from support.packet_mouth import held, receive
from support.packet_trains import Trains, seeds
from support.process import wait_until
from support.scapy_esp import SCAPY_SUITES
from support.train_oracle import Oracle, Ordered, Outcome
from support.train_plane import CPU, OTHER, POLICIES, TrainPlane, drawn, train_plane

from gateway.esp.dataplane import Direction
from gateway.esp.packet import Opened, open_packet, seal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

TRAINS = 5
SECONDS = 10.0
SMALLEST_WINDOW = 32
"""RFC 4303 3.4.3: every receiver has at least this one."""


@dataclass(slots=True)
class Wire:
    """The ESP packets that arrive, opened; no sequence number twice."""

    plane: TrainPlane
    dscp: int = -1
    numbers: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    highest: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    seen: int = 0
    latest: int = 0
    """How far behind its SA's highest number the latest packet was."""

    def collect(self, count: int) -> Ordered:
        """As many as are expected, and at once whatever comes besides."""
        found: Ordered = defaultdict(list)
        sockets, deadline = (self.plane.udp, self.plane.raw), time.monotonic() + SECONDS
        while got := receive(sockets, deadline if count > 0 else 0.0):
            sock, datagram, tos = got
            raw = sock is self.plane.raw
            spi, inner = self.open(datagram[20:] if raw else datagram, tos, raw=raw)
            found[spi, model.flow_of(inner)].append(inner)
            count -= 1
        return found

    def open(self, esp: bytes, tos: int, *, raw: bool) -> tuple[int, bytes]:
        spi, low = struct.unpack_from("!II", esp)
        sa = self.plane.sas[spi]
        assert raw == (not sa.encapsulate)
        assert low not in self.numbers[spi], "a sequence number was used twice"
        self.latest = max(self.latest, self.highest[spi] - low)
        self.highest[spi] = max(self.highest[spi], low)
        self.numbers[spi].add(low)
        opened = open_packet(sa.keys, esp, low)
        assert isinstance(opened, Opened), f"{opened}: {esp.hex()}"
        inner = opened.payload
        assert opened.next_header == (41 if inner[0] >> 4 == 6 else 4)
        inside = model.tos_of(inner)
        # RFC 4301 5.1.2.1: the DS field is copied or mapped; RFC 6040 4.1: the ECN field is copied.
        assert tos == (inside if self.dscp < 0 else self.dscp << 2 | inside & 3)
        if sa.suite.encryption.aead:  # nothing is random in it
            assert seal(sa.keys, spi, low, inner, opened.next_header, SeededRandom()) == esp
        self.seen += 1
        if self.seen % 40 == 1 and sa.suite in SCAPY_SUITES:
            assert sa.third_party().open(esp, low) == inner
        return spi, inner


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@dataclass(frozen=True, slots=True)
class Setting:
    """How the plane is set up, and whether a train waits until it is whole."""

    mtu: int = 1438
    mss: tuple[int, int] = (0, 0)
    hold: bool = True
    workers: int = 1
    dscp: int = -1
    clear_df: bool = False


SETTINGS = {
    "bursts": (Setting(), 3),
    "as they come": (Setting(hold=False, mss=(1200, 1180)), 2),
    "jumbo": (Setting(mtu=9000), 1),
    "small MTU": (Setting(mtu=1000, mss=(500, 0)), 1),
    "DSCP fixed, DF disregarded": (Setting(dscp=46, clear_df=True), 2),
    "two workers": (Setting(workers=2), 2),
}
CASES = [
    pytest.param(setting, seed, id=f"{name}-{seed}") for name, (setting, n) in SETTINGS.items() for seed in seeds(n)
]


@pytest.mark.parametrize(("setting", "seed"), CASES)
def test_what_leaves_is_what_the_model_says(lab: Lab, setting: Setting, seed: int) -> None:
    sas = drawn(random.Random(f"outbound {seed}"))
    plane = train_plane(
        lab, sas, Direction.OUTBOUND, mtu=setting.mtu, mss=setting.mss, workers=setting.workers, dscp=setting.dscp,
        clear_df=setting.clear_df,
    )  # fmt: skip
    trains, wire = Trains(seed, setting.mtu), Wire(plane, setting.dscp)
    oracle = Oracle(plane.sas, POLICIES, setting.mtu, setting.mss, setting.clear_df)
    drops: Counter[tuple[int, str]] = Counter()
    chooser = random.Random(seed)
    for number in range(TRAINS):
        again = f"TRAIN_SEED={seed}, train {number}, {setting}"
        outcome = Outcome()
        train = [(chooser.choice((CONNECTION, CONNECTION, OTHER)), parcel) for parcel in trains.outbound()]
        with held(CPU if setting.hold else None):
            for connection, parcel in train:
                plane.mouths[connection].write(parcel)
                oracle.take(outcome, connection, parcel)
        found = wire.collect(outcome.count)
        drops += outcome.drops
        compare(outcome.packets, found, again, ordered=setting.workers == 1, renumbered=setting.clear_df)
        wait_until(partial(_dropped, plane, drops), 3, f"{again}: drops {dict(drops)}; {dict(plane.drops())}")
    for spi, numbers in wire.numbers.items():
        assert numbers == set(range(1, len(numbers) + 1)), f"{spi:x}: a sequence number was left out"
    if setting.workers == 1:
        assert wire.latest < SMALLEST_WINDOW, "peers with a small window would drop what comes that late"
    plane.close()


def test_the_trains_hold_all_that_they_promise() -> None:
    """So that no case of the test above is empty for want of luck: nothing of the data plane runs here."""
    kinds: Counter[int] = Counter()
    outcome = Outcome()
    for seed in range(8):
        oracle = Oracle({sa.spi: sa for sa in drawn(random.Random(seed))}, POLICIES, 1438, (1200, 1180))
        trains = Trains(seed)
        for parcel in (one for _ in range(TRAINS) for one in trains.outbound()):
            kinds[parcel.vnet.gso_type] += 1
            oracle.take(outcome, CONNECTION, parcel)
    assert min(kinds[kind] for kind in (model.GSO_TCPV4, model.GSO_TCPV6, model.GSO_UDP_L4, model.GSO_NONE)) > 50
    assert kinds[model.GSO_TCPV4 | model.GSO_ECN] + kinds[model.GSO_TCPV6 | model.GSO_ECN] > 3
    assert {reason for _, reason in outcome.drops} == {"no_sa", "too_big", "inner_malformed"}
    packets = [packet for flow in outcome.packets.values() for packet in flow]
    layouts = [model.layout(packet) for packet in packets]
    assert len(packets) > 10_000
    assert {spi for spi, _ in outcome.packets} == {0x1001, 0x1002, 0x1003}
    assert sum(at.fragment for at in layouts) > 50
    assert sum(at.ipv6 and at.transport > 40 and not at.fragment for at in layouts) > 10
    assert sum(not at.ipv6 and at.transport > 20 for at in layouts) > 100
    assert {at.protocol for at in layouts} > {1, 6, 17, 58, 132, 253}
    assert {model.tos_of(packet) & 3 for packet in packets} == {0, 1, 2, 3}


def _dropped(plane: TrainPlane, drops: Counter[tuple[int, str]]) -> bool:
    return plane.drops() == drops


def grouped(packets: list[bytes]) -> list[bytes]:
    """The packets of a flow, fragments numbered by the datagram they belong to instead of by its identification: where
    DF was disregarded, that was the gateway's to choose (RFC 6864 4.1)."""
    made, group, last = [], 0, -1
    for packet in packets:
        if packet[0] >> 4 == 4 and model.layout(packet).fragment:
            assert model.checksum(packet[: (packet[0] & 15) * 4]) == 0
            number, field = struct.unpack_from("!HH", packet, 4)
            group += number != last or not field & model.OFFSET
            last = number
            packet = model.put16(model.put16(packet, 4, group & 0xFFFF), 10, 0)
        made.append(packet)
    return made


def compare(expected: Ordered, found: Ordered, again: str, *, ordered: bool, renumbered: bool = False) -> None:
    """Flow by flow; the first difference is shown whole. Between queues the kernel keeps no order for fragments."""
    for flow in expected.keys() | found.keys():
        ours, theirs = found.get(flow, []), expected.get(flow, [])
        if renumbered:
            ours, theirs = grouped(ours), grouped(theirs)
        if not ordered:
            ours, theirs = sorted(ours), sorted(theirs)
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        where = f"{again}: SPI {flow[0]:x}, flow {flow[1].hex()}: {len(ours)} packets of {len(theirs)}"
        assert at is None, f"{where}; packet {at}:\n{ours[at].hex()}\nshould be\n{theirs[at].hex()}"
        assert len(ours) == len(theirs), where
