"""Addresses and prefixes of both families, and which prefix lies inside which.

A prefix is hashed some seventy times on its way from an UPDATE to the kernel, and `ipaddress` computes a hash each time. So
those that come from ExaBGP are made by `parse_prefix`: equal to any other of their value, but they know their hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


class _Network4(IPv4Network):
    __slots__ = ("_known_hash",)

    def __init__(self, value: str | tuple[int, int]) -> None:
        super().__init__(value)
        self._known_hash = super().__hash__()

    def __hash__(self) -> int:
        return self._known_hash


class _Network6(IPv6Network):
    __slots__ = ("_known_hash",)

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self._known_hash = super().__hash__()

    def __hash__(self) -> int:
        return self._known_hash


def parse_prefix(text: str) -> Prefix:
    """A prefix without host bits. ValueError: it is none."""
    if ":" in text:
        return _Network6(text)
    host, _, length = text.partition("/")
    octets = host.split(".")
    if len(octets) == 4 and length.isdecimal() and all(octet.isdecimal() and len(octet) < 4 for octet in octets):
        numbers = [int(octet) for octet in octets]
        if max(numbers) < 256:
            a, b, c, d = numbers
            return _Network4((a << 24 | b << 16 | c << 8 | d, int(length)))
    return _Network4(text)


class PrefixSet:
    """Prefixes, for the question whether another lies inside one of them."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._by_family: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for prefix in prefixes:
            networks = self._by_family[prefix.version].setdefault(prefix.prefixlen, set())
            networks.add(int(prefix.network_address) >> (prefix.max_prefixlen - prefix.prefixlen))

    def covers(self, prefix: Prefix) -> bool:
        """Whether `prefix` is one of them or a part of one."""
        length, value, width = prefix.prefixlen, int(prefix.network_address), prefix.max_prefixlen
        return any(
            outer <= length and value >> (width - outer) in networks
            for outer, networks in self._by_family[prefix.version].items()
        )


def inside(prefix: Prefix, outer: Prefix) -> bool:
    """Whether `prefix` is `outer` or a part of it."""
    if prefix.version != outer.version or prefix.prefixlen < outer.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(prefix.network_address) >> shift == int(outer.network_address) >> shift


def pieces(prefix: Prefix, length: int) -> list[Prefix]:
    """Its parts of that length; none where it is not shorter."""
    return list(prefix.subnets(new_prefix=length)) if prefix.prefixlen < length else []
