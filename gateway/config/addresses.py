"""Addresses, prefixes and interface addresses as configuration values, with messages for people.

Not pydantic's own IP types: those try both families and report twice, accept integers, and do not say
what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface


def parse_address(value: object) -> Address:
    """An IPv4 or IPv6 address."""
    if isinstance(value, IPv4Interface | IPv6Interface):
        raise ValueError(f"'{value}' has a prefix length; an address is expected here")
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    text = _text(value, 'an address such as "192.0.2.1"')
    try:
        return ip_address(text)
    except ValueError:
        pass
    if "/" in text:
        raise ValueError(f"'{text}' has a prefix length; write the address alone: \"{text.split('/')[0]}\"")
    raise ValueError(f"'{text}' is not an IPv4 or IPv6 address (names are not looked up)")


def parse_ipv4_address(value: object) -> IPv4Address:
    """An IPv4 address; BGP identifiers have no other form."""
    address = parse_address(value)
    if not isinstance(address, IPv4Address):
        raise ValueError(f"'{address}' is an IPv6 address; an IPv4 address is expected here")
    return address


def parse_prefix(value: object) -> Prefix:
    """An IPv4 or IPv6 prefix without host bits; a bare address is its own /32 or /128."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    text = _text(value, 'a prefix such as "10.1.0.0/16"')
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'\'{text}\' is not a prefix; write it as "10.1.0.0/16" or "2001:db8::/32"') from None
    raise ValueError(f"'{text}' has host bits set; did you mean '{loose}'?")


def parse_interface(value: object) -> Interface:
    """An address of our own with the length of its prefix."""
    if isinstance(value, IPv4Interface | IPv6Interface):
        return value
    text = _text(value, 'an address with its prefix length such as "169.254.21.1/30"')
    try:
        interface = ip_interface(text)
    except ValueError:
        raise ValueError(f"'{text}' is not an address with a prefix length; write it as \"169.254.21.1/30\"") from None
    if "/" not in text:
        raise ValueError(
            f"'{text}' lacks its prefix length; write it as \"{text}/{'30' if interface.version == 4 else '126'}\""
        )
    net = interface.network
    if (
        isinstance(net, IPv4Network)
        and net.prefixlen < 31
        and interface.ip in (net.network_address, net.broadcast_address)
    ):
        kind = "network" if interface.ip == net.network_address else "broadcast"
        raise ValueError(f"'{text}' is the {kind} address of {net}; use a host address of it")
    return interface


def _text(value: object, expected: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected {expected}")
    return value


def _field(parse: Callable[[object], object], form: str) -> tuple[PlainValidator, WithJsonSchema]:
    return PlainValidator(parse), WithJsonSchema({"type": "string", "format": form})


AddressField = Annotated[Address, *_field(parse_address, "ip-address")]
Ipv4AddressField = Annotated[IPv4Address, *_field(parse_ipv4_address, "ipv4")]
PrefixField = Annotated[Prefix, *_field(parse_prefix, "ip-prefix")]
InterfaceField = Annotated[Interface, *_field(parse_interface, "ip-interface")]
