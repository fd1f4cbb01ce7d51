"""Inner packets as a TUN with IFF_VNET_HDR hands them over, and what each must become: the model of the data plane's
work on packets, in plain Python and from the RFCs, not from native/.

    Parcel   one write into a TUN queue: a virtio header and a packet or a super-packet
    split    the segments of a parcel, with every checksum complete
    fragments, clamped, decapsulated     what else a gateway may do to one packet

tests/native/test_packet_trains.py holds `split` against the kernel's own segmentation.

Not here: selectors (gateway/esp/spd.py), ESP (gateway/esp/packet.py), what is random (packet_trains.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from support.dataplane_pair import checksum

ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
EXTENSIONS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION))
FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80
DONT_FRAGMENT, MORE_FRAGMENTS, OFFSET = 0x4000, 0x2000, 0x1FFF
_CHECKSUM_AT = {TCP: 16, UDP: 6}

# virtio 1.2 5.1.6
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
VNET = struct.Struct("=BBHHHH")  # without num_buffers: as AF_PACKET takes it


class Vnet(NamedTuple):
    """The fields of a virtio header."""

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0


@dataclass(frozen=True, slots=True)
class Parcel:
    """One write into a TUN queue."""

    vnet: Vnet
    packet: bytes

    def octets(self) -> bytes:
        return VNET.pack(*self.vnet) + self.packet

    @property
    def super_packet(self) -> bool:
        return self.vnet.gso_type != GSO_NONE


class Layout(NamedTuple):
    """Where an inner packet's transport header begins; `protocol` is the last header reached."""

    ipv6: bool
    transport: int
    protocol: int
    fragment: bool


def layout(packet: bytes) -> Layout:
    """Of a whole, sane packet. ValueError when its headers run out (RFC 791 3.1, RFC 8200 4)."""
    if packet[0] >> 4 == 4:
        field = struct.unpack_from("!H", packet, 6)[0]
        return Layout(False, (packet[0] & 15) * 4, packet[9], bool(field & (MORE_FRAGMENTS | OFFSET)))
    at, following, fragment = 40, packet[6], False
    while following in EXTENSIONS and not fragment:
        if len(packet) < at + 8:
            raise ValueError("an extension header runs out")
        octets = 8 if following == FRAGMENT else 8 * (packet[at + 1] + 1)
        if len(packet) < at + octets:
            raise ValueError("an extension header runs out")
        fragment, following, at = following == FRAGMENT, packet[at], at + octets
    return Layout(True, at, following, fragment)


def whole_length(packet: bytes) -> int | None:
    """What the IP header says, None when it contradicts itself or the octets there are."""
    if len(packet) < 20:
        return None
    if packet[0] >> 4 == 4:
        header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        return total if 20 <= header <= total <= len(packet) else None
    if packet[0] >> 4 == 6 and len(packet) >= 40:
        total = 40 + struct.unpack_from("!H", packet, 4)[0]
        return total if total <= len(packet) else None
    return None


def flow_of(packet: bytes) -> bytes:
    """What a network keeps in order: addresses, protocol, and ports where every packet of the flow shows them."""
    try:
        at = layout(packet)
    except ValueError:  # of headers that run out, the addresses
        return packet[8:40]
    ends = packet[8:40] if at.ipv6 else packet[12:20]
    ports = packet[at.transport : at.transport + 4] if at.protocol in (TCP, UDP) and not at.fragment else b""
    return ends + bytes((at.protocol,)) + ports


# ---- making packets ----


def ipv4(ends: bytes, protocol: int, payload: bytes, *, tos: int = 0, number: int = 0, field: int = DONT_FRAGMENT,
         hops: int = 64, options: bytes = b"") -> bytes:  # fmt: skip
    """`ends`: both addresses, `field`: flags and fragment offset."""
    words = 5 + len(options) // 4
    total = words * 4 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x40 | words, tos, total, number, field, hops, protocol, 0) + ends + options
    return put16(header, 10, checksum(header)) + payload


def ipv6(ends: bytes, protocol: int, payload: bytes, *, tos: int = 0, label: int = 0, hops: int = 64,
         extensions: bytes = b"", first: int | None = None) -> bytes:  # fmt: skip
    """`extensions` end with `protocol` as their next header; `first` is the number of the first of them."""
    rest = extensions + payload
    following = protocol if first is None else first
    return struct.pack("!IHBB", 6 << 28 | tos << 20 | label, len(rest), following, hops) + ends + rest


def tcp(ports: tuple[int, int], sequence: int, payload: bytes, *, flags: int = ACK, ack: int = 1, window: int = 1000,
        options: bytes = b"") -> bytes:  # fmt: skip
    """Its checksum is zero."""
    words = 5 + len(options) // 4
    header = struct.pack("!HHIIBBHHH", *ports, sequence & 0xFFFFFFFF, ack, words << 4, flags, window, 0, 0)
    return header + options + payload


def udp(ports: tuple[int, int], payload: bytes) -> bytes:
    """Its checksum is zero."""
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


def put16(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("!H", value) + data[at + 2 :]


def pseudo_sum(packet: bytes, transport: int, protocol: int) -> int:
    """RFC 9293 3.1, RFC 8200 8.1: the folded sum, not complemented."""
    ends = packet[8:40] if packet[0] >> 4 == 6 else packet[12:20]
    return ~checksum(ends + struct.pack("!II", len(packet) - transport, protocol)) & 0xFFFF


def transport_sum(packet: bytes, transport: int, protocol: int) -> int:
    """What the checksum field must hold; the field itself has to be zero. Never zero: RFC 768 reads that as none."""
    ends = packet[8:40] if packet[0] >> 4 == 6 else packet[12:20]
    pseudo = ends + struct.pack("!II", len(packet) - transport, protocol)
    return checksum(pseudo + packet[transport:]) or 0xFFFF


def completed(packet: bytes) -> bytes:
    """The packet with the right TCP or UDP checksum."""
    at = layout(packet)
    field = at.transport + _CHECKSUM_AT[at.protocol]
    zeroed = put16(packet, field, 0)
    return put16(zeroed, field, transport_sum(zeroed, at.transport, at.protocol))


def partial(packet: bytes, gso_size: int = 0, *, ecn: bool = False) -> Parcel:
    """The packet as a host with offloads writes it: only the pseudo-header is in its TCP or UDP checksum. With a
    segment size it is a super-packet, if it is longer than one (the kernel drops those that are not)."""
    at = layout(packet)
    header = at.transport + (8 if at.protocol == UDP else (packet[at.transport + 12] >> 4) * 4)
    if len(packet) - header <= gso_size:
        gso_size = 0
    offset = _CHECKSUM_AT[at.protocol]
    packet = put16(packet, at.transport + offset, pseudo_sum(packet, at.transport, at.protocol))
    if not gso_size:
        return Parcel(Vnet(NEEDS_CSUM, GSO_NONE, 0, 0, at.transport, offset), packet)
    kind = GSO_UDP_L4 if at.protocol == UDP else (GSO_TCPV6 if at.ipv6 else GSO_TCPV4) | (GSO_ECN if ecn else 0)
    return Parcel(Vnet(NEEDS_CSUM, kind, header, gso_size, at.transport, offset), packet)


# ---- what becomes of them ----


def split(parcel: Parcel) -> list[bytes]:
    """The packets a parcel stands for, each with its checksums complete (virtio 1.2 5.1.6.2)."""
    vnet, packet = parcel.vnet, parcel.packet[: whole_length(parcel.packet)]
    if not vnet.flags & NEEDS_CSUM:
        return [packet]
    field = vnet.checksum_start + vnet.checksum_offset
    if vnet.gso_type == GSO_NONE:
        # The sum so far stands in the field, so the field counts too.
        return [put16(packet, field, checksum(packet[vnet.checksum_start :]) or 0xFFFF)]
    at = layout(packet)
    header = at.transport + (8 if at.protocol == UDP else (packet[at.transport + 12] >> 4) * 4)
    payload = packet[header:]
    pieces = [payload[i : i + vnet.gso_size] for i in range(0, len(payload), vnet.gso_size)] or [b""]
    return [_segment(packet[:header], at, piece, i, len(pieces), vnet.gso_size) for i, piece in enumerate(pieces)]


def _segment(header: bytes, at: Layout, piece: bytes, index: int, count: int, size: int) -> bytes:
    l3, l4 = header[: at.transport], bytearray(header[at.transport :])
    if at.protocol == UDP:
        l4[4:6] = struct.pack("!H", len(l4) + len(piece))
    else:
        l4[4:8] = struct.pack("!I", (struct.unpack_from("!I", l4, 4)[0] + index * size) & 0xFFFFFFFF)
        # RFC 3168 6.1.2: CWR says one thing once; FIN and PSH belong to the end.
        l4[13] &= 0xFF if index == 0 else ~CWR
        l4[13] &= 0xFF if index == count - 1 else ~(FIN | PSH)
    total = len(l3) + len(l4) + len(piece)
    if at.ipv6:
        l3 = put16(l3, 4, total - 40)
    else:
        l3 = put16(put16(l3, 2, total), 4, (struct.unpack_from("!H", l3, 4)[0] + index) & 0xFFFF)
        l3 = put16(l3, 10, 0)
        l3 = put16(l3, 10, checksum(l3))
    return completed(l3 + bytes(l4) + piece)


def fragments(packet: bytes, mtu: int) -> list[bytes]:
    """RFC 791 3.2: an IPv4 packet without DF in pieces of at most `mtu`."""
    header = (packet[0] & 15) * 4
    if len(packet) <= mtu:
        return [packet]
    field, payload = struct.unpack_from("!H", packet, 6)[0], packet[header:]
    piece = (mtu - header) // 8 * 8
    made = []
    for start in range(0, len(payload), piece):
        part = payload[start : start + piece]
        more = start + piece < len(payload) or field & MORE_FRAGMENTS
        new_field = (field & OFFSET) + start // 8 | (MORE_FRAGMENTS if more else 0)
        head = packet[:header] if start == 0 else packet[:20] + _copied(packet[20:header])
        head = put16(put16(put16(head, 2, header + len(part)), 6, new_field), 10, 0)
        made.append(put16(head, 10, checksum(head)) + part)
    return made


def _copied(options: bytes) -> bytes:
    """RFC 791 3.1: options without the copied flag stand in the first fragment only."""
    made, at = bytearray(options), 0
    while at < len(options) and options[at] != 0:
        octets = 1 if options[at] == 1 else options[at + 1]
        if not options[at] & 0x80:
            made[at : at + octets] = b"\x01" * octets
        at += octets
    return bytes(made)


def clamped(packet: bytes, mss: tuple[int, int], *, whole: bool = True) -> bytes:
    """RFC 9293 3.7.1: a SYN whose MSS option is not above the limit for its family. `whole`: fix the checksum too."""
    at = layout(packet)
    limit = mss[1] if at.ipv6 else mss[0]
    if not limit or at.protocol != TCP or at.fragment or len(packet) < at.transport + 20:
        return packet
    if not packet[at.transport + 13] & SYN:
        return packet
    option, end = at.transport + 20, at.transport + (packet[at.transport + 12] >> 4) * 4
    while option < end and packet[option] != 0:
        if packet[option] == 1:
            option += 1
            continue
        if packet[option] == 2 and struct.unpack_from("!H", packet, option + 2)[0] > limit:
            changed = put16(packet, option + 2, limit)
            return completed(changed) if whole else changed
        option += packet[option + 1]
    return packet


def tos_of(packet: bytes) -> int:
    """TOS or traffic class."""
    return packet[1] if packet[0] >> 4 == 4 else struct.unpack_from("!H", packet)[0] >> 4 & 0xFF


def with_tos(packet: bytes, tos: int) -> bytes:
    """The packet with another TOS or traffic class, its header checksum fixed."""
    if packet[0] >> 4 == 6:
        return put16(packet, 0, 0x6000 | tos << 4 | packet[1] & 0x0F)
    header = (packet[0] & 15) * 4
    zeroed = put16(packet[:1] + bytes((tos,)) + packet[2:header], 10, 0)
    return put16(zeroed, 10, checksum(zeroed)) + packet[header:]


# RFC 6040 4.2, figure 4: (inner, outer) -> what leaves where it is not the inner field; None: dropped.
# Not-ECT 0, ECT(1) 1, ECT(0) 2, CE 3.
_DECAPSULATED: dict[tuple[int, int], int | None] = {(0, 3): None, (1, 3): 3, (2, 1): 1, (2, 3): 3}


def decapsulated(packet: bytes, outer_ecn: int) -> bytes | None:
    """RFC 6040 4.2: the inner packet as it leaves the tunnel; None when it has to be dropped."""
    inner = tos_of(packet) & 3
    ecn = _DECAPSULATED.get((inner, outer_ecn), inner)
    if ecn is None or ecn == inner:
        return None if ecn is None else packet
    return with_tos(packet, tos_of(packet) & 0xFC | ecn)
