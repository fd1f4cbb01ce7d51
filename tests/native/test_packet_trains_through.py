"""Trains from both sides at once through two data planes: what the hosts on one side write is what those on the other get.

    mouth -- TUN -- left ===== UDP, UDP_SEGMENT and UDP_GRO ===== right -- TUN -- mouth

Each worker seals and opens in the same turns, on one CPU, while both queues are full: nothing of one direction may
stand in the other's way. Merged packets are split again by the model.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from support import inner_packets as model
from support.dataplane_pair import CONNECTION, Gateway, linked_pair, selector
from support.esp_material import keys_for, suite_name
from support.merged import packets_of, sound, without_number
from support.netns import Lab
from support.packet_mouth import Mouth, held
from support.packet_trains import Trains, seeds
from support.train_oracle import Oracle, Outcome
from support.train_plane import CPU, SUITES, Sa

from gateway.esp.dataplane import Selector, Suite

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")

TRAINS = 5
SECONDS = 10.0
MTU = 1400
SPIS = (0x1001, 0x2002)
"""Of the SA from left to right, and of the one back."""
NOT_THESE = {(model.ICMP, 3, 4), (model.ICMP6, 2, 0)}
"""What a gateway itself answers: a packet is too big."""


@dataclass(slots=True)
class Side:
    """One end: what is written into it, and what it must give when the other one's is through."""

    gateway: Gateway
    mouth: Mouth
    trains: Trains
    oracle: Oracle
    written: Outcome = field(default_factory=Outcome)
    found: dict[bytes, list[tuple[bytes, bool]]] = field(default_factory=lambda: defaultdict(list))
    count: int = 0

    def write(self) -> list[model.Parcel]:
        train = self.trains.outbound()
        for parcel in train:
            self.oracle.take(self.written, CONNECTION, parcel)
        return train

    def read(self) -> None:
        while (parcel := self.mouth.read(0)) is not None:
            sound(parcel)
            for packet in packets_of(parcel):
                if not is_answer(packet):
                    self.found[model.flow_of(packet)].append((packet, parcel.super_packet))
                    self.count += 1


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def is_answer(packet: bytes) -> bool:
    at = model.layout(packet)
    return not at.fragment and (at.protocol, *packet[at.transport : at.transport + 2]) in NOT_THESE


def sides(lab: Lab, suite: Suite, seed: int) -> list[Side]:
    machines = linked_pair(lab)
    gateways = [Gateway(machine, f"192.0.2.{n}", n, mtu=MTU, cpus=(CPU,)) for n, machine in enumerate(machines, 1)]
    made = []
    for number, gateway in enumerate(gateways):
        keys, back = keys_for(suite, number), keys_for(suite, 1 - number)
        peer = gateways[1 - number]
        common = {"encryption": suite.encryption.value, "integrity": suite.integrity.value, "esn": suite.esn}
        ends = [("10.1.0.0/16", "10.2.0.0/16"), ("fd00:1::/32", "fd00:2::/32")]
        lines = [selector(*(one[::-1] if number else one)) for one in ends]
        for direction, spi, key in (("out", SPIS[number], keys), ("in", SPIS[1 - number], back)):
            changes = common | {"integrity_key": key.integrity_key, "selectors": lines}
            gateway.sa(direction, spi, peer, key.encryption_key, **changes)
        gateway.plane.replace_policies(CONNECTION, [SPIS[number]])
        gateway.machine.sysctl({"net.ipv4.ip_forward": 0, "net.ipv6.conf.all.forwarding": 0})
        gateway.machine.batch("link set gw0 mtu 65535")
        sa = Sa(SPIS[number], CONNECTION, suite, keys, tuple(Selector(*one) for one in lines))
        oracle = Oracle({sa.spi: sa}, {CONNECTION: (sa.spi,)}, MTU, (0, 0))
        trains = Trains(2 * seed + number, MTU, reverse=bool(number))
        made.append(Side(gateway, Mouth(gateway.machine, "gw0"), trains, oracle))
    return made


@pytest.mark.parametrize(("seed", "suite"), [(seed, SUITES[seed % len(SUITES)]) for seed in seeds(3)],
                         ids=lambda one: suite_name(one) if isinstance(one, Suite) else None)  # fmt: skip
def test_what_goes_in_on_either_side_comes_out_on_the_other(lab: Lab, seed: int, suite: Suite) -> None:
    pair = sides(lab, suite, seed)
    order = random.Random(seed)
    for number in range(TRAINS):
        trains = [side.write() for side in pair]
        turns = [which for which, train in enumerate(trains) for _ in train]
        order.shuffle(turns)
        queues = [iter(train) for train in trains]
        with held(CPU):
            for which in turns:
                pair[which].mouth.write(next(queues[which]))
        deadline = time.monotonic() + SECONDS
        wanted = [side.written.count for side in reversed(pair)]
        while any(side.count < count for side, count in zip(pair, wanted, strict=True)) and time.monotonic() < deadline:
            for side in pair:
                side.read()
        for side, other in (pair, pair[::-1]):
            side.read()
            compare(side, other.written, f"TRAIN_SEED={seed}, train {number}, {suite_name(suite)}")
    for side in pair:
        dropped = Counter({(n, reason): count for n, reason, count in side.gateway.plane.drops()})
        assert dropped == side.written.drops
        side.gateway.close()
        side.mouth.close()


def compare(side: Side, written: Outcome, again: str) -> None:
    """Everything up to now, flow by flow."""
    expected = {flow: packets for (_, flow), packets in written.packets.items()}
    for flow in expected.keys() | side.found.keys():
        ours, theirs = side.found.get(flow, []), expected.get(flow, [])
        where = f"{again}: to {side.gateway.outer}, flow {flow.hex()}: {len(ours)} packets of {len(theirs)}"
        for index, ((our, merged), their) in enumerate(zip(ours, theirs, strict=False)):
            same = without_number(our) == without_number(their) if merged else our == their
            assert same, f"{where}; packet {index}:\n{our.hex()}\nshould be\n{their.hex()}"
        assert len(ours) == len(theirs), where
