"""Addresses and prefixes of both families, and which prefix lies inside which.

Of a table of ten thousand every prefix is hashed and compared some seventy times on its way from an UPDATE to the kernel, and
`ipaddress` computes each time. So those that come from ExaBGP are made by `parse_prefix`: equal to any other of their value,
but they know their hash, and what is said again, by this neighbor or another, is the same object again.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

PREFIXES_REMEMBERED, ADDRESSES_REMEMBERED = 1 << 15, 1 << 10
_OCTETS = {str(number): number for number in range(256)}  # leading zeros are none
_LENGTHS = {str(number): number for number in range(31)}  # `ipaddress` makes host routes and pairs otherwise
_NETMASKS = [IPv4Address(0xFFFFFFFF << 32 - length & 0xFFFFFFFF) for length in range(33)]


class _Network4(IPv4Network):
    __slots__ = ("_known_hash", "prefixlen")

    version = 4
    max_prefixlen = 32
    prefixlen: int
    _prefixlen: int

    def __init__(self, value: str | tuple[int, int]) -> None:
        network = IPv4Network(value)
        vars(self).update(vars(network))
        self.prefixlen = network.prefixlen
        self._known_hash = hash(network)

    @classmethod
    def made(cls, number: int, length: int) -> _Network4:
        """What `IPv4Network((number, length))` is, without host bits, and in a third of the time."""
        self = cls.__new__(cls)
        self.network_address = IPv4Address(number)
        self.netmask = _NETMASKS[length]
        self.prefixlen = self._prefixlen = length
        self._known_hash = hash(number ^ int(self.netmask))
        return self

    def __hash__(self) -> int:
        return self._known_hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Network4):
            # Of one length what is hashed is the address
            return self._known_hash == other._known_hash and self.prefixlen == other.prefixlen
        return super().__eq__(other)


class _Address4(IPv4Address):
    __slots__ = ("_known_hash",)

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self._known_hash = super().__hash__()

    def __hash__(self) -> int:
        return self._known_hash


class _Network6(IPv6Network):
    __slots__ = ("_known_hash",)

    version = 6
    max_prefixlen = 128

    def __init__(self, value: str) -> None:
        super().__init__(value)
        self._known_hash = super().__hash__()

    def __hash__(self) -> int:
        return self._known_hash


@lru_cache(ADDRESSES_REMEMBERED)
def parse_address(text: str) -> Address:
    """ValueError: it is none. Next hops are few, and said with every prefix."""
    return ip_address(text) if ":" in text else _Address4(text)


@lru_cache(PREFIXES_REMEMBERED)
def parse_prefix(text: str) -> Prefix:
    """A prefix without host bits. ValueError: it is none."""
    if ":" in text:
        return _Network6(text)
    host, _, length = text.partition("/")
    try:
        bits, (a, b, c, d) = _LENGTHS[length], [_OCTETS[octet] for octet in host.split(".")]
    except (KeyError, ValueError):
        return _Network4(text)
    number = a << 24 | b << 16 | c << 8 | d
    return _Network4(text) if number & (0xFFFFFFFF >> bits) else _Network4.made(number, bits)


def swift(prefix: Prefix) -> Prefix:
    """The same one as `parse_prefix` would have made it."""
    if prefix.__class__ is not IPv4Network or prefix.prefixlen not in _LENGTHS.values():
        return prefix if isinstance(prefix, _Network4 | _Network6) else parse_prefix(str(prefix))
    return _Network4.made(int(prefix.network_address), prefix.prefixlen)


class PrefixSet:
    """Prefixes, for the question whether another lies inside one of them."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        found: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for prefix in prefixes:
            networks = found[prefix.version].setdefault(prefix.prefixlen, set())
            networks.add(int(prefix.network_address) >> (prefix.max_prefixlen - prefix.prefixlen))
        # By family: length, the bits beyond it, the networks
        self._by_family = {
            version: tuple((length, width - length, networks) for length, networks in sorted(found[version].items()))
            for version, width in ((4, 32), (6, 128))
        }

    def covers(self, prefix: Prefix) -> bool:
        """Whether `prefix` is one of them or a part of one."""
        lengths = self._by_family[prefix.version]
        if lengths:
            own, number = prefix.prefixlen, int(prefix.network_address)
            for length, beyond, networks in lengths:
                if length > own:
                    break
                if number >> beyond in networks:
                    return True
        return False


def inside(prefix: Prefix, outer: Prefix) -> bool:
    """Whether `prefix` is `outer` or a part of it."""
    if prefix.version != outer.version or prefix.prefixlen < outer.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(prefix.network_address) >> shift == int(outer.network_address) >> shift


def pieces(prefix: Prefix, length: int) -> list[Prefix]:
    """Its parts of that length; none where it is not shorter."""
    return list(prefix.subnets(new_prefix=length)) if prefix.prefixlen < length else []
