"""The pcapng format, as far as a capture of IP packets needs it (draft-ietf-opsawg-pcapng).

    Section Header | Interface Description ... | Enhanced Packet ... | Interface Statistics ...

Blocks out only; reading is Wireshark's. Nothing is kept here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_LINKTYPE_RAW = 101  # an IPv4 or IPv6 packet without a link's header
_END, _COMMENT = 0, 1
_SECTION_APPLICATION, _INTERFACE_NAME, _INTERFACE_RESOLUTION, _PACKET_FLAGS = 4, 2, 9, 2
_RECEIVED, _DROPPED = 4, 5  # isb_ifrecv, isb_ifdrop
_NANOSECONDS = 9  # if_tsresol: 10^-9 s
INBOUND, OUTBOUND = 1, 2
"""Direction in epb_flags."""


def section_header(application: str, comment: str) -> bytes:
    options = _options(((_COMMENT, comment.encode()), (_SECTION_APPLICATION, application.encode())))
    return _block(_SECTION, struct.pack("=IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1) + options)


def interface(name: str) -> bytes:
    """The interfaces of a section count from 0 in the order of their descriptions."""
    options = _options(((_INTERFACE_NAME, name.encode()), (_INTERFACE_RESOLUTION, bytes((_NANOSECONDS,)))))
    return _block(_INTERFACE, struct.pack("=HHI", _LINKTYPE_RAW, 0, 0) + options)


def packet(interface_id: int, at: int, direction: int, data: bytes) -> bytes:
    """A whole packet; `at` in nanoseconds since 1970."""
    fixed = struct.pack("=IIIII", interface_id, at >> 32, at & 0xFFFFFFFF, len(data), len(data))
    return _block(_PACKET, fixed + _padded(data) + _options(((_PACKET_FLAGS, struct.pack("=I", direction)),)))


def statistics(interface_id: int, at: int, received: int, dropped: int) -> bytes:
    """What an interface gave, and what of it is not in the file."""
    fixed = struct.pack("=III", interface_id, at >> 32, at & 0xFFFFFFFF)
    counts = ((_RECEIVED, struct.pack("=Q", received)), (_DROPPED, struct.pack("=Q", dropped)))
    return _block(_STATISTICS, fixed + _options(counts))


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + length + body + length


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    written = b"".join(struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options)
    return written + struct.pack("=HH", _END, 0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
