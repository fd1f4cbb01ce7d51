"""Super-packets that a data plane wrote to its TUN: whether they are sound, and what they are made of."""

from __future__ import annotations

from support import inner_packets as model
from support.dataplane_pair import checksum
from support.inner_packets import Parcel


def packets_of(parcel: Parcel) -> list[bytes]:
    return model.split(parcel) if parcel.super_packet else [parcel.packet]


def sound(parcel: Parcel) -> None:
    """What virtio 1.2 5.1.6.2 asks of a merged packet; a single one is not touched."""
    vnet, packet = parcel.vnet, parcel.packet
    if not parcel.super_packet:
        assert not vnet.flags & model.NEEDS_CSUM
        return
    at = model.layout(packet)
    assert vnet.flags & model.NEEDS_CSUM
    assert model.whole_length(packet) == len(packet)
    assert (vnet.checksum_start, vnet.checksum_offset) == (at.transport, {model.TCP: 16, model.UDP: 6}[at.protocol])
    kind = model.GSO_UDP_L4 if at.protocol == model.UDP else model.GSO_TCPV6 if at.ipv6 else model.GSO_TCPV4
    assert vnet.gso_type == kind
    field = at.transport + vnet.checksum_offset
    assert int.from_bytes(packet[field : field + 2]) == model.pseudo_sum(packet, at.transport, at.protocol)
    assert at.ipv6 or checksum(packet[: at.transport]) == 0


def without_number(packet: bytes) -> bytes:
    """A merged IPv4 packet loses its number (RFC 6864 4.1: of an unfragmented one it means nothing)."""
    return packet if packet[0] >> 4 == 6 else model.put16(model.put16(packet, 4, 0), 10, 0)
