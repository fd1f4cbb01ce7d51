"""What crossed the WAN: a packet capture and a classification of every packet in it.

The capture is tcpdump's (on the WAN router's link to the gateway); the parser is ours and small: Ethernet, IPv4, IPv6,
UDP, enough to put each packet into one class. Anything it does not recognise is `clear`: the classifier fails towards
"leak". Besides, every captured octet is searched for the marker of our probe datagrams.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from support.netns import Namespace
from support.process import Process, wait_until
from support.traffic_probe import MARKER

CLASSES = ("arp", "nd", "ike-500", "ike-4500", "esp-4500", "esp-50", "nat-keepalive", "icmp-error", "clear")
_SNAPLEN = 192
_IKE_SA_INIT, _IKE_AUTH = 34, 35
INFORMATIONAL = 37
_ND_TYPES = frozenset({133, 134, 135, 136, 137, 130, 131, 132, 143})  # RFC 4861, RFC 2710, RFC 3810


@dataclass(frozen=True, slots=True)
class IkeSeen:
    """The clear part of one IKE message: when, which exchange, request or response."""

    at: float
    source: str
    initiator_spi: int
    exchange: int
    response: bool
    message_id: int


@dataclass(frozen=True, slots=True)
class EspSeen:
    """ESP in UDP over IPv4: when, to whom, on which SA; `octets`: of one packet, or of all of one batch (UDP GSO)."""

    at: float
    target: str
    spi: int
    octets: int


@dataclass(slots=True)
class Classified:
    """Packets by class, and the first few that were clear."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    markers: int = 0
    dropped: int = 0  # packets tcpdump did not get
    ike: list[IkeSeen] = field(default_factory=list)

    @property
    def clear(self) -> int:
        return self.counts["clear"]

    @property
    def total(self) -> int:
        return self.counts.total()

    def handshake_ms(self) -> float | None:
        """From the first IKE_SA_INIT on the wire to the first IKE_AUTH response after it."""
        started = next((seen.at for seen in self.ike if seen.exchange == _IKE_SA_INIT), None)
        ended = next((seen.at for seen in self.ike if seen.exchange == _IKE_AUTH and seen.response), None)
        return None if started is None or ended is None else (ended - started) * 1000


class Capture:
    """tcpdump on one device of one namespace, from `start` to `stop`."""

    def __init__(self, machine: Namespace, device: str, name: str = "wan") -> None:
        self._machine, self._device = machine, device
        self.path = machine.directory / f"{name}.pcap"
        self._process: Process | None = None
        self._name = name

    def start(self) -> None:
        # -B: a 32 MB ring for bursts; immediate mode: nothing waits in the ring; -Z root: the directory is private
        argv = [
            "tcpdump",
            "-i",
            self._device,
            "-n",
            "-U",
            "--immediate-mode",
            "-s",
            str(_SNAPLEN),
            "-B",
            "32768",
            "-Z",
            "root",
            "-w",
            str(self.path),
        ]
        self._process = self._machine.start(f"tcpdump-{self._name}", argv)
        log = self._process.log
        wait_until(lambda: "listening on" in log.read_text(), 5, "tcpdump listens", logs=[self._process])

    def stop(self) -> Classified:
        """End the capture and classify it."""
        assert self._process is not None
        self._process.stop()
        found = classify(self.path)
        drops = re.search(r"(\d+) packets? dropped by kernel", self._process.log.read_text())
        found.dropped = int(drops[1]) if drops else 0
        return found

    def so_far(self) -> Classified:
        """Classify what has been written until now."""
        return classify(self.path)


def classify(path: Path) -> Classified:
    """Put every packet of a pcap file into its class."""
    data = path.read_bytes()
    found = Classified(markers=data.count(MARKER))
    for at, frame in _frames(path, data):
        kind = kind_of(frame)
        found.counts[kind] += 1
        if kind.startswith("ike-"):
            found.ike.append(_ike_seen(frame, kind, at))
        if kind == "clear" and len(found.samples) < 10:
            found.samples.append(f"{at:.6f} {describe(frame)}")
    return found


def esp_of(path: Path) -> list[EspSeen]:
    """What is ESP in UDP over IPv4 in a pcap file."""
    return [_esp_seen(frame, at) for at, frame in _frames(path, path.read_bytes()) if kind_of(frame) == "esp-4500"]


def _frames(path: Path, data: bytes) -> Iterator[tuple[float, bytes]]:
    """When, and the octets; a half-written last packet is left out."""
    at = 24
    (magic,) = struct.unpack_from("<I", data) if len(data) >= at else (0,)
    if magic not in (0xA1B2C3D4, 0xA1B23C4D):
        raise ValueError(f"{path} is not a little-endian pcap file")
    while at + 16 <= len(data):
        seconds, fraction, length, _ = struct.unpack_from("<IIII", data, at)
        frame = data[at + 16 : at + 16 + length]
        if len(frame) < length:
            break
        at += 16 + length
        yield seconds + fraction / 1e6, frame


def kind_of(frame: bytes) -> str:
    """The class of one Ethernet frame."""
    if len(frame) < 14:
        return "clear"
    ether_type = int.from_bytes(frame[12:14])
    if ether_type == 0x0806:
        return "arp"
    if ether_type == 0x0800:
        return _ipv4(frame[14:])
    if ether_type == 0x86DD:
        return _ipv6(frame[14:])
    return "clear"


def describe(frame: bytes) -> str:
    """One line about a packet that should not be there."""
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00" and len(packet) >= 24:
        source, target = (".".join(str(octet) for octet in packet[at : at + 4]) for at in (12, 16))
        ports = struct.unpack_from("!HH", packet, (packet[0] & 15) * 4)
        return f"IPv4 protocol {packet[9]} {source}:{ports[0]} > {target}:{ports[1]} length {len(packet)}"
    if frame[12:14] == b"\x86\xdd" and len(packet) >= 40:
        return f"IPv6 next header {packet[6]} {IPv6Address(packet[8:24])} > {IPv6Address(packet[24:40])}"
    return frame[:48].hex(" ")


def _ike_seen(frame: bytes, kind: str, at: float) -> IkeSeen:
    packet = frame[14:]
    header = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40
    message = packet[header + 8 + (4 if kind == "ike-4500" else 0) :]
    # RFC 7296 3.1: octets 0-7 initiator's SPI, 18 exchange type, 19 flags (0x20 response), 20-23 message ID
    source = IPv4Address(packet[12:16]) if header < 40 else IPv6Address(packet[8:24])
    spi, number = int.from_bytes(message[:8]), int.from_bytes(message[20:24])
    return IkeSeen(at, str(source), spi, message[18], bool(message[19] & 0x20), number)


def _esp_seen(frame: bytes, at: float) -> EspSeen:
    packet = frame[14:]
    header = (packet[0] & 15) * 4
    payload = packet[header + 8 :]
    return EspSeen(
        at, str(IPv4Address(packet[16:20])), int.from_bytes(payload[:4]), int.from_bytes(packet[2:4]) - header - 8
    )


def _ipv4(packet: bytes) -> str:
    if len(packet) < 20:
        return "clear"
    fragment_offset = int.from_bytes(packet[6:8]) & 0x1FFF
    if fragment_offset:
        return "clear"  # nothing we send needs outer fragments
    segment = packet[(packet[0] & 15) * 4 :]
    if packet[9] == 1:
        return "icmp-error" if _quotes_tunnel(packet, segment) else "clear"
    return _transport(packet[9], segment)


def _quotes_tunnel(packet: bytes, icmp: bytes) -> bool:
    """An ICMP error about our IKE or ESP, from the other end or a router to who sent it, quoting nothing but encrypted octets."""
    quoted = icmp[8:]
    if len(icmp) < 36 or icmp[0] not in {3, 11} or quoted[9] not in {17, 50}:
        return False
    return quoted[12:16] == packet[16:20] and _transport(quoted[9], quoted[(quoted[0] & 15) * 4 :]) != "clear"


def _ipv6(packet: bytes) -> str:
    if len(packet) < 40:
        return "clear"
    header, rest = packet[6], packet[40:]
    if header == 0 and len(rest) >= 8:  # hop-by-hop options before MLD
        header, rest = rest[0], rest[(rest[1] + 1) * 8 :]
    if header == 58:
        return "nd" if rest and rest[0] in _ND_TYPES else "clear"
    return _transport(header, rest)


def _transport(protocol: int, segment: bytes) -> str:
    if protocol == 50:
        return "esp-50"
    if protocol != 17 or len(segment) < 9:
        return "clear"
    ports = struct.unpack_from("!HH", segment)
    payload = segment[8:]
    if 4500 in ports:
        return _port_4500(payload)
    if 500 in ports:
        return "ike-500" if _is_ike(payload) else "clear"
    return "clear"


def _port_4500(payload: bytes) -> str:
    if payload[:1] == b"\xff" and len(payload) <= 32:  # RFC 3948 2.3; Ethernet pads a short frame
        return "nat-keepalive"
    if payload[:4] == bytes(4):
        return "ike-4500" if _is_ike(payload[4:]) else "clear"
    return "esp-4500" if len(payload) >= 8 else "clear"


def _is_ike(message: bytes) -> bool:
    """An IKEv2 header: version 2.x, an exchange type of RFC 7296 / 9242 / 9370, a plausible length."""
    return len(message) >= 28 and message[17] >> 4 == 2 and message[18] in {34, 35, 36, 37, 43, 44}
