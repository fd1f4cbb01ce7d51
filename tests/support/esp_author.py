"""The far end of trains: seals inner packets for the SAs of a TrainPlane and says what must become of them.

Most datagrams are good; some come twice, late, damaged, cut or with marks of their own, some are scapy's work instead
of the reference's. Neighbours of equal size may leave as one UDP_SEGMENT send, so that they arrive as one GRO buffer.
"""

from __future__ import annotations

import random
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from support import inner_packets as model
from support.dataplane_pair import PORT
from support.esp_material import SeededRandom
from support.scapy_esp import SCAPY_SUITES, ThirdParty
from support.train_plane import OURS, THEIRS, Sa, TrainPlane

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction
from gateway.esp.packet import seal
from gateway.esp.spd import parse_flow, selector_matches

_UDP_SEGMENT = 103
_SEGMENTS_MAX, _GSO_OCTETS_MAX = 64, 65_000


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram on its way."""

    esp: bytes
    tos: int
    encapsulate: bool


@dataclass(slots=True)
class Author:
    """Numbers begin at 1; whoever sets `numbers` begins elsewhere."""

    plane: TrainPlane
    rng: random.Random
    mss: tuple[int, int] = (0, 0)
    numbers: dict[int, int] = field(init=False)
    history: list[Sent] = field(default_factory=list)
    ecn_drops: Counter[tuple[int, str]] = field(default_factory=Counter)
    by_scapy: int = 0
    _random: SeededRandom = field(default_factory=SeededRandom)
    _scapy: dict[int, ThirdParty] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = dict.fromkeys(self.plane.sas, 0)
        self._scapy = {spi: sa.third_party() for spi, sa in self.plane.sas.items() if sa.suite in SCAPY_SUITES}

    def train(self, packets: Sequence[bytes]) -> list[Sent]:
        """The datagrams of a train of inner packets, in the order in which they leave."""
        made: list[Sent] = []
        ecn = self.rng.choice([0, 0, 2, 1, 3])
        choice = None
        for packet in packets:
            if choice is None or self.rng.random() < 0.03:
                choice = self.rng.random()
                ecn = self.rng.choice([ecn, 0, 1, 2, 3])
            sa = self._sa_for(packet, choice)
            made.append(self.sealed(sa, packet, ecn))
            if self.rng.random() < 0.05:
                made.append(self._trouble(sa, packet, made[-1]))
        self.history = made[-300:]
        return made

    def expected(self, train: Sequence[Sent]) -> Iterator[tuple[int, bytes]]:
        """(connection, packet) that each TUN must be given, in order; all else the reference and `ecn_drops` count."""
        for sent in train:
            port = PORT if sent.encapsulate else 0
            ends = Endpoint(THEIRS, port), Endpoint(OURS, port)
            for connection, packet in self.plane.reference.inbound(sent.esp, *ends, 0.0):
                carried = model.decapsulated(packet, sent.tos & 3)
                if carried is None:
                    self.ecn_drops[connection, "ecn"] += 1
                elif packet[0] >> 4 == 6 and model.flow_of(packet) == packet[8:40]:
                    yield connection, carried  # its headers run out: it shows no TCP
                else:
                    yield connection, model.clamped(carried, self.mss)

    def drops(self) -> Counter[tuple[int, str]]:
        counted = {reason: count for reason, count in self.plane.reference.drop_counters().items() if count}
        return Counter(counted) + self.ecn_drops

    def send(self, train: Sequence[Sent]) -> None:
        """Every datagram, some of them joined to GRO buffers."""
        run: list[Sent] = []
        for sent in train:
            if run and not self._joins(run, sent):
                self._leave(run)
                run = []
            run.append(sent)
        self._leave(run)

    # -- datagrams --

    def _sa_for(self, packet: bytes, choice: float) -> Sa:
        """Mostly one that carries it: of the first connection's, or the second's only one."""
        sas = list(self.plane.sas.values())
        if choice > 0.97:
            return self.rng.choice(sas)
        flow = parse_flow(packet)
        if choice > 0.7 or flow is None:
            return sas[3]
        carrying = (sa for sa in sas for one in sa.selectors if selector_matches(one, flow, Direction.INBOUND))
        return next(carrying, sas[0])

    def sealed(self, sa: Sa, packet: bytes, ecn: int = 0) -> Sent:
        self.numbers[sa.spi] += self.rng.choice([1] * 30 + [2, 70])
        number = self.numbers[sa.spi]
        sane = packet and model.whole_length(packet) == len(packet)
        # A low half of 0 scapy takes for none.
        if sane and sa.spi in self._scapy and number % 2**32 and self.rng.random() < 0.02:
            esp = self._scapy[sa.spi].seal(packet, number)
            self.by_scapy += 1
        else:
            next_header = 41 if packet[:1] and packet[0] >> 4 == 6 else 4
            esp = seal(sa.keys, sa.spi, number, packet, next_header, self._random)
        tos = model.tos_of(packet) & 0xFC if sane else 0
        return Sent(esp, tos | ecn, sa.encapsulate)

    def _trouble(self, sa: Sa, packet: bytes, last: Sent) -> Sent:
        """Damaged ones have a number of their own: of a burst, a plane may ask the window for all before any ICV."""
        rng = self.rng
        how = rng.randrange(6)
        if how == 0:
            return last
        if how == 1 and self.history:
            return rng.choice(self.history)
        if how in (2, 3):
            good = self.sealed(sa, packet, last.tos & 3)
            at = rng.randrange(8, len(good.esp))
            flipped = good.esp[:at] + bytes((good.esp[at] ^ 1 << rng.randrange(8),)) + good.esp[at + 1 :]
            return Sent(flipped if how == 2 else good.esp[:at], good.tos, good.encapsulate)
        if how == 4:
            return Sent(struct.pack("!I", 0x9999) + last.esp[4:], last.tos, last.encapsulate)
        # RFC 4303 2.6: a dummy
        self.numbers[sa.spi] += 1
        esp = seal(sa.keys, sa.spi, self.numbers[sa.spi], rng.randbytes(rng.randrange(60)), 59, self._random)
        return Sent(esp, last.tos, sa.encapsulate)

    # -- sending --

    def _joins(self, run: list[Sent], sent: Sent) -> bool:
        """Whether one UDP_SEGMENT send may hold it too: all of a size, only the last may be shorter."""
        head, last = run[0], run[-1]
        return (
            head.encapsulate
            and sent.encapsulate
            and head.tos == sent.tos
            and len(last.esp) == len(head.esp) >= len(sent.esp)
            and len(run) < _SEGMENTS_MAX
            and (len(run) + 1) * len(head.esp) <= _GSO_OCTETS_MAX
            and self.rng.random() < 0.97
        )

    def _leave(self, run: list[Sent]) -> None:
        head = run[0]
        control = [(socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", head.tos))]
        if not head.encapsulate:
            self.plane.raw.sendmsg([head.esp], control, 0, (THEIRS, 0))
            return
        if len(run) > 1:
            control.append((socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", len(head.esp))))
        self.plane.udp.sendmsg([sent.esp for sent in run], control, 0, (THEIRS, PORT))


def by_flow(delivered: Iterator[tuple[int, bytes]]) -> dict[tuple[int, bytes], list[bytes]]:
    """(connection, flow) -> its packets in order."""
    found: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for connection, packet in delivered:
        found[connection, model.flow_of(packet)].append(packet)
    return found
