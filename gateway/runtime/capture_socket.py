"""The outer IKE and ESP packets between us and one peer, as a link carries them: an AF_PACKET socket.

A kernel filter on the peer's address lets nothing else come here. Beside the data plane, which knows nothing of it; the
kernel pays for the copies. Datagrams that segmentation offload or GRO joined are taken apart again.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_VNET_HDR = 263, 6, 15
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SCM_TIMESTAMPNS = 26, 33, 35, 35
_PACKET_OUTGOING = 4
_ETHERNET, _LOOPBACK = 1, 772  # sll_hatype
_ETHERNET_OCTETS, _VLAN_TYPES, _VLAN_OCTETS = 14, (0x8100, 0x88A8), 4
_VNET_HEADER = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_GSO_UDP_L4 = 5
_TIMESPEC = struct.Struct("=qq")
_BUFFER = 8 << 20
_PER_TURN = 64
_EARLIER_MAX = 32768  # more than a socket's first buffer holds; a busy tunnel would never let it be empty
_ACCEPT, _REFUSE = 0x40000, 0
_UDP, _ESP, _FRAGMENT = 17, 50, 44
_IP = 0x100000000 - 0x100000  # SKF_NET_OFF: loads count from the IP header, whatever link is below it

Instruction = tuple[int, int, int, int]  # code, jt, jf, k: struct sock_filter
_LOAD_WORD, _LOAD_HALF, _LOAD_OCTET = 0x20, 0x28, 0x30
_LOAD_HALF_AT_X, _X_IS_HEADER_LENGTH = 0x48, 0xB1
_AND, _JUMP, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x54, 0x05, 0x15, 0x45, 0x06


@dataclass(frozen=True, slots=True)
class Packet:
    """One IP packet; `at` in nanoseconds since 1970."""

    at: int
    interface: str
    outgoing: bool
    data: bytes


class CaptureSocket:
    """Open from the beginning; the reader is whoever calls `read`. OSError with a sentence when it may not be."""

    def __init__(self, peer: str, ports: Sequence[int]) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
            )
        except OSError as error:
            raise OSError(error.errno, _REASONS.get(error.errno or 0, error.strerror)) from error
        try:
            self._prepare(address_filter(peer, ports))
        except OSError:
            self._socket.close()
            raise
        self.unreadable = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self, take: Callable[[Packet], None]) -> None:
        """What waits, up to a turn's worth."""
        for _ in range(_PER_TURN):
            try:
                data, ancillary, _, sender = self._socket.recvmsg(0x10000 + _VNET_HEADER.size, 64)
            except BlockingIOError:
                return
            except OSError as error:
                # Linux before 6.2 has no way to tell how a joined UDP datagram is to be taken apart
                if error.errno != errno.EINVAL:
                    raise
                self.unreadable += 1
                continue
            name, _, direction, link, _ = sender
            at = _timestamp(ancillary)
            for whole in split(data, link):
                take(Packet(at, name, direction == _PACKET_OUTGOING, whole))

    def dropped(self) -> int:
        """Packets the kernel had no room for, since this was last asked."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        return int(struct.unpack("=II", statistics)[1])

    def _prepare(self, program: Sequence[Instruction]) -> None:
        code = b"".join(struct.pack("=HBBI", *one) for one in program)
        buffer = ctypes.create_string_buffer(code)
        self._socket.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._discard_earlier()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.dropped()

    def _discard_earlier(self) -> None:
        """What came before the filter was in place is nobody's business."""
        for _ in range(_EARLIER_MAX):
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return
            except OSError:
                continue  # one that cannot be taken apart is gone with this, too


_REASONS = {
    errno.EAFNOSUPPORT: "this service may not open packet sockets; its unit needs RestrictAddressFamilies=AF_PACKET",
    errno.EPERM: "packet sockets need CAP_NET_RAW",
    errno.EACCES: "packet sockets need CAP_NET_RAW",
}


def address_filter(peer: str, ports: Sequence[int]) -> list[Instruction]:
    """Classic BPF over the IP packet: to or from the peer, and ESP, a fragment, or UDP from or to one of the ports."""
    address = ipaddress.ip_address(peer)
    program: list[Instruction | tuple[int, str, str, int]] = [
        (_LOAD_OCTET, 0, 0, _IP),
        (_AND, 0, 0, 0xF0),
        (_JUMP_EQUAL, "", "refuse", address.version << 4),
        *(_ipv4(address.packed, ports) if address.version == 4 else _ipv6(address.packed, ports)),
        (_RETURN, 0, 0, _ACCEPT),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return _assembled(program)


_Line = tuple[int, int, int, int] | tuple[int, str, str, int]


def _ipv4(peer: bytes, ports: Sequence[int]) -> Iterator[_Line]:
    word = int.from_bytes(peer)
    yield from ((_LOAD_WORD, 0, 0, _IP + 12), (_JUMP_EQUAL, "+2", "", word))
    yield from ((_LOAD_WORD, 0, 0, _IP + 16), (_JUMP_EQUAL, "", "refuse", word))
    yield from ((_LOAD_OCTET, 0, 0, _IP + 9), (_JUMP_EQUAL, "accept", "", _ESP), (_JUMP_EQUAL, "", "refuse", _UDP))
    yield from ((_LOAD_HALF, 0, 0, _IP + 6), (_JUMP_SET, "accept", "", 0x1FFF))
    yield (_X_IS_HEADER_LENGTH, 0, 0, _IP)
    for at in (0, 2):
        yield (_LOAD_HALF_AT_X, 0, 0, _IP + at)
        yield from ((_JUMP_EQUAL, "accept", "", port) for port in ports)
    yield (_RETURN, 0, 0, _REFUSE)


def _ipv6(peer: bytes, ports: Sequence[int]) -> Iterator[_Line]:
    words = [int.from_bytes(peer[at : at + 4]) for at in range(0, 16, 4)]
    for index, word in enumerate(words):
        # Another source: on to the destination, past what is left of these pairs and the jump
        yield from ((_LOAD_WORD, 0, 0, _IP + 8 + 4 * index), (_JUMP_EQUAL, "", f"+{7 - 2 * index}", word))
    yield (_JUMP, 0, 0, 2 * len(words))
    for index, word in enumerate(words):
        yield from ((_LOAD_WORD, 0, 0, _IP + 24 + 4 * index), (_JUMP_EQUAL, "", "refuse", word))
    yield (_LOAD_OCTET, 0, 0, _IP + 6)
    yield from ((_JUMP_EQUAL, "accept", "", kind) for kind in (_ESP, _FRAGMENT))
    yield (_JUMP_EQUAL, "", "refuse", _UDP)
    for at in (40, 42):
        yield (_LOAD_HALF, 0, 0, _IP + at)
        yield from ((_JUMP_EQUAL, "accept", "", port) for port in ports)
    yield (_RETURN, 0, 0, _REFUSE)


def _assembled(program: Sequence[_Line]) -> list[Instruction]:
    """Jumps by name: "" the next line, "+n" n lines further, "accept" and "refuse" the last two lines."""
    count = len(program)

    def distance(target: int | str, line: int) -> int:
        if isinstance(target, int):
            return target
        if target in ("accept", "refuse"):
            return count - (2 if target == "accept" else 1) - line - 1
        return int(target or 0)

    return [(code, distance(jt, line), distance(jf, line), k) for line, (code, jt, jf, k) in enumerate(program)]


def split(data: bytes, link: int = _ETHERNET) -> Iterator[bytes]:
    """What a socket with PACKET_VNET_HDR gave: the IP packets as they are, or were, on the wire."""
    _, kind, _, size, _, _ = _VNET_HEADER.unpack_from(data)
    whole = data[_VNET_HEADER.size + _link_octets(data[_VNET_HEADER.size :], link) :]
    if kind & 0x7F != _GSO_UDP_L4 or not size:
        yield whole
        return
    header = (whole[0] & 15) * 4 if whole[0] >> 4 == 4 else 40
    body = whole[header + 8 :]
    for number, at in enumerate(range(0, len(body), size)):
        yield _datagram(whole[:header], whole[header : header + 8], body[at : at + size], number)


def _link_octets(frame: bytes, link: int) -> int:
    """Links without a header of their own (TUN, PPP) show the IP packet."""
    if link not in (_ETHERNET, _LOOPBACK):
        return 0
    tagged = int.from_bytes(frame[12:14]) in _VLAN_TYPES
    return _ETHERNET_OCTETS + (_VLAN_OCTETS if tagged else 0)


def _datagram(header: bytes, udp: bytes, body: bytes, number: int) -> bytes:
    """RFC 768, RFC 791, RFC 8200: lengths and checksums anew; IPv4 identifications count up as the kernel's do."""
    length = 8 + len(body)
    if header[0] >> 4 == 4:
        identification = (int.from_bytes(header[4:6]) + number) & 0xFFFF
        total = len(header) + length
        fresh = header[:2] + struct.pack("!HH", total, identification) + header[6:10] + bytes(2) + header[12:]
        fresh = fresh[:10] + _checksum(fresh).to_bytes(2) + fresh[12:]
        addresses = header[12:20]
    else:
        fresh = header[:4] + struct.pack("!H", length) + header[6:]
        addresses = header[8:40]
    plain = udp[:4] + struct.pack("!HH", length, 0)
    pseudo = addresses + struct.pack("!II", _UDP, length)
    # RFC 768: a sum of zero is sent as all ones
    checksum = _checksum(pseudo + plain + body) or 0xFFFF
    return fresh + plain[:6] + checksum.to_bytes(2) + body


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total = int.from_bytes(data + bytes(len(data) % 2)) % 0xFFFF
    return (0xFFFF - total) & 0xFFFF


def _timestamp(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SCM_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            return int(seconds * 10**9 + nanoseconds)
    return time.time_ns()
