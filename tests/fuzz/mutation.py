"""Altered octets, reproducibly from a seed: what a fuzzer without coverage does, and what every seeded test here uses."""

from __future__ import annotations

import random

from gateway.ike.message import HEADER_OCTETS

INTERESTING = (
    b"\0",
    b"\1",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\0\0",
    b"\0\4",
    b"\0\x08",
    b"\xff\xff",
    b"\0\0\0\0",
    b"\xff" * 4,
)


def mutated(octets: bytes, chance: random.Random) -> bytes:
    """One to three changes: a bit, an octet, a field, a cut, a repeat, an insertion."""
    data = bytearray(octets)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        at = chance.randrange(len(data))
        match chance.randrange(7):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.randrange(256)
            case 2:
                value = chance.choice(INTERESTING)
                data[at : at + len(value)] = value
            case 3:
                del data[at : at + chance.choice((1, 2, 4, 8, 40))]
            case 4:
                data[at:at] = data[at : at + chance.randrange(1, 64)]
            case 5:
                data[at:at] = chance.randbytes(chance.choice((1, 2, 4, 100)))
            case 6:
                other = chance.randrange(len(data))
                data[at], data[other] = data[other], data[at]
    return bytes(data)


def with_length(octets: bytes) -> bytes:
    """The IKE header's length made true again, so that the mutation gets past it."""
    return octets[:24] + len(octets).to_bytes(4, "big") + octets[28:] if len(octets) >= HEADER_OCTETS else octets
