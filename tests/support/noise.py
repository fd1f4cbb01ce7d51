"""Hostile datagrams against UDP 500 and 4500, run as a process of its own on the attacker's machine.

    noise.py TARGET COUNT RATE SEED HEX_SPI...      prints how many it sent

Random octets, truncated and lying IKE headers, unknown exchanges and payload chains that run past the end, ESP with the
SPIs of a real SA but a wrong ICV, keepalives, empty datagrams. Reproducible from the seed; standard library only.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import time
from collections.abc import Callable


def main() -> None:
    target, count, rate, seed = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    spis = [bytes.fromhex(text) for text in sys.argv[5:]]
    chance = random.Random(seed)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    started = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, started + number / rate - time.monotonic()))
        port, data = _datagram(chance, spis)
        out.sendto(data, (target, port))
    print(count, flush=True)


def _datagram(chance: random.Random, spis: list[bytes]) -> tuple[int, bytes]:
    make = chance.choice(_KINDS)
    data = make(chance, spis)
    if make is _esp:
        return 4500, data
    if chance.random() < 0.5:
        return 500, data
    return 4500, bytes(4) + data


def _octets(chance: random.Random, _spis: list[bytes]) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 3, 4, 8, 27, 28, 29, 64, 500, 1400)))


def _header(chance: random.Random, spis: list[bytes]) -> bytes:
    """An IKE header whose fields disagree with each other, followed by rubbish."""
    body = chance.randbytes(chance.choice((0, 4, 17, 60, 300)))
    spi_i, spi_r = (_ike_spi(chance, spis) for _ in range(2))
    length = chance.choice((0, 27, 28 + len(body), 28 + len(body) + 1, 0xFFFFFFFF))
    version = chance.choice((0x10, 0x20, 0x20, 0x20, 0x2F, 0x30))
    exchange = chance.choice((0, 34, 35, 36, 37, 43, 44, 255))
    flags = chance.choice((0x00, 0x08, 0x20, 0x28, 0xFF))
    fixed = struct.pack("!BBBBII", chance.randrange(256), version, exchange, flags, chance.randrange(4), length)
    return spi_i + spi_r + fixed + body


def _sa_init(chance: random.Random, _spis: list[bytes]) -> bytes:
    """An IKE_SA_INIT request with a payload chain of random types and lengths."""
    types = [chance.choice((33, 34, 40, 41, 43, 1, 49, 255)) for _ in range(chance.randrange(1, 6))]
    chain = b""
    for _, following in zip(types, [*types[1:], 0], strict=True):
        body = chance.randbytes(chance.randrange(0, 80))
        length = chance.choice((4 + len(body), 4 + len(body), 3, 0, 0xFFFF))
        chain += struct.pack("!BBH", following, chance.choice((0, 0x80)), length) + body
    header = chance.randbytes(8) + bytes(8) + struct.pack("!BBBBII", types[0], 0x20, 34, 0x08, 0, 28 + len(chain))
    return header + chain


def _esp(chance: random.Random, spis: list[bytes]) -> bytes:
    """ESP in UDP with a known SPI when there is one; the ICV is rubbish."""
    four = [spi for spi in spis if len(spi) == 4] or [chance.randbytes(4)]
    return (
        chance.choice(four)
        + struct.pack("!I", chance.randrange(1, 1 << 32))
        + chance.randbytes(chance.randrange(0, 200))
    )


def _keepalive(_chance: random.Random, _spis: list[bytes]) -> bytes:
    return b"\xff"


def _ike_spi(chance: random.Random, spis: list[bytes]) -> bytes:
    eight = [spi for spi in spis if len(spi) == 8]
    return chance.choice([*eight, bytes(8), chance.randbytes(8)])


_KINDS: tuple[Callable[[random.Random, list[bytes]], bytes], ...] = (_octets, _header, _sa_init, _esp, _keepalive)

if __name__ == "__main__":
    main()
