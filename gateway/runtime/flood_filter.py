"""IKE_SA_INITs of strangers that the kernel drops, while more of them come than are read.

A peer is known by its address, so a stranger's request can only be refused, and that costs a few microseconds each: a
flood of them takes the place of the peers' own in the socket's buffer. A filter on the socket refuses them where they
arrive. Not always there: a stranger's request is counted and shown, which is how a wrong `remote_addrs` is found.
It judges only requests for a new IKE_SA; all else passes. The core judges again what passes.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection, Iterable

from gateway.ike.registry import ExchangeType, Flags

PROGRAM_MAX = 4096
"""Instructions that a classic BPF program may have, bpf(2)."""
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_INSTRUCTION, _PROGRAM = struct.Struct("=HBBI"), struct.Struct("@HP")  # sock_filter, sock_fprog
_LOAD_WORD, _LOAD_OCTET, _LOAD_LENGTH = 0x20, 0x30, 0x80
_XOR_X, _TO_X = 0xAC, 0x07
_JUMP, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x05, 0x15, 0x35, 0x45, 0x06
_ACCEPT, _DROP = 0x40000, 0
_NETWORK = 0x100000000 - 0x100000  # SKF_NET_OFF: loads count from the IP header
_IPV4_SOURCE, _IPV6_SOURCE = 12, 8
_UDP_HEADER, _MARKER, _IKE_HEADER = 8, 4, 28
_LEAF = 16

Instruction = tuple[int, int, int, int]  # code, jt, jf, k


def program(known: Iterable[str], encapsulated: bool) -> list[Instruction] | None:
    """For a UDP socket with these peers, all of one family; with `encapsulated` what has no non-ESP marker passes. None: they
    are too many."""
    peers = sorted(known)
    keys = sorted({_key(peer) for peer in peers})
    search = _search(keys)
    source = _ipv6_source() if any(":" in peer for peer in peers) else [(_LOAD_WORD, 0, 0, _NETWORK + _IPV4_SOURCE)]
    made = [*_asks_for_ike_sa(encapsulated), *source, *search]
    return made if len(made) <= PROGRAM_MAX else None


def attach(sockets: Collection[socket.socket], code: list[Instruction]) -> None:
    octets = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in code))
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(code), ctypes.addressof(octets)))


def detach(sockets: Collection[socket.socket]) -> None:
    """Also where there is none."""
    for one in sockets:
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise


def _key(address: str) -> int:
    """What is compared: an IPv4 address, or the four words of an IPv6 address in one. Two that share it both pass."""
    if ":" not in address:
        return int.from_bytes(socket.inet_aton(address), "big")
    first, second, third, fourth = struct.unpack("!4I", socket.inet_pton(socket.AF_INET6, address))
    folded: int = first ^ second ^ third ^ fourth
    return folded


def _asks_for_ike_sa(encapsulated: bool) -> list[Instruction]:
    """Lets everything else pass. The data begins with the UDP header."""
    header = _UDP_HEADER + (_MARKER if encapsulated else 0)
    accept: Instruction = (_RETURN, 0, 0, _ACCEPT)
    # What is shorter must not be read there: a load past the end drops
    made: list[Instruction] = [(_LOAD_LENGTH, 0, 0, 0), (_AT_LEAST, 1, 0, header + _IKE_HEADER), accept]
    if encapsulated:
        # RFC 3948 2.2: zero where ESP has its SPI
        made += [(_LOAD_WORD, 0, 0, _UDP_HEADER), (_EQUAL, 1, 0, 0), accept]
    made += [(_LOAD_OCTET, 0, 0, header + 18), (_EQUAL, 1, 0, ExchangeType.IKE_SA_INIT), accept]
    made += [(_LOAD_OCTET, 0, 0, header + 19), (_ANY_BIT, 0, 1, Flags.RESPONSE), accept]
    for half in (8, 12):
        made += [(_LOAD_WORD, 0, 0, header + half), (_EQUAL, 1, 0, 0), accept]
    return made


def _ipv6_source() -> list[Instruction]:
    """As `_key`."""
    words = [(_LOAD_WORD, 0, 0, _NETWORK + _IPV6_SOURCE + 4 * index) for index in range(4)]
    made: list[Instruction] = [words[0]]
    for word in words[1:]:
        made += [(_TO_X, 0, 0, 0), word, (_XOR_X, 0, 0, 0)]
    return made


def _search(keys: list[int]) -> list[Instruction]:
    """Accepts what is among them, by halves; each path ends in a return."""
    if len(keys) <= _LEAF:
        found: list[Instruction] = []
        for key in keys:
            found += [(_EQUAL, 0, 1, key), (_RETURN, 0, 0, _ACCEPT)]
        return [*found, (_RETURN, 0, 0, _DROP)]
    middle = len(keys) // 2
    lower, upper = _search(keys[:middle]), _search(keys[middle:])
    return [(_AT_LEAST, 0, 1, keys[middle]), (_JUMP, 0, 0, len(lower)), *lower, *upper]
