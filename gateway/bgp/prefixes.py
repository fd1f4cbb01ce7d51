"""Addresses and prefixes of both families, and which prefix lies inside which."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


def inside(prefix: Prefix, outer: Prefix) -> bool:
    """Whether `prefix` is `outer` or a part of it."""
    if prefix.version != outer.version or prefix.prefixlen < outer.prefixlen:
        return False
    shift = outer.max_prefixlen - outer.prefixlen
    return int(prefix.network_address) >> shift == int(outer.network_address) >> shift


def inside_any(prefix: Prefix, outer: Iterable[Prefix]) -> bool:
    return any(inside(prefix, one) for one in outer)


def pieces(prefix: Prefix, length: int) -> list[Prefix]:
    """Its parts of that length; none where it is not shorter."""
    return list(prefix.subnets(new_prefix=length)) if prefix.prefixlen < length else []
