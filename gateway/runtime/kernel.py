"""The kernel's network state, synchronously: routes and nexthops by raw rtnetlink, links, addresses and rules by pyroute2.

Everything here blocks and belongs to one thread: netlink.py gives it one of its own, cleanup.py uses it directly.
Touches only what is ours: our table and protocol, our rules, devices with our name prefix.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as PyrouteError

from gateway.config.model import Gateway
from gateway.routing.model import Address, Dump, Op, OpError, Prefix, Resolution, RouteKind
from gateway.runtime import tun
from gateway.runtime.rtnetlink import RT_TABLE_MAIN, KernelRoute, NetlinkError, RouteSocket, our_entries
from gateway.runtime.rules import Entries, Rule, difference, rule_of, wanted_rules

# rtm_protocol of routes that mean "this prefix is on this link": kernel, router advertisement, DHCP.
_CONNECTED_ORIGINS = (2, 9, 16)
_IFF_LOWER_UP = 0x10000
_IFA_F_NODAD = 0x02
_IFA_LINK_LOCAL_SCOPE = 253
_IPV6_MINIMUM_MTU = 1280  # RFC 8200 5: below it the kernel takes IPv6 off the device
# IN6_ADDR_GEN_MODE_NONE: else the kernel sends router solicitations from a generated address into the tunnel.
_NO_GENERATED_ADDRESS = {"attrs": [["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]]}


@dataclass(frozen=True, slots=True)
class Device:
    """A leftover candidate: one TUN with our name prefix."""

    index: int
    name: str
    in_use: bool  # some process has its fd open


class Kernel:
    """Thread-bound; close() when done."""

    def __init__(self, settings: Gateway) -> None:
        self._settings = settings
        self._routes = RouteSocket()
        # A loop of its own: pyroute2 cannot run on a uvloop loop.
        self._loop = asyncio.SelectorEventLoop()
        self._ip = IPRoute(use_event_loop=self._loop)
        self.ipv6 = Path("/proc/net/if_inet6").exists()

    @property
    def port(self) -> int:
        """Sender of our route changes in notifications."""
        return self._routes.port

    def close(self) -> None:
        self._ip.close()
        self._routes.close()
        if not self._loop.is_closed():
            self._loop.close()

    def apply(self, ops: Sequence[Op]) -> dict[int, OpError]:
        """All operations in order; errors by position."""
        return self._routes.apply(ops, self._settings.route_table, self._settings.route_protocol)

    def dump(self) -> Dump:
        """Our routes and nexthops, and every nexthop id in use."""
        nexthops = self._routes.nexthops()
        protocol = self._settings.route_protocol
        routes = self._routes.routes(self._settings.route_table, protocol)
        return Dump(tuple(our_entries(routes, nexthops, protocol)), frozenset(nexthop.id for nexthop in nexthops))

    def ensure_rules(self, entries: Entries, remove: bool = True) -> list[str]:
        """Adds what is missing, then (`remove`) takes away rules of ours that are no longer wanted; says what it did."""
        missing, surplus = difference(wanted_rules(self._settings, self.ipv6, entries), self.rules())
        done = []
        for rule in missing:
            self._rule("add", rule)
            done.append(f"added {rule}")
        return done + self.remove_rules(surplus if remove else ())

    def rules(self) -> list[Rule]:
        """The rules with our protocol, last first: a rule that leads into our table goes before its exceptions."""
        found = []
        for family in (socket.AF_INET, socket.AF_INET6) if self.ipv6 else (socket.AF_INET,):
            for message in self._ip.get_rules(family=family):
                if message.get_attr("FRA_PROTOCOL") == self._settings.route_protocol:
                    found.append(rule_of(message))
        return sorted(found, reverse=True)

    def remove_rules(self, rules: Iterable[Rule]) -> list[str]:
        done = []
        for rule in rules:
            self._rule("del", rule)
            done.append(f"removed {rule}")
        return done

    def configure_link(
        self,
        name: str,
        mtu: int,
        addresses: Sequence[ipaddress.IPv4Interface | ipaddress.IPv6Interface],
        up: bool = True,
    ) -> int:
        """MTU, exactly these addresses (link-local apart), up or down; returns the index."""
        index = self._index_or_error(name)
        with _named(f"interface {name}"):
            self._ip.link("set", index=index, mtu=mtu)
            if self.ipv6 and mtu >= _IPV6_MINIMUM_MTU:
                self._ip.link("set", index=index, IFLA_AF_SPEC=_NO_GENERATED_ADDRESS)
            self._addresses(index, frozenset(addresses))
            self._ip.link("set", index=index, state="up" if up else "down")
        return index

    def link_index(self, name: str) -> int | None:
        """None if there is no such device."""
        found = self._ip.link_lookup(ifname=name)
        return int(found[0]) if found else None

    def tuns(self) -> list[Device]:
        """TUN devices with our prefix."""
        return [
            Device(link["index"], link.get_attr("IFLA_IFNAME"), bool(link["flags"] & _IFF_LOWER_UP))
            for link in self._ip.get_links()
            if link.get_attr("IFLA_IFNAME").startswith(tun.PREFIX) and _kind(link) == "tun"
        ]

    def delete_link(self, device: Device) -> None:
        with _named(f"interface {device.name}"):
            self._ip.link("del", index=device.index)

    def connected_prefixes(self) -> list[Prefix]:
        """Prefixes on this host's links, our TUNs and the loopback apart."""
        skip = {
            link["index"]
            for link in self._ip.get_links()
            if link.get_attr("IFLA_IFNAME").startswith(tun.PREFIX) or link.get_attr("IFLA_IFNAME") == "lo"
        }
        found = {route.prefix for route in self._routes.routes(RT_TABLE_MAIN) if _is_connected(route, skip)}
        return sorted(found, key=lambda prefix: (prefix.version, prefix))

    def interface_for(self, next_hop: Address) -> Resolution | None:
        """How the main table reaches `next_hop` (asked with our mark, so never through our own table)."""
        try:
            route = self._routes.route_to(next_hop, self._settings.mark)
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES):
                return None
            raise
        if route.kind != RouteKind.UNICAST or not route.interface or route.multipath:
            return None
        return Resolution(route.gateway or next_hop, route.interface)

    def interfaces_towards(self, addresses: Sequence[Address]) -> list[str]:
        """Names of the devices by which the main table reaches these; those it does not reach are left out."""
        found = [self.interface_for(address) for address in addresses]
        indexes = dict.fromkeys(one.interface for one in found if one is not None)
        return [name for index in indexes for name in [self._name_of(index)] if name]

    def _name_of(self, index: int) -> str:
        try:
            return socket.if_indextoname(index)
        except OSError:
            return ""  # gone since

    def _rule(self, verb: str, rule: Rule) -> None:
        with _named(str(rule)):
            self._ip.rule(verb, **rule.request(), protocol=self._settings.route_protocol)

    def _addresses(self, index: int, wanted: frozenset[ipaddress.IPv4Interface | ipaddress.IPv6Interface]) -> None:
        present = set()
        for message in self._ip.get_addr(index=index):
            if message["family"] == socket.AF_INET6 and message["scope"] == _IFA_LINK_LOCAL_SCOPE:
                continue
            local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            present.add(ipaddress.ip_interface(f"{local}/{message['prefixlen']}"))
        for address in sorted(present - wanted, key=str):
            self._ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for address in sorted(wanted - present, key=str):
            options = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
            self._ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **options)

    def _index_or_error(self, name: str) -> int:
        index = self.link_index(name)
        if index is None:
            raise NetlinkError(errno.ENODEV, f"interface {name} does not exist")
        return index


@contextmanager
def _named(what: str) -> Iterator[None]:
    """pyroute2's error with the object's name, as one of ours."""
    try:
        yield
    except PyrouteError as error:
        raise NetlinkError(error.code, f"{what}: {os.strerror(error.code)}") from error


def _kind(link: Any) -> str:
    information = link.get_attr("IFLA_LINKINFO")
    return str(information.get_attr("IFLA_INFO_KIND")) if information else ""


def _is_connected(route: KernelRoute, skip: set[int]) -> bool:
    on_link = route.interface and route.interface not in skip and route.gateway is None and not route.multipath
    return bool(
        on_link and route.kind == RouteKind.UNICAST and route.prefix.prefixlen and route.protocol in _CONNECTED_ORIGINS
    )
