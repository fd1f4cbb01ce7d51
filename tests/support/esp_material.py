"""Suites, keys, randomness and inner packets for the ESP tests."""

from __future__ import annotations

import ipaddress
import random

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction, Encryption, Integrity, Limits, SaParameters, Selector, Suite
from gateway.esp.packet import HASHES, EspKeys

GCM_SUITES = tuple(
    Suite(encryption, octets, esn=esn)
    for encryption in (Encryption.AES_GCM_16, Encryption.AES_GCM_12, Encryption.AES_GCM_8)
    for octets in (16, 24, 32)
    for esn in (False, True)
)
CHACHA_SUITES = tuple(Suite(Encryption.CHACHA20_POLY1305, 32, esn=esn) for esn in (False, True))
CBC_SUITES = tuple(
    Suite(Encryption.AES_CBC, octets, integrity, esn)
    for octets in (16, 24, 32)
    for integrity in Integrity
    if integrity is not Integrity.NONE
    for esn in (False, True)
)
ALL_SUITES = GCM_SUITES + CHACHA_SUITES + CBC_SUITES


def suite_name(suite: Suite) -> str:
    return f"{suite.encryption.value}-{suite.key_octets * 8}-{suite.integrity.value}{'-esn' if suite.esn else ''}"


class SeededRandom:
    """A RandomSource that repeats itself."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def octets(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


def keys_for(suite: Suite, seed: int = 1) -> EspKeys:
    source = SeededRandom(seed)
    aead = suite.encryption.aead
    digest = 0 if aead else HASHES[suite.integrity]().digest_size
    return EspKeys(suite, source.octets(suite.key_octets + (4 if aead else 0)), source.octets(digest))


def udp4(source: str, destination: str, payload: bytes = b"data", ports: tuple[int, int] = (1000, 2000)) -> bytes:
    """An IPv4 UDP packet; its checksums are zero."""
    length = 28 + len(payload)
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    header = b"\x45\x00" + length.to_bytes(2, "big") + b"\x00\x01\x40\x00\x40\x11\x00\x00" + addresses
    udp = b"".join(number.to_bytes(2, "big") for number in (*ports, 8 + len(payload), 0))
    return header + udp + payload


def udp6(source: str, destination: str, payload: bytes = b"data", ports: tuple[int, int] = (1000, 2000)) -> bytes:
    """An IPv6 UDP packet; its checksum is zero."""
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    udp = b"".join(number.to_bytes(2, "big") for number in (*ports, 8 + len(payload), 0))
    return b"\x60\x00\x00\x00" + (8 + len(payload)).to_bytes(2, "big") + b"\x11\x40" + addresses + udp + payload


def selector(local: str, remote: str, protocol: int = 0, remote_ports: tuple[int, int] = (0, 65535)) -> Selector:
    here, there = ipaddress.ip_network(local), ipaddress.ip_network(remote)
    return Selector(
        protocol,
        here.network_address.packed,
        here.broadcast_address.packed,
        0,
        65535,
        there.network_address.packed,
        there.broadcast_address.packed,
        *remote_ports,
    )


HERE = Endpoint("192.0.2.1", 4500)
THERE = Endpoint("198.51.100.1", 4500)
UNLIMITED = Limits()


def sa_parameters(
    direction: Direction,
    spi: int,
    suite: Suite,
    *,
    connection: int = 1,
    selectors: tuple[Selector, ...] = (),
    local: Endpoint = HERE,
    remote: Endpoint = THERE,
    encapsulate: bool = True,
    replay_window: int = 64,
    limits: Limits = UNLIMITED,
    seed: int = 1,
) -> SaParameters:
    keys = keys_for(suite, seed)
    return SaParameters(
        direction=direction,
        spi=spi,
        connection=connection,
        suite=suite,
        encryption_key=keys.encryption_key,
        integrity_key=keys.integrity_key,
        local=local,
        remote=remote,
        selectors=selectors or (selector("10.0.0.0/16", "10.1.0.0/16"), selector("fd00::/64", "fd01::/64")),
        encapsulate=encapsulate,
        replay_window=replay_window,
        limits=limits,
    )
