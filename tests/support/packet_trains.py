"""Random trains of inner packets from a seed: what hosts may write into a TUN in one burst.

Flows that go on from train to train (TCP with moving sequence numbers, UDP), super-packets of them with any segment size,
options, fragments, extension headers, marks, odd protocols, packets beyond the MTU, and octets that are no packet.
`TRAIN_SEED=n` plays one seed, `TRAIN_FACTOR=n` n times as many.
"""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from support import inner_packets as model
from support.inner_packets import Parcel, Vnet

HERE4, THERE4 = ("10.1.0.7", "10.1.3.9"), ("10.2.0.77", "10.2.9.1", "10.3.0.5")
HERE6, THERE6 = ("fd00:1::7", "fd00:1::9"), ("fd00:2::77", "fd00:3::5")
PORTS = (53, 53, 80, 2000, 50_000)
UDP_SEGMENTS_MAX = 64
"""Of Linux before 6.9; later 128."""
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))


def seeds(count: int) -> range:
    """`count` seeds, TRAIN_FACTOR times as many, or the one of TRAIN_SEED."""
    only = os.environ.get("TRAIN_SEED")
    count *= int(os.environ.get("TRAIN_FACTOR", "1"))
    return range(int(only), int(only) + 1) if only else range(count)


@dataclass(slots=True)
class Flow:
    """One conversation, one direction."""

    ipv6: bool
    protocol: int
    ends: bytes
    ports: tuple[int, int]
    tos: int
    hops: int
    label: int
    options: bytes  # of TCP
    ip_options: bytes
    sequence: int
    number: int = 0
    ack: int = 1
    window: int = 1000

    def packet(self, payload: bytes, flags: int = model.ACK, field: int = 0x4000) -> bytes:
        """The next packet, its L4 checksum still zero."""
        if self.protocol == model.TCP:
            body = model.tcp(
                self.ports, self.sequence, payload, flags=flags, options=self.options, ack=self.ack, window=self.window
            )
            self.sequence += len(payload)
        else:
            body = model.udp(self.ports, payload)
        if self.ipv6:
            return model.ipv6(self.ends, self.protocol, body, tos=self.tos, label=self.label, hops=self.hops)
        self.number += 1
        return model.ipv4(
            self.ends, self.protocol, body, tos=self.tos, number=self.number & 0xFFFF, field=field, hops=self.hops,
            options=self.ip_options,
        )  # fmt: skip

    def advance(self, packets: int) -> None:
        """The numbers that a super-packet's segments used."""
        self.number += packets - 1


@dataclass(slots=True)
class Trains:
    """Trains of parcels, all from one seed; `reverse`: from the far site to ours."""

    seed: int
    mtu: int = 1438
    reverse: bool = False
    rng: random.Random = field(init=False)
    flows: list[Flow] = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(f"train {self.seed}")
        self.flows = [self._flow() for _ in range(10)]

    def outbound(self, count: int = 48) -> list[Parcel]:
        """What is written into the TUN at once."""
        makers: dict[Callable[[], list[Parcel]], int] = {
            self._super: 30, self._plain: 25, self._oversized: 5, self._fragments: 5, self._extended: 5,
            self._odd: 14, self._syn: 4, self._nonsense: 6,
        }  # fmt: skip
        made: list[Parcel] = []
        while len(made) < count:
            made += self.rng.choices(list(makers), list(makers.values()))[0]()
        return made

    def inbound(self, count: int = 200) -> list[bytes]:
        """Whole packets as they come out of ESP: many of a kind, so that they merge, and all else between them."""
        made: list[bytes] = []
        while len(made) < count:
            maker = self.rng.choices(
                [self._stream, self._plain, self._fragments, self._extended, self._odd, self._syn, self._nonsense],
                [30, 25, 5, 5, 12, 4, 4],
            )[0]
            if maker == self._stream:
                made += self._stream()
            else:
                # What left as a parcel arrives as whole packets.
                made += [one for parcel in maker() for one in _whole(parcel)]  # type: ignore[operator]
        return [packet for packet in made if len(packet) <= self.mtu]

    # -- flows --

    def _flow(self) -> Flow:
        rng = self.rng
        six = rng.random() < 0.45
        near, far = (HERE6, THERE6) if six else (HERE4, THERE4)
        # The last of the far ones is outside of what the tests' selectors name.
        ends = [_packed(rng.choice(near)), _packed(far[-1] if rng.random() < 0.15 else rng.choice(far[:-1]))]
        if self.reverse:
            ends.reverse()
        return Flow(
            six, rng.choice([model.TCP, model.TCP, model.TCP, model.UDP, model.UDP]), b"".join(ends), (rng.choice(PORTS), rng.choice(PORTS)),
            rng.choice([0, 0, 2, 1, 0xB8, 0x2E, 3]), rng.choice([64, 1, 255]), rng.randrange(1 << 20) if six else 0,
            rng.choice([b"", TIMESTAMPS, b"\x01" * 4]),
            b"" if six or rng.random() < 0.85 else rng.choice([b"\x01" * 4, b"\x94\x04\0\0", b"\x07\x07\x04" + bytes(5)]),
            rng.choice([0, 0xFFFFF000, rng.randrange(1 << 32)]), rng.choice([0, 0xFFF0]),
        )  # fmt: skip

    def _octets(self, *limits: int) -> bytes:
        return self.rng.randbytes(self.rng.choice((*limits, self.rng.randrange(max(limits) + 1))))

    def _room(self, flow: Flow) -> int:
        """The largest payload of one packet."""
        head = (40 if flow.ipv6 else 20 + len(flow.ip_options)) + (8 if flow.protocol == model.UDP else 20)
        return self.mtu - head - (len(flow.options) if flow.protocol == model.TCP else 0)

    # -- parcels --

    def _super(self) -> list[Parcel]:
        """One of any number of segments; or several alike, one after the other."""
        flow, rng = self.rng.choice(self.flows), self.rng
        size = rng.choice([self._room(flow), self._room(flow), 536, rng.randrange(8, 600)])
        made = []
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            most = min(62_000 // size, 128 if size > 100 else 40)
            octets = size * rng.randrange(1, most + 1) + rng.choice([0, 1, rng.randrange(1, size + 1)])
            flags = model.ACK
            for flag in (model.PSH, model.FIN, model.CWR, 0x40, 0x20):
                flags |= flag if rng.random() < 0.12 else 0
            if flow.protocol == model.UDP:
                octets = min(octets, UDP_SEGMENTS_MAX * size)
            packet = flow.packet(rng.randbytes(min(octets, 64_000)), flags)
            if flow.protocol == model.UDP and octets > 2 and rng.random() < 0.15:
                packet = _summing_to_zero(packet, size)
            # A TUN does not offer ECN: the kernel segments those that are said to need it, and hands over the others.
            ecn = bool(flags & model.CWR) and flow.protocol == model.TCP and rng.random() < 0.4
            parcel = model.partial(packet, size, ecn=ecn)
            flow.advance(len(model.split(parcel)))
            made.append(parcel)
        return made

    def _stream(self) -> list[bytes]:
        """Neighbours of one flow, most of one size: what merges. Now and then something in between differs."""
        flow, rng = self.rng.choice(self.flows), self.rng
        size = rng.choice([self._room(flow), 536, 1, rng.randrange(1, 700)])
        made = []
        for _ in range(rng.randrange(2, 50)):
            chance = rng.random()
            flags = model.ACK | (model.PSH if chance < 0.08 else 0) | (model.FIN if 0.08 <= chance < 0.1 else 0)
            octets = size if chance < 0.9 else rng.randrange(0, size + 1)
            if 0.1 <= chance < 0.12:
                flow.sequence += 5
            if 0.12 <= chance < 0.14:
                self._change(flow)
            field = 0 if 0.18 <= chance < 0.19 else 0x4000
            packet = model.completed(flow.packet(rng.randbytes(octets), flags, field))
            if 0.14 <= chance < 0.16 and octets:
                packet = packet[:-1] + bytes((packet[-1] ^ 0x55,))  # its author's mistake is carried as it is
            if 0.16 <= chance < 0.18 and flow.protocol == model.UDP and not flow.ipv6:
                packet = model.put16(packet, model.layout(packet).transport + 6, 0)
            made.append(packet)
        return made

    def _change(self, flow: Flow) -> None:
        """One field that keeps the next packet from merging with the last."""
        match self.rng.randrange(6):
            case 0:
                flow.tos ^= 1
            case 1:
                flow.hops ^= 2
            case 2:
                flow.label ^= int(flow.ipv6)
            case 3:
                flow.ack += 1
            case 4:
                flow.window += 1
            case _:
                flow.options = flow.options[:-1] + b"\x09" if len(flow.options) > 4 else flow.options

    def _plain(self) -> list[Parcel]:
        """With the checksum complete, or left to the device."""
        flow, rng = self.rng.choice(self.flows), self.rng
        made = []
        for _ in range(rng.choice([1, 1, 3, 8])):
            flags = rng.choice([model.ACK, model.ACK, model.ACK | model.PSH, model.FIN | model.ACK, 0x04, 0x30])
            packet = flow.packet(self._octets(0, 1, 2, 3, 100, self._room(flow)), flags, rng.choice([0, 0x4000]))
            made.append(model.partial(packet) if rng.random() < 0.5 else Parcel(Vnet(), model.completed(packet)))
            if rng.random() < 0.05:  # octets behind the packet are not part of it
                made[-1] = Parcel(made[-1].vnet, made[-1].packet + rng.randbytes(rng.randrange(1, 30)))
        return made

    def _oversized(self) -> list[Parcel]:
        flow, rng = self.rng.choice(self.flows), self.rng
        payload = rng.randbytes(rng.choice([self._room(flow) + 1, self.mtu * 2, min(9000, self.mtu * 5)]))
        packet = flow.packet(payload, field=rng.choice([0, 0, 0x4000]))
        if not flow.ipv6 and rng.random() < 0.3:  # a fragment to be fragmented again
            at = (packet[0] & 15) * 4
            head = model.put16(model.put16(packet[:at], 6, rng.choice([0x2000, 0x2010, 0x0100])), 10, 0)
            return [Parcel(Vnet(), model.put16(head, 10, model.checksum(head)) + packet[at:])]
        if rng.random() < 0.3:
            parcel = model.partial(packet, self._room(flow) + 1)
            flow.advance(len(model.split(parcel)))
            return [parcel]
        return [model.partial(packet) if rng.random() < 0.5 else Parcel(Vnet(), model.completed(packet))]

    def _fragments(self) -> list[Parcel]:
        """Of a datagram: the first shows ports, the others none."""
        flow, rng = self.rng.choice(self.flows), self.rng
        # Every fragment of some begins with what would be ports, were it the first.
        octets = rng.randrange(600, 2000)
        body = rng.choice([rng.randbytes(octets), struct.pack("!HH", *flow.ports) * (octets // 4)])
        whole = model.completed(flow.packet(body, field=0))
        if not flow.ipv6:
            return [Parcel(Vnet(), piece) for piece in model.fragments(whole, rng.randrange(576, 1000))]
        made = []
        rest, number = whole[40:], rng.randrange(1 << 32)
        for start in range(0, len(rest), 512):
            more = int(start + 512 < len(rest))
            header = struct.pack("!BBHI", flow.protocol, 0, start | more, number)
            body = model.ipv6(
                flow.ends, flow.protocol, rest[start : start + 512], extensions=header, first=model.FRAGMENT
            )
            made.append(Parcel(Vnet(), body))
        return made

    def _extended(self) -> list[Parcel]:
        """IPv6 extension headers before TCP or UDP; a routing header never before a partial checksum."""
        rng = self.rng
        flow = next((one for one in rng.sample(self.flows, len(self.flows)) if one.ipv6), None)
        if flow is None:
            return self._odd()
        kinds = rng.choices([model.HOP_BY_HOP, model.DESTINATION], k=rng.randrange(1, 4))
        extensions, following = b"", flow.protocol
        for kind in reversed(kinds):
            more = rng.choice([0, 0, 1, 3])
            padding = bytes((1, 4 + 8 * more)) + bytes(4 + 8 * more)  # PadN
            extensions, following = bytes((following, more)) + padding + extensions, kind
        plain = flow.packet(rng.randbytes(rng.choice([0, 5, 300])))
        packet = model.ipv6(flow.ends, flow.protocol, plain[40:], extensions=extensions, first=following, tos=flow.tos)
        if rng.random() < 0.15:  # cut inside the headers: no whole packet any more
            cut = 40 + rng.randrange(1, len(extensions))
            return [Parcel(Vnet(), model.put16(packet[:cut], 4, cut - 40))]
        return [model.partial(packet) if rng.random() < 0.5 else Parcel(Vnet(), model.completed(packet))]

    def _odd(self) -> list[Parcel]:
        """Protocols without a checksum offload; truncated transports."""
        flow, rng = self.rng.choice(self.flows), self.rng
        icmp = model.ICMP6 if flow.ipv6 else model.ICMP
        protocol = rng.choice([icmp, icmp, icmp, 132, 253, 47, 33, 136, 59])
        body = rng.choice([b"\x08\x00", struct.pack("!HH", *flow.ports)]) + self._octets(0, 1, 60, 900)
        if rng.random() < 0.2:
            protocol, body = rng.choice([model.TCP, model.UDP, protocol]), body[: rng.randrange(0, 8)]
        if flow.ipv6:
            return [Parcel(Vnet(), model.ipv6(flow.ends, protocol, body, tos=flow.tos))]
        return [Parcel(Vnet(), model.ipv4(flow.ends, protocol, body, tos=flow.tos, field=rng.choice([0, 0x4000])))]

    def _syn(self) -> list[Parcel]:
        flow, rng = self.rng.choice(self.flows), self.rng
        ends, ports = flow.ends, flow.ports
        options = rng.choice([b"", b"\x01\x01"]) + struct.pack("!BBH", 2, 4, rng.choice([536, 1180, 1200, 1460, 8960]))
        options += rng.choice([b"", b"\x04\x02"]) + bytes(12)
        options = options[: len(options) // 4 * 4]
        body = model.tcp(ports, 1, b"", flags=model.SYN | rng.choice([0, model.ACK, 0xC0]), options=options)
        packet = model.ipv6(ends, model.TCP, body) if flow.ipv6 else model.ipv4(ends, model.TCP, body)
        return [model.partial(packet) if rng.random() < 0.5 else Parcel(Vnet(), model.completed(packet))]

    def _nonsense(self) -> list[Parcel]:
        """Runts and lies. The kernel passes on whatever it is given."""
        rng = self.rng
        packet = bytearray(self._plain()[0].packet)
        how = rng.randrange(6)
        if how == 0:
            packet = bytearray(rng.randbytes(rng.randrange(1, 60)))
            packet[0] = rng.choice([0x00, 0x10, 0x50, 0xF0]) | packet[0] & 15
        elif how == 1:
            packet = packet[: rng.randrange(1, 20)]
        elif how == 2:
            packet = packet[:-1] if packet[0] >> 4 == 6 and len(packet) > 40 else packet[:20]
        elif how == 3:
            packet[0] = packet[0] & 0xF0 | rng.randrange(5) if packet[0] >> 4 == 4 else 0x70
        elif how == 4 and packet[0] >> 4 == 4:
            packet[2:4] = struct.pack("!H", rng.choice([0, 19, len(packet) + 1, 0xFFFF]))
        else:
            packet[4:6] = b"\xff\xff" if packet[0] >> 4 == 6 else packet[4:6]
        return [Parcel(Vnet(), bytes(packet))]


def _whole(parcel: Parcel) -> list[bytes]:
    return [parcel.packet] if model.whole_length(parcel.packet) is None else model.split(parcel)


def _summing_to_zero(packet: bytes, size: int) -> bytes:
    """A UDP super-packet whose first segment's checksum comes out as zero, which RFC 768 keeps for "none"."""
    at = model.layout(packet)
    first = model.split(model.partial(packet, size))[0]
    total = sum(struct.unpack("!HH", first[at.transport + 6 : at.transport + 10]))
    return model.put16(packet, at.transport + 8, (total & 0xFFFF) + (total >> 16))


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
